"""Training and measuring are two things: what is measured later trains nothing and stands in the same line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.checkpoint import load_checkpoint, save_checkpoint
from bench.cli.main import main
from bench.config.compose import compose_runs
from bench.config.spec import Measurement, RunSpec
from bench.errors import UserError
from bench.rows.store import read_rows
from bench.runs.folder import Ended, RunFolder
from bench.schema import ResultRow, Source, Status

RUN = ["run", "model=linear", "data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64",
       "train.examples=640", "train.batch_size=32", "train.validate_every=320", "evaluate.n_samples=60"]  # fmt: skip


def the_run(workplace: Path) -> Path:
    (folder,) = [path.parent for path in workplace.glob("runs/*/*/config.json")]
    return folder


def rows_of(folder: Path, model: str = "linear") -> list[ResultRow]:
    return [row for row in read_rows(folder / "rows.jsonl") if row.model == model]


def trained_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.ckpt")} | {
        "trained.json": (folder / "trained.json").read_bytes()
    }


def lines(workplace: Path, model: str = "linear") -> list[str]:
    text = (workplace / "results" / "leaderboard" / "two_moons.md").read_text()
    return [line for line in text.splitlines() if line.startswith(f"| {model}")]


@pytest.mark.parametrize(
    ("later", "new"),
    [
        (["metric=[likelihood,cost,birthday]"], "support[pixels]"),
        (["metric=[likelihood,cost]", "evaluate.n_samples=80"], None),
        (["metric=[likelihood,cost,fid]", "metric.fid.features=pixels"], "fid[pixels]"),
        (["metric=[likelihood,cost]", "evaluate.checkpoints=[best,final]"], None),
    ],
)
def test_what_is_measured_later_trains_nothing(later: list[str], new: str | None, workplace: Path) -> None:
    assert main([*RUN, "metric=[likelihood,cost]"]) == 0
    folder = the_run(workplace)
    before, likelihood = trained_files(folder), rows_of(folder)[0]
    assert main([*RUN, *later]) == 0
    assert the_run(workplace) == folder, "no other folder"
    assert trained_files(folder) == before, "the checkpoints' bytes"
    rows = rows_of(folder)
    assert rows[0] == likelihood or likelihood in rows, "what was measured before stands"
    if new is not None:
        assert new in {row.metric for row in rows}
    assert {row.training_key for row in rows} == {likelihood.training_key}
    both = "evaluate.checkpoints=[best,final]" in later
    assert len(lines(workplace)) == (2 if both else 1), "one line in the table for each checkpoint that is measured"
    log = (folder / "run.log").read_text()
    assert log.count("validation score") == 2, "validated in the first command only"


def test_a_finished_run_measures_nothing_twice(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*RUN, "metric=[likelihood]"]) == 0
    monkeypatch.setattr("bench.metrics.likelihood.LogLikelihood.compute", lambda *_: pytest.fail("measured again"))
    assert main([*RUN, "metric=[likelihood]"]) == 0
    assert main([*RUN, "metric=[likelihood,modes]"]) == 0
    assert main(["evaluate", str(the_run(workplace)), "metric=[likelihood]"]) == 0


def test_another_n_replaces_nothing_and_the_same_key_replaces(workplace: Path) -> None:
    assert main([*RUN, "model=vae", "metric=[likelihood,birthday]", "evaluate.n_draws=2"]) == 0
    folder = the_run(workplace)
    evaluate = ["evaluate", str(folder)]
    assert main([*evaluate, "metric=[likelihood]", "evaluate.n_draws=8"]) == 0
    draws = [row.n_draws for row in rows_of(folder, "vae") if row.metric == "log_likelihood"]
    assert sorted(filter(None, draws)) == [2, 8]
    count = len(read_rows(folder / "rows.jsonl"))
    assert main([*evaluate, "metric=[likelihood]", "evaluate.n_draws=8", "rerun=true"]) == 0
    assert len(read_rows(folder / "rows.jsonl")) == count
    (line,) = lines(workplace, "vae")
    tightest = max(row.value or 0 for row in rows_of(folder, "vae") if row.n_draws == 8 and row.unit == "nats")
    assert f"{tightest:.2f}"[:5] in line, "of two bounds the one of more draws is shown"


def test_a_metric_that_failed_is_measured_again_alone(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("bench.metrics.cost.Cost.compute", lambda *_: 1 / 0)
        assert main([*RUN, "metric=[likelihood,cost]"]) == 1
    folder = the_run(workplace)
    assert json.loads((folder / "done.json").read_text())["ended"] == Ended.FAILED
    before = trained_files(folder)
    monkeypatch.setattr("bench.metrics.likelihood.LogLikelihood.compute", lambda *_: pytest.fail("measured again"))
    assert main([*RUN, "metric=[likelihood,cost]"]) == 0
    assert {row.status for row in rows_of(folder)} == {Status.OK, Status.SKIPPED}
    assert {name: content for name, content in trained_files(folder).items() if name != "last.ckpt"} == {
        name: content for name, content in before.items() if name != "last.ckpt"
    }


def test_rows_of_an_earlier_training_do_not_count_for_a_rerun(workplace: Path) -> None:
    assert main([*RUN, "metric=[likelihood]"]) == 0
    folder = the_run(workplace)
    assert main(["evaluate", str(folder), "metric=[birthday]"]) == 0
    assert main([*RUN, "metric=[likelihood]", "rerun=true"]) == 0
    assert {row.metric for row in rows_of(folder)} == {"log_likelihood", "bits_per_dim"}, "others are of other weights"


def test_rows_that_somebody_changed_are_measured_again(workplace: Path) -> None:
    assert main([*RUN, "metric=[likelihood]"]) == 0
    folder = the_run(workplace)
    rows, before = (folder / "rows.jsonl").read_text(), trained_files(folder)
    (folder / "rows.jsonl").write_text(rows.replace('"seed": 0', '"seed": 1'))
    assert main([*RUN, "metric=[likelihood]"]) == 0
    assert (folder / "rows.jsonl").read_text() == rows
    assert trained_files(folder) == before


# evaluate


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


def raising(error: BaseException | type[BaseException]) -> Any:
    def stop(*_: Any) -> None:
        raise error

    return stop


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
        ((folder),) = [path for path in good.parent.iterdir() if path.is_dir() and path != good]
        (folder / "trained.json").unlink()
        (folder / "done.json").unlink()
    (folder,) = [path for path in good.parent.iterdir() if path.is_dir() and path != good]
    rows = (folder / "rows.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["evaluate", str(folder), "metric=[modes]"]) == 2
    assert "is not trained to its end" in capsys.readouterr().err
    assert main(["evaluate", "runs/two_moons/*", "metric=[modes]"]) == 1, "the others are measured all the same"
    assert "is not trained to its end" in capsys.readouterr().err
    assert "modes" in {row.metric for row in rows_of(good)}
    assert (folder / "rows.jsonl").read_bytes() == rows


def test_a_failure_while_more_is_measured_replaces_no_number(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*RUN, "metric=[likelihood]"]) == 0
    folder = the_run(workplace)
    before = rows_of(folder)
    with monkeypatch.context() as patch:
        patch.setattr("bench.runs.run.trained_model", raising(MemoryError()))
        assert main([*RUN, "metric=[likelihood,cost]"]) == 1
    assert json.loads((folder / "done.json").read_text())["ended"] == Ended.OUT_OF_MEMORY
    assert [row for row in rows_of(folder) if row in before] == before
    assert main([*RUN, "metric=[likelihood,cost]"]) == 0
    assert all(row.status is not Status.FAILED for row in rows_of(folder))


def test_a_picture_that_cannot_be_written_costs_no_number(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*RUN, "metric=[cost]"]) == 0
    folder = the_run(workplace)
    (folder / "samples-best.png").unlink()
    monkeypatch.setattr("bench.evaluation.measure.draw_samples", raising(UserError("cannot write: the disk is full")))
    assert main([*RUN, "metric=[cost,likelihood]"]) == 0
    assert "log_likelihood" in {row.metric for row in rows_of(folder)}
    assert "no picture" in (folder / "run.log").read_text()


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


def test_another_file_of_weights_is_another_measurement(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"one")
    node = {"features": {"weights": str(weights)}}
    before = Measurement("fid", node, "best").key
    weights.write_bytes(b"two, longer")
    assert Measurement("fid", node, "best").key != before


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
    """A key that came later has a default, and one that will come is passed over."""
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


# Samples of others


def saved(x: torch.Tensor, kind: str, folder: Path) -> Path:
    path = folder / f"fakes{kind}"
    if kind == ".npy":
        np.save(path, x.numpy())
    elif kind == ".npz":
        np.savez(path, x.numpy())
    elif kind == ".pt":
        torch.save(x, path)
    else:
        path.mkdir()
        for index, image in enumerate(x):
            Image.fromarray(image[0].numpy()).save(path / f"{index:04}.png")
    return path


@pytest.mark.parametrize("kind", [".npy", ".npz", ".pt", ""])
def test_samples_of_others_are_measured_like_ones_own(kind: str, workplace: Path) -> None:
    metrics = "metric=[fid,inception_score,birthday]"
    assert main(["run", "model=resampler", "data=mnist5k", metrics, "evaluate.n_samples=300"]) == 0
    own = {row.metric: row for row in rows_of(the_run(workplace), "resampler")}
    with np.load(the_run(workplace) / "samples-best.npz") as stored:
        x = torch.from_numpy(stored["samples"])
    path = saved(x, kind, workplace)
    command = ["evaluate", f"samples={path.name}", "label=theirs", "data=mnist5k", metrics, "evaluate.n_samples=300"]
    assert main(command) == 0
    (folder,) = [path.parent for path in workplace.glob("runs/mnist5k/mnist5k-theirs-*/rows.jsonl")]
    theirs = {row.metric: row for row in rows_of(folder, "theirs")}
    assert set(theirs) == set(own) == {"fid[mnist-cnn]", "is[mnist-cnn]", "support[pixels]"}
    for metric, row in theirs.items():
        assert row.source is Source.EXTERNAL_SAMPLES
        assert row.value == pytest.approx(own[metric].value, rel=1e-8)
        assert row.stderr == pytest.approx(own[metric].stderr, rel=1e-8)
        assert row.protocol == own[metric].protocol
    table = (workplace / "results" / "leaderboard" / "mnist5k.md").read_text()
    assert "| theirs (external samples) |" in table, "samples of others have no checkpoint to tell of"
    assert "| resampler |" in table
    before = (folder / "rows.jsonl").read_bytes()
    assert main(command) == 0, "and measured once"
    assert (folder / "rows.jsonl").read_bytes() == before


def test_what_samples_lack_is_a_skipped_row(workplace: Path) -> None:
    np.save(workplace / "fakes.npy", np.random.default_rng(0).normal(size=(100, 2)))
    command = ["evaluate", "samples=fakes.npy", "data=two_moons", "data.n_train=500", "data.n_test=100"]
    assert main([*command, "evaluate.n_samples=50"]) == 0
    (folder,) = [path.parent for path in workplace.glob("runs/two_moons/two_moons-fakes-*/rows.jsonl")]
    rows = {row.metric: row for row in rows_of(folder, "fakes")}
    assert rows["log_likelihood"].reason == "only samples are given: they have no likelihood"
    assert rows["support[pixels]"].status is Status.OK
    assert rows["support[pixels]"].n_fake == 50
    assert all(row.status is not Status.FAILED for row in rows.values())


def test_a_kill_while_samples_are_measured_loses_no_row(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(workplace / "fakes.npy", np.random.default_rng(0).normal(size=(100, 2)))
    command = ["evaluate", "samples=fakes.npy", "data=two_moons", "data.n_test=100"]
    assert main([*command, "metric=[birthday]"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "end", lambda *_: None)
        assert main([*command, "metric=[fid]", "metric.fid.features=pixels"]) == 0
    assert main([*command, "metric=[modes]"]) == 0
    (folder,) = [path.parent for path in workplace.glob("runs/two_moons/two_moons-fakes-*/rows.jsonl")]
    assert {"support[pixels]", "fid[pixels]", "modes"} <= {row.metric for row in rows_of(folder, "fakes")}


def test_another_seed_is_another_number_in_the_same_line(workplace: Path) -> None:
    np.save(workplace / "fakes.npy", np.random.default_rng(0).normal(size=(200, 2)))
    command = ["evaluate", "samples=fakes.npy", "data=two_moons", "data.n_test=100", "metric=[fid]",
               "metric.fid.features=pixels", "evaluate.n_samples=60"]  # fmt: skip
    for seed in (0, 1):
        assert main([*command, f"seed={seed}"]) == 0
    rows = [row for path in workplace.glob("runs/*/*/rows.jsonl") for row in read_rows(path)]
    assert len({row.value for row in rows}) == len({row.seed for row in rows}) == 2
    assert len({row.group for row in rows}) == 1


def test_changed_samples_are_another_line(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    command = [
        "evaluate",
        "samples=fakes.npy",
        "label=theirs",
        "data=two_moons",
        "data.n_test=100",
        "metric=[birthday]",
    ]
    for _ in range(2):
        np.save(workplace / "fakes.npy", rng.normal(size=(100, 2)))
        assert main(command) == 0
    assert len(list(workplace.glob("runs/two_moons/two_moons-theirs-*"))) == 2


# The keys


def spec(*overrides: str) -> RunSpec:
    return RunSpec.parse(compose_runs(["model=vae", "data=two_moons", *overrides])[0])


@pytest.mark.parametrize(
    "same", ["evaluate.n_samples=7", "metric=[cost]", "name=x", "runs_dir=y", "logger=csv", "probe=[gradient_norm]",
             "rerun=true", "train.batch_size=64", "trust=[a]"],
)  # fmt: skip
def test_what_is_measured_and_kept_is_no_part_of_the_training_key(same: str) -> None:
    assert spec(same).training_key == spec().training_key


@pytest.mark.parametrize(
    "other", ["seed=1", "model.hidden=7", "data.n_train=7", "train.examples=7", "trainer.precision=bf16-mixed",
              "train.ema_decay=0.9"],
)  # fmt: skip
def test_what_training_depends_on_is(other: str) -> None:
    assert spec(other).training_key != spec().training_key
    assert (spec(other).group == spec().group) == (other == "seed=1")


def test_a_killed_run_says_so(tmp_path: Path) -> None:
    outcome = RunFolder(tmp_path).outcome("some-run")
    assert outcome.ended is Ended.KILLED
    assert re.search("ended without a word", outcome.reason)
    assert [ended.exit_code for ended in (Ended.OK, Ended.DIVERGED, Ended.REFUSED, Ended.INTERRUPTED)] == [0, 1, 2, 130]


def test_seeds_are_composed_as_each_alone_would_be() -> None:
    sweep = ["model=vae,linear", "data=two_moons", "seed=0,7", "metric=[fid,likelihood]"]
    alone = [compose_runs([f"model={model}", sweep[1], f"seed={seed}", sweep[3]])[0]
             for model in ("vae", "linear") for seed in (0, 7)]  # fmt: skip
    assert compose_runs(sweep, multirun=True) == alone
    interpolated = [*sweep, "name='of ${seed}'"]
    assert [run["name"] for run in compose_runs(interpolated, multirun=True)] == ["of 0", "of 7", "of 0", "of 7"]
    assert [run["seed"] for run in compose_runs(["model=vae", "data=two_moons", "seed=range(3)"], multirun=True)] == [
        0,
        1,
        2,
    ]
