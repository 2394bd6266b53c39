"""Data of the user's own bear their own name: in folders, in tables, and apart from each other."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.cli.main import main
from bench.config.compose import compose_evaluation, compose_runs
from bench.config.spec import RunSpec, called
from bench.data.base import titled
from bench.errors import UserError
from bench.titles import is_title, title_of

RUN = ["model=gaussian", "metric=[likelihood]"]


def table(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.random.default_rng(seed).normal(size=(60, 2))
    path.write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in rows))
    return path


def spec_of(*overrides: str) -> RunSpec:
    (config,) = compose_runs(["data=csv", *RUN, *overrides])
    return RunSpec.parse(config)


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/x/wine.csv", "wine"),
        ("/x/winequality-red.csv", "winequality_red"),
        ("/x/Rosé, Größe (2).csv", "Rose_Gro_e_2"),
        ("/x/two\nlines\x1b[31m.txt", "two_lines_31m"),
        ("/x/.hidden.csv", "hidden"),
        ("/x/photos/../flowers/", "flowers"),
        ("/x/" + "a" * 300 + ".csv", "a" * 60),
        ("/x/${oc.env:HOME}.csv", "oc.env_HOME"),
    ],
)
def test_a_title_is_the_name_of_the_file(path: str, title: str) -> None:
    assert title_of(path) == title
    assert is_title(title)


def test_a_folder_keeps_what_follows_its_dot_and_other_scripts_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "photos.v2").mkdir()
    assert title_of(str(tmp_path / "photos.v2")) == "photos.v2"
    titles = {title_of(path) for path in ("/x/葡萄酒.csv", "/x/花.csv", "/", "/x/---.csv", "/x/\udcff.csv")}
    assert len(titles) == 5
    assert all(is_title(title) for title in titles)


@pytest.mark.parametrize("title", ["", ".", "..", ".x", "a/b", "../x", "a b", "a" * 61, "a\n", None, 3])
def test_no_other_title_reaches_a_path(title: object) -> None:
    assert not is_title(title)
    assert called({"title": title}, {"data": "group/csv"}) == "group-csv"
    if title is not None:
        with pytest.raises(UserError, match="only letters, digits, _ and"):
            titled("csv", title)  # type: ignore[arg-type]


def test_the_run_goes_by_the_title_and_by_what_the_user_says(workplace: Path) -> None:
    table(workplace / "wine.csv")
    plain = spec_of("data.path=wine.csv")
    assert (plain.name, plain.data["title"]) == ("wine", "wine")
    assert plain.run_id.startswith("wine-gaussian-s0-")
    assert plain.folder.parent.name == "wine"
    assert spec_of("data.path=wine.csv", "data.title=reds").name == "reds"
    assert spec_of("data.path=wine.csv", "data.title=2024").name == "2024"
    named = spec_of("data.path=wine.csv", "data.title=reds", "name=mine")
    assert (named.name, named.data["title"]) == ("mine", "reds")
    (shipped,) = compose_runs(["data=two_moons", *RUN])
    assert (shipped["name"], RunSpec.parse(shipped).run_id[:19]) == ("two_moons", "two_moons-gaussian-")
    evaluated = compose_evaluation(["data=csv", "data.path=wine.csv", "samples=x.npy"], [])
    assert evaluated["name"] == "wine"


def test_two_files_are_two_trainings(workplace: Path) -> None:
    for path in ("wine.csv", "beer.csv", "a/wine.csv"):
        table(workplace / path)
    specs = [spec_of(f"data.path={path}") for path in ("wine.csv", "beer.csv", "a/wine.csv")]
    assert len({spec.training_key for spec in specs}) == 3
    assert len({spec.folder for spec in specs}) == 3


def test_a_sweep_over_two_files_leaves_two_tables(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(workplace / "wine.csv", 0)
    table(workplace / "beer.csv", 1)
    assert main(["run", "-m", "data=csv", "data.path=wine.csv,beer.csv", *RUN]) == 0
    printed = capsys.readouterr()
    for name, other in (("wine", "beer"), ("beer", "wine")):
        rows = [json.loads(line) for line in (workplace / f"results/rows/{name}.jsonl").read_text().splitlines()]
        assert {row["dataset"] for row in rows} == {f"csv-{name}"}
        text = (workplace / f"results/leaderboard/{name}.md").read_text()
        assert f"csv-{name}" in text
        assert other not in text
        assert f"csv-{name}" in printed.out
    assert sorted(path.name for path in (workplace / "runs").iterdir() if path.is_dir()) == ["beer", "wine"]


def test_a_folder_of_pictures_goes_by_its_name(workplace: Path) -> None:
    (workplace / "flowers").mkdir()
    for k in range(20):
        pixels = np.random.default_rng(k).integers(0, 256, (4, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(workplace / f"flowers/{k}.png")
    assert main(["run", "data=image_folder", "data.path=flowers", *RUN]) == 0
    assert (workplace / "results/leaderboard/flowers.md").exists()
    rows = [json.loads(line) for line in (workplace / "results/rows/flowers.jsonl").read_text().splitlines()]
    assert {row["dataset"] for row in rows} == {"image_folder-flowers"}


def test_a_title_in_a_strangers_configuration_leads_nowhere(workplace: Path) -> None:
    table(workplace / "wine.csv")
    (config,) = compose_runs(["data=csv", "data.path=wine.csv", *RUN])
    for title in ("../../x", "/tmp/x", "..", "a" * 4_000):
        spec = RunSpec.parse({**config, "data": {**config["data"], "title": title}})
        assert spec.run_id.startswith("csv-gaussian-s0-")
        assert spec.folder.parent == spec.runs_dir / "wine"
