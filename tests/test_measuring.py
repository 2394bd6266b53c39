"""Training and measuring are two things: what is measured later trains nothing and stands in the same line."""

import json
from pathlib import Path

import pytest
from helpers_rows import FAILED, make_row
from helpers_runs import RUN, lines, raising, rows_of, the_run, trained_files

from bench.cli.main import main
from bench.errors import UserError
from bench.rows.store import read_rows
from bench.runs.folder import Ended, RunFolder
from bench.schema import Status


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


def test_a_rerun_that_fails_leaves_no_number_of_earlier_weights(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = [*RUN, "model=gaussian", "metric=[likelihood]"]
    assert main(run) == 0
    folder = the_run(workplace)
    assert main(["evaluate", str(folder), "metric=[birthday]"]) == 0
    monkeypatch.setattr("bench.runs.run.fit", raising(RuntimeError("no weights")))
    assert main([*run, "rerun=true"]) == 1
    assert {(row.metric, row.status) for row in rows_of(folder, "gaussian")} == {
        ("log_likelihood", Status.FAILED), ("bits_per_dim", Status.SKIPPED),
    }  # fmt: skip


def test_what_counts_as_measured(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_rows([
        make_row(measuring_key="a"), make_row(measuring_key="b"), make_row(measuring_key="b", metric="kid", **FAILED),
        make_row(measuring_key="c", training_key="of the data's density"),
    ])  # fmt: skip
    assert folder.measured("c0") == {"a"}


def test_a_row_from_before_measuring_keys_gives_way_to_the_same_number(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_rows([make_row(value=1.0), make_row(value=2.0, metric="kid")])
    folder.add_rows([make_row(value=3.0, measuring_key="a")])
    assert sorted((row.metric, row.value) for row in folder.read_rows()) == [("fid[mnist-cnn]", 3.0), ("kid", 2.0)]


def test_rows_that_somebody_changed_are_measured_again(workplace: Path) -> None:
    assert main([*RUN, "metric=[likelihood]"]) == 0
    folder = the_run(workplace)
    rows, before = (folder / "rows.jsonl").read_text(), trained_files(folder)
    (folder / "rows.jsonl").write_text(rows.replace('"seed": 0', '"seed": 1'))
    assert main([*RUN, "metric=[likelihood]"]) == 0
    assert (folder / "rows.jsonl").read_text() == rows
    assert trained_files(folder) == before


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
