"""What the documents say works as they say it."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from contract import EVERY_SPACE, Candidate, check_codes, check_gradients, check_mass, check_spaces

from bench.cli.main import main
from bench.cli.new import FAMILIES
from bench.rows.store import read_rows
from bench.tables.aggregate import make_table
from bench.tables.as_csv import to_csv
from bench.tables.latex import to_latex
from bench.tables.markdown import to_markdown

ROOT = Path(__file__).resolve().parent.parent


def blocks(language: str) -> list[str]:
    """The guide's code."""
    guide = (ROOT / "docs" / "adding.md").read_text()
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", guide, re.DOTALL)
    return found


def test_the_module_that_the_guide_wraps_runs_from_outside_the_repository(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, code = blocks("python")
    (yaml,) = blocks("yaml")
    yaml = yaml.replace("models.flows.pictures.Pictures", "their_package.flows.Theirs")
    package = workplace / "their_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "flows.py").write_text(code)
    configs = package / "conf" / "model"
    configs.mkdir(parents=True)
    (configs / "theirs.yaml").write_text(
        re.sub(r"^(layers|channels|blocks|# test|# refuses):.*\n", "", yaml, flags=re.M)
    )
    monkeypatch.syspath_prepend(str(workplace))
    command = [
        "run", "hydra.searchpath=[file://their_package/conf]", "model=theirs", "data=two_moons",
        "train.examples=3200", "train.validate_every=1600", "metric=[likelihood,cost]", "evaluate.n_samples=16",
    ]  # fmt: skip
    assert main(command) == 2, "not without trust"
    assert "trust=[their_package]" in capsys.readouterr().err
    assert main([*command, "trust=[their_package]"]) == 0
    rows = read_rows(workplace / "results" / "rows" / "two_moons.jsonl")
    (ours,) = [row for row in rows if row.model == "theirs" and row.metric == "log_likelihood"]
    (oracle,) = [row for row in rows if row.model == "oracle" and row.metric == "log_likelihood"]
    assert ours.relation == "exact"
    assert ours.value is not None
    assert oracle.value is not None
    assert ours.value < oracle.value + 3 * (ours.stderr or 0), "no model beats the density itself"
    candidate = Candidate("theirs", package / "conf", ("their_package",))
    check_spaces(candidate)
    for check in (check_gradients, check_codes):
        folder = workplace / check.__name__
        folder.mkdir()
        check(candidate, "colour", folder)
    (workplace / "mass").mkdir()
    check_mass(candidate, "two integers", workplace / "mass")


def test_the_model_in_the_guide_passes_the_test_that_the_guide_names(tmp_path: Path) -> None:
    for part in ("bench", "models", "conf", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    guide = (ROOT / "docs" / "adding.md").read_text()
    (tmp_path / "models" / "flows" / "pictures.py").write_text(blocks("python")[0])
    (tmp_path / "conf" / "model" / "pictures.yaml").write_text(blocks("yaml")[0])
    command = re.search(r"python -m (pytest tests/test_contract_models\.py -k pictures)", guide)
    assert command is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", *command[1].split(), "-n", "0"], cwd=tmp_path, capture_output=True, text=True,
        env={**environment, "PYTHONPATH": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r"\b1\d passed, \d+ deselected", done.stdout), done.stdout[-300:]


def test_the_guide_names_every_kind_of_data_and_every_family() -> None:
    guide = (ROOT / "docs" / "adding.md").read_text()
    (kinds,) = re.findall(r"The kinds are\n(.*?)\.\n", guide, re.DOTALL)
    assert re.findall(r"`(.*?)`", kinds) == list(EVERY_SPACE)
    (families,) = re.findall(r"`--family` gives another beginning: (.*?)\. Each", guide, re.DOTALL)
    assert sorted(re.findall(r"`(.*?)`", families)) == FAMILIES
    for file in set(re.findall(r"`((?:bench|models)/[\w/]+\.py)`", guide)) - {"models/flows/pictures.py"}:
        assert (ROOT / file).is_file(), file


def test_the_examples_for_notebooks(workplace: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "notebooks.md").read_text(), re.DOTALL)
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "notebooks.md", None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    runner.run(examples, out=said.append)
    assert runner.tries >= 20
    assert runner.failures == 0, "".join(said)


def test_committed_leaderboards_are_made_from_the_committed_rows() -> None:
    files = sorted((ROOT / "results" / "rows").glob("*.jsonl"))
    assert files
    for file in files:
        table = make_table(read_rows(file))
        board = ROOT / "results" / "leaderboard" / file.stem
        assert board.with_suffix(".csv").read_bytes().decode() == to_csv(table)
        assert board.with_suffix(".md").read_text() == to_markdown(table)
        assert board.with_suffix(".tex").read_text() == to_latex(table)


def test_the_committed_lottery_panel_is_made_from_the_committed_rows(tmp_path: Path) -> None:
    out = tmp_path / "lottery.csv"
    assert main(["lottery", str(ROOT / "results" / "rows" / "lottery.jsonl"), "--out", str(out)]) == 0
    made, committed = (pd.read_csv(file) for file in (out, ROOT / "results" / "benchmarks" / "lottery.csv"))
    pd.testing.assert_frame_equal(made, committed, rtol=1e-9)


def test_the_readme_shows_the_committed_leaderboard() -> None:
    """Its numbers are those of the leaderboard, cell by cell."""
    readme = (ROOT / "README.md").read_text()
    board = (ROOT / "results" / "leaderboard" / "quickstart.md").read_text()

    def cells(text: str) -> dict[str, list[str]]:
        lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
        return {line[0]: line[1:] for line in lines[2:]}

    shown, stored = cells(readme), cells(board)
    assert shown.keys() == stored.keys()
    for model, values in shown.items():
        assert set(values) <= set(stored[model]), f"{model}: the README shows what the leaderboard does not"


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
