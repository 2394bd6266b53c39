"""``genbench evaluate``: runs by pattern, folder and checkpoint, on their own data or others; mistakes in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_runs import RUN, lines, raising, rows_of, the_run, trained_files

from bench.checkpoint import load_checkpoint, save_checkpoint
from bench.cli.main import main
from bench.errors import UserError
from bench.rows.store import read_rows
from bench.runs.evaluate import _as_trained
from bench.runs.folder import RunFolder


def test_an_evaluation_that_is_stopped_loses_no_row(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*RUN, "metric=[likelihood]"]) == 0
    folder = the_run(workplace)
    before, trained = rows_of(folder), trained_files(folder)
    for stopped in (KeyboardInterrupt, UserError("no more")):
        with monkeypatch.context() as patch:
            patch.setattr("bench.runs.evaluate.measure_checkpoint", raising(stopped))
            assert main(["evaluate", str(folder), "metric=[modes]"]) in (2, 130)
    with monkeypatch.context() as patch:  # killed right after the rows were added
        patch.setattr(RunFolder, "end", lambda *_: None)
        assert main(["evaluate", str(folder), "metric=[birthday]"]) == 0
    monkeypatch.setattr("bench.metrics.likelihood.LogLikelihood.compute", lambda *_: pytest.fail("measured again"))
    assert main([*RUN, "metric=[likelihood,birthday]"]) == 0
    assert before == [row for row in rows_of(folder) if row.metric in {old.metric for old in before}]
    assert trained_files(folder) == trained


def test_runs_are_measured_by_pattern_by_folder_and_by_checkpoint(workplace: Path) -> None:
    sweep = ["run", "-m", *RUN[1:], "seed=0,1", "metric=[likelihood]"]
    assert main(sweep) == 0
    runs = sorted(path for path in (workplace / "runs" / "two_moons").iterdir() if path.is_dir())
    assert main(["evaluate", "runs/two_moons/*", "metric=[modes]"]) == 0
    assert all("modes" in {row.metric for row in rows_of(run)} for run in runs)
    assert main(["evaluate", "runs/two_moons", "metric=[birthday]", "evaluate.n_samples=70", "out=asked.jsonl"]) == 0
    asked = read_rows(workplace / "asked.jsonl")
    assert {(row.metric, row.n_fake, row.seed) for row in asked} == {
        ("support[pixels]", 70, 0),
        ("support[pixels]", 70, 1),
    }
    assert main(["evaluate", str(runs[0] / "final.ckpt"), "metric=[likelihood]"]) == 0
    assert {row.checkpoint for row in rows_of(runs[0])} == {"best", "final"}
    assert {row.checkpoint for row in rows_of(runs[1])} == {"best"}
    assert len(lines(workplace)) == 1, "two seeds of one line"
    assert main(sweep) == 0, "and nothing is missing to the sweep"


def test_a_checkpoint_alone_keeps_its_rows_beside_the_others(workplace: Path) -> None:
    assert main([*RUN, "metric=[likelihood]"]) == 0
    row = rows_of(the_run(workplace))[0]
    shutil.copy(the_run(workplace) / "best.ckpt", workplace / "theirs.ckpt")
    shutil.rmtree(workplace / "runs")
    assert main(["evaluate", "theirs.ckpt", "metric=[likelihood]"]) == 0
    (folder,) = (path.parent for path in workplace.glob("runs/two_moons/*/rows.jsonl"))
    again = rows_of(folder)[0]
    assert (again.value, again.measuring_key) == (row.value, row.measuring_key)
    assert again.training_key != row.training_key, "a file alone is known by its bytes"


def other_weights(source: Path, target: Path) -> None:
    payload = load_checkpoint(source)
    payload["state_dict"] = {key: value + 1 for key, value in payload["state_dict"].items()}
    target.parent.mkdir(exist_ok=True)
    save_checkpoint(target, payload)


@pytest.mark.parametrize("place", ["lone/best.ckpt", "RUN/snapshot.ckpt"])
def test_another_file_of_the_same_configuration_is_measured_itself(place: str, workplace: Path) -> None:
    assert main([*RUN, "metric=[likelihood]"]) == 0
    folder = the_run(workplace)
    rows = (folder / "rows.jsonl").read_bytes()
    file = Path(place.replace("RUN", str(folder)))
    other_weights(folder / "best.ckpt", file)
    for again in ([], ["rerun=true"]):
        assert main(["evaluate", str(file), "metric=[likelihood]", "out=asked.jsonl", *again]) == 0
        (asked,) = [row for row in read_rows(workplace / "asked.jsonl") if row.metric == "log_likelihood"]
        assert asked.value is not None
        assert asked.value < -6, "of the file that was named"
    assert (folder / "rows.jsonl").read_bytes() == rows, "the run's own rows are left alone"
    assert len(lines(workplace)) == 2


def table_file(path: Path, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(200, 3)) * (1 + seed)
    path.write_text("a,b,c\n" + "\n".join(",".join(map(str, row)) for row in values) + "\n")


def test_data_that_changed_are_not_measured_unasked(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table_file(workplace / "t.csv", 0)
    table_file(workplace / "other.csv", 1)
    assert main(["run", "data=csv", "data.path=t.csv", "model=gaussian", *RUN[6:], "metric=[likelihood]"]) == 0
    folder = the_run(workplace)
    evaluate = ["evaluate", str(folder), "metric=[likelihood]"]

    def values() -> set[float | None]:
        return {row.value for row in rows_of(folder, "gaussian") if row.metric == "log_likelihood"}

    assert main([*evaluate, "data.path=other.csv"]) == 0
    assert len(values()) == 2
    table_file(workplace / "other.csv", 2)
    assert main([*evaluate, "data.path=other.csv"]) == 0
    assert len(values()) == 3, "the same path, other bytes: another number"
    table_file(workplace / "t.csv", 3)
    capsys.readouterr()
    assert main([*evaluate, "rerun=true"]) == 2
    assert "was trained on csv-t of revision" in capsys.readouterr().err
    assert len(values()) == 3


def test_data_that_changed_are_measured_anew_beside_a_reference(workplace: Path) -> None:
    for name, seed in (("t.csv", 0), ("other.csv", 1), ("mine.csv", 2)):
        table_file(workplace / name, seed)
    np.save("mine.npy", np.loadtxt("mine.csv", delimiter=",", skiprows=1))
    assert main(["run", "data=csv", "data.path=t.csv", "model=gaussian", *RUN[6:], "metric=[likelihood]"]) == 0
    revisions = set()
    for seed in (1, 3):
        table_file(workplace / "other.csv", seed)
        asked = ["metric=[likelihood]", "data.path=other.csv", "reference=mine.npy", "out=out.jsonl"]
        assert main(["evaluate", str(the_run(workplace)), *asked]) == 0
        revisions |= {row.data_revision for row in read_rows(Path("out.jsonl"))}
    assert len(revisions) == 2, "the same paths, other bytes: another number"


@pytest.mark.parametrize("how", ["diverged", "interrupted"])
def test_what_is_not_trained_to_its_end_is_not_measured(
    how: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "seed=1", "metric=[likelihood]"]) == 0
    good = the_run(workplace)
    bad = [*RUN, "metric=[likelihood]", "name=two_moons"]
    if how == "diverged":
        assert main([*bad, "model=realnvp", "model.couplings=2", "model.optimizer.lr=1e30"]) == 1
    else:
        assert main(bad) == 0
    (folder,) = [path for path in good.parent.iterdir() if path.is_dir() and path != good]
    if how == "interrupted":
        (folder / "trained.json").unlink()
        (folder / "done.json").unlink()
    rows = (folder / "rows.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["evaluate", str(folder), "metric=[modes]"]) == 2
    assert "is not trained to its end" in capsys.readouterr().err
    assert main(["evaluate", "runs/two_moons/*", "metric=[modes]"]) == 1, "the others are measured all the same"
    assert "is not trained to its end" in capsys.readouterr().err
    assert "modes" in {row.metric for row in rows_of(good)}
    assert (folder / "rows.jsonl").read_bytes() == rows


@pytest.mark.parametrize("file", [".lock", "run.log"])
def test_a_link_in_a_strangers_folder_is_not_followed(file: str, workplace: Path) -> None:
    assert main([*RUN, "metric=[cost]"]) == 0
    folder = the_run(workplace)
    (workplace / "precious.txt").write_text("precious")
    (folder / file).unlink()
    (folder / file).symlink_to(workplace / "precious.txt")
    assert main(["evaluate", str(folder), "metric=[likelihood]"]) == 2
    assert (workplace / "precious.txt").read_text() == "precious"


def test_leaderboards_go_where_the_user_says_and_not_where_a_file_does(workplace: Path) -> None:
    assert main([*RUN, "metric=[cost]", f"results_dir={workplace / 'of_the_file'}"]) == 0
    shutil.rmtree(workplace / "of_the_file")
    assert main(["evaluate", str(the_run(workplace)), "metric=[likelihood]", "results_dir=mine"]) == 0
    assert (workplace / "mine" / "leaderboard" / "two_moons.csv").exists()
    assert not (workplace / "of_the_file").exists()


def test_without_metrics_those_of_the_run_are_meant_with_their_settings(workplace: Path) -> None:
    assert main([*RUN, "metric=[fid]", "metric.fid.features=pixels", "metric.fid.n_samples=50"]) == 0
    folder = the_run(workplace)
    before = (folder / "rows.jsonl").read_bytes()
    assert main(["evaluate", str(folder)]) == 0
    assert (folder / "rows.jsonl").read_bytes() == before
    assert main(["evaluate", str(folder), "evaluate.n_samples=40"]) == 0
    assert {(row.metric, row.n_fake) for row in rows_of(folder)} == {("fid[pixels]", 50), ("fid[pixels]", 40)}


def test_a_setting_inside_another_is_the_users_too() -> None:
    stored = {"fid": {"features": {"weights": "old.pt"}, "n_samples": 50}}
    composed = {"fid": {"features": {"weights": "new.pt"}, "n_samples": 9}}
    asked = frozenset({"metric.fid.features.weights"})
    assert _as_trained(stored, composed, asked) == {"fid": {"features": {"weights": "new.pt"}, "n_samples": 50}}
    assert _as_trained(stored, composed, frozenset()) == stored


def test_data_can_be_given_a_new_place(workplace: Path) -> None:
    values = np.random.default_rng(0).normal(size=(200, 3))
    (workplace / "mine.csv").write_text("a,b,c\n" + "\n".join(",".join(map(str, row)) for row in values) + "\n")
    command = ["run", "data=csv", "data.path=mine.csv", "model=gaussian", *RUN[6:], "metric=[likelihood]"]
    assert main(command) == 0
    folder = the_run(workplace)
    assert json.loads((folder / "config.json").read_text())["data"]["path"] == str(workplace / "mine.csv")
    before = rows_of(folder, "gaussian")[0]
    (workplace / "other").mkdir()
    (workplace / "mine.csv").rename(workplace / "other" / "moved.csv")
    evaluate = ["evaluate", str(folder), "metric=[likelihood]", "rerun=true"]
    assert main([*evaluate, "data.path=other/moved.csv"]) == 0
    again = rows_of(folder, "gaussian")
    assert [row.value for row in again if row.metric == "log_likelihood"] == [before.value], (
        "the same bytes, the same key"
    )
    assert main(evaluate) == 2, "they are not where they were"


@pytest.mark.parametrize("lacking", ["rerun", "logger", "results_dir", "probe", "choices.trainer"])
def test_a_checkpoint_of_another_version_is_measured(lacking: str, workplace: Path) -> None:
    """A key that the file lacks takes its default, and one that this version does not know is passed over."""
    assert main([*RUN, "metric=[likelihood]"]) == 0
    payload = load_checkpoint(the_run(workplace) / "best.ckpt")
    config = json.loads(payload["config"])
    group, _, key = lacking.partition(".")
    (config[group] if key else config).pop(key or group)
    config["of_a_later_version"] = {"x": 1}
    payload["progress"]["of_a_later_version"] = 1
    save_checkpoint(workplace / "old.ckpt", payload | {"config": json.dumps(config)})
    assert main(["evaluate", "old.ckpt", "metric=[likelihood]", "runs_dir=fresh"]) == 0
    (rows,) = workplace.glob("fresh/*/*/rows.jsonl")
    value = {row.value for row in read_rows(rows) if row.model == "linear" and row.metric == "log_likelihood"}
    assert value == {rows_of(the_run(workplace))[0].value}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "nothing/*"], "nothing/*: nothing matches; give the folder of a run"),
        (["evaluate", "nothing"], "nothing: no such file or folder"),
        (["evaluate", "."], ".: is no run and holds none"),
        (["evaluate", "RUN", "train.examples=3"], "train.examples: a run is measured as it was trained"),
        (["evaluate", "RUN", "model=vae"], "model: a run is measured as it was trained"),
        (["evaluate", "RUN", "data=mnist5k"], "data: a run is measured as it was trained"),
        (["evaluate", "RUN", "metric=[fidd]"], "metric 'fidd': no such metric; nearest: fid"),
        (["evaluate", "RUN", "metric=[../../x]"], "no such metric"),
        (["evaluate", "RUN", "metric=[fid]", "metric.fid.features=pixls"], "no such features; nearest: pixels"),
        (["evaluate", "RUN", "metric=[fid]", "metric.fid.features=../../model/vae"], "no such features"),
        (
            ["evaluate", "RUN", "metric=[fid]", "metric.fid.features=own"],
            "name has no default; write a file of your own",
        ),
        (["evaluate", "RUN", "evaluate.n_samples=many"], "evaluate.n_samples"),
        (["evaluate", "RUN", "data.pth=x"], "data.pth: bench.data.toy.two_moons takes no such argument"),
        (["evaluate", "RUN", "samples=x.npz"], "either runs or samples=... can be measured"),
        (["evaluate", "RUN", "out=nowhere/x.jsonl"], "out=nowhere/x.jsonl: there is no folder nowhere"),
        (["evaluate", "--drawz", "3"], "evaluate --drawz: no such option"),
        (["evaluate", "samples=x.npz"], "samples: name the data that they are samples of, as in data=mnist5k"),
        (["evaluate", "samples=x.npz", "data=two_moons", "label=a/b"], "label='a/b': the name of a folder"),
        (["evaluate", "samples=x.npz", "data=two_moons"], "x.npz: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_measures_nothing(
    arguments: list[str], said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "metric=[likelihood]"]) == 0
    folder = the_run(workplace)
    rows = (folder / "rows.jsonl").read_bytes()
    capsys.readouterr()
    assert main([str(folder) if text == "RUN" else text for text in arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    complaint = [line for line in printed.err.splitlines() if not line.endswith(": starts")]
    assert len(complaint) == 1
    assert (folder / "rows.jsonl").read_bytes() == rows
