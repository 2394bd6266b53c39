"""The lottery panel: several sampling seeds of one training, and the two parts of the spread."""

import argparse
import csv
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from helpers_rows import FAILED, make_row
from scipy import stats

from bench.cli import lottery as command
from bench.cli.main import main
from bench.config.spec import Evaluation, Measurement, digest
from bench.errors import UserError
from bench.metrics.sliced import MIND
from bench.rows.frame import to_frame
from bench.rows.store import read_rows, write_rows
from bench.schema import Estimate, ResultRow
from bench.seeds import sampling_seed_of
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel
from bench.tables.aggregate import make_table
from bench.tables.lottery import Panel, panels_of, to_csv, to_markdown

RUN = ["run", "model=linear", "data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64",
       "train.examples=320", "train.batch_size=32", "train.validate_every=320", "evaluate.n_samples=60",
       "metric=[fid,mind]", "metric.fid.features=pixels", "metric.mind.features=pixels"]  # fmt: skip
VALUES = np.array([[1.0, 2.0, 3.5], [4.0, 4.5, 6.5], [2.0, 2.5, 4.5], [0.0, 1.5, 2.0]])


def rows_of(values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]", **changes: object) -> list[ResultRow]:
    return [
        make_row(seed=i, sampling_seed=j + 1, value=float(value), run_id=f"r{i}", training_key=f"c{i}",
                 measuring_key=f"m{j}", **changes)
        for (i, j), value in np.ndenumerate(values)
    ]  # fmt: skip


def test_the_parts_of_a_panel_are_those_of_the_analysis_of_variance() -> None:
    (panel,) = panels_of(to_frame(rows_of(VALUES)))
    rows, columns, whole = VALUES.mean(1), VALUES.mean(0), VALUES.mean()
    rest = VALUES - rows[:, None] - columns + whole
    of_rows, of_columns, of_rest = 3 * rows.var(ddof=1), 4 * columns.var(ddof=1), (rest**2).sum() / 6
    assert panel.components.mean == pytest.approx(whole)
    assert panel.retraining == pytest.approx(np.sqrt((of_rows - of_rest) / 3))
    assert panel.resampling == pytest.approx(np.sqrt((of_columns - of_rest) / 4 + of_rest))
    assert (panel.components.seeds, panel.components.draws, panel.lost) == (4, 3, ())


def test_a_seed_that_lacks_a_value_is_left_out_and_named() -> None:
    rows = rows_of(VALUES)
    rows[4] = dataclasses.replace(rows[4], **FAILED)
    (panel,) = panels_of(to_frame(rows))
    assert (panel.components.seeds, panel.lost) == (3, (1,))
    assert panel.components.mean == pytest.approx(VALUES[[0, 2, 3]].mean())
    assert "3 x 3 (lost: 1)" in to_markdown([panel])


def test_the_runs_own_streams_are_no_draw_that_trainings_share() -> None:
    own = [
        make_row(seed=i, value=99.0 * i, run_id=f"r{i}", training_key=f"c{i}", measuring_key="own") for i in range(4)
    ]
    assert panels_of(to_frame([*own, *rows_of(VALUES)])) == panels_of(to_frame(rows_of(VALUES)))
    with pytest.raises(UserError, match="sampling seeds above 0"):
        panels_of(to_frame([*own, *rows_of(VALUES[:, :1])]))


@pytest.mark.parametrize("values", [VALUES[:1], VALUES[:, :1]])
def test_one_seed_of_either_kind_is_no_panel(values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> None:
    with pytest.raises(UserError, match=r"at least 2 training seeds under at least 2 sampling seeds"):
        panels_of(to_frame(rows_of(values)))


def test_other_protocols_and_configurations_are_other_panels() -> None:
    more = rows_of(VALUES + 1, n_fake=50) + rows_of(2 * VALUES, group="other") + rows_of(VALUES, metric="kid")
    panels = panels_of(to_frame(rows_of(VALUES) + more))
    assert sorted((one.metric, one.n_fake, one.group) for one in panels) == [
        ("fid[mnist-cnn]", 50, "g0"), ("fid[mnist-cnn]", 1000, "g0"), ("fid[mnist-cnn]", 1000, "other"),
        ("kid", 1000, "g0"),
    ]  # fmt: skip
    assert len(panels_of(to_frame(rows_of(VALUES) + more), ["fid"])) == 3
    assert "dcgan other" in to_markdown(panels)
    read = list(csv.DictReader(io.StringIO(to_csv(panels))))
    assert [float(line["mean"]) for line in read] == [pytest.approx(one.components.mean) for one in panels]


def test_texts_of_a_strangers_rows_stay_texts() -> None:
    panels = panels_of(to_frame(rows_of(VALUES, model="a,b|c\x1b[31m\nd", dataset="=cmd()")))
    shown, (line,) = to_markdown(panels), csv.DictReader(io.StringIO(to_csv(panels)))
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 3
    assert "a,b\\|c" in shown
    assert (line["model"], line["dataset"]) == ("a,b|c [31m d", "'=cmd()")
    assert float(line["mean"]) == panels[0].components.mean


def test_ordinary_tables_show_the_smallest_sampling_seed() -> None:
    (section,) = make_table(rows_of(VALUES)).sections
    (cell,) = section.cells.values()
    assert cell.value == pytest.approx(VALUES[:, 0].mean())
    assert (cell.seeds, section.repeated) == ((0, 1, 2, 3), 0)
    (section,) = make_table([*rows_of(VALUES), make_row(seed=0, run_id="r0", training_key="c0", value=9.0)]).sections
    (cell,) = section.cells.values()
    assert cell.value == pytest.approx((9 + VALUES[1:, 0].sum()) / 4)


def test_numbers_of_another_protocol_are_shown_under_their_own_smallest_sampling_seed() -> None:
    seeds = [make_row(sampling_seed=seed, value=value, n_fake=n, split=split, measuring_key=f"{seed} {n} {split}")
             for seed, value, n, split in ((0, 1.0, 1000, "test"), (1, 9.0, 1000, "test"), (1, 2.0, 5000, "test"),
                                           (2, 9.0, 5000, "test"), (2, 3.0, 1000, "reference-mine"))]  # fmt: skip
    (section,) = make_table(seeds).sections
    assert sorted(cell.value or 0.0 for cell in section.cells.values()) == [1.0, 2.0, 3.0]
    failed = make_row(sampling_seed=1, n_fake=None, n_real=None, **FAILED)
    for first, shown in ((dataclasses.replace(failed, sampling_seed=0), None), (failed, 1.0)):
        later = make_row(sampling_seed=1 - first.sampling_seed, value=1.0)
        (section,) = make_table([first, later]).sections
        assert [cell.value for cell in section.cells.values()] == [shown]


def test_sampling_seed_0_keeps_the_measuring_keys_of_before() -> None:
    node = {"_target_": "x.Y", "n_samples": 10}
    before = digest({"metric": {**node, "version": 1}, "checkpoint": "best"})
    assert Measurement("y", node, "best").key == before
    keys = {Measurement("y", node, "best", sampling_seed=seed).key for seed in range(3)}
    assert len(keys) == 3
    assert sampling_seed_of(7, 0) == 7
    assert sampling_seed_of(7, 1) == sampling_seed_of(8, 1) != sampling_seed_of(7, 2)


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1]])
def test_sampling_seeds_that_are_none(seeds: list[int]) -> None:
    with pytest.raises(UserError, match=r"evaluate\.sampling_seeds"):
        Evaluation(sampling_seeds=seeds)


def test_a_row_keeps_its_sampling_seed_and_0_leaves_no_trace(tmp_path: Path) -> None:
    rows = [make_row(seed=1), make_row(seed=2, sampling_seed=3)]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows
    assert [("sampling_seed" in line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == [False, True]
    for some in (rows[:1], rows[1:]):  # blocks of one kind take the fast way
        write_rows(tmp_path / "some.jsonl", some)
        assert read_rows(tmp_path / "some.jsonl") == some


def test_a_panel_is_measured_on_one_training_each(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-m", *RUN[1:], "seed=0,1", "evaluate.sampling_seeds=[1,2]"]) == 0
    files = sorted(workplace.glob("runs/*/*-linear-*/rows.jsonl"))
    rows = [row for file in files for row in read_rows(file)]
    assert sorted((row.seed, row.sampling_seed, row.metric) for row in rows) == [
        (seed, sampling, metric)
        for seed in (0, 1) for sampling in (1, 2) for metric in ("fid[pixels]", "mind[pixels]")
    ]  # fmt: skip
    assert len({row.value for row in rows}) == 8
    monkeypatch.setattr("bench.metrics.sliced.MIND.compute", lambda *_: pytest.fail("measured again"))
    assert main([*RUN, "seed=1", "evaluate.sampling_seeds=[1,2]"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("bench.runs.run._train", lambda *_: pytest.fail("trained again"))
        folders = [str(file.parent) for file in files]
        more = ["metric=[fid]", "metric.fid.features=pixels", "evaluate.sampling_seeds=[1,2,3]"]
        assert main(["evaluate", *folders, *more]) == 0
    capsys.readouterr()
    assert main(["lottery", str(workplace / "runs"), "--metric", "fid", "--out", str(workplace / "panel.csv")]) == 0
    assert "| 2 x 3 |" in capsys.readouterr().out
    assert (workplace / "panel.csv").read_text().count("\n") == 2


def test_metrics_draw_from_the_sampling_seed_as_samples_do(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, compute = [], MIND.compute

    def watched(metric: MIND, examples: Examples) -> list[Estimate]:
        assert isinstance(examples.subject, TrainedModel)
        seen.append((examples.seed, examples.subject.seed))
        return compute(metric, examples)

    monkeypatch.setattr(MIND, "compute", watched)
    assert main(["run", "model=gaussian", "seed=7", "data=two_moons", "data.n_train=64", "data.n_val=16",
                 "data.n_test=16", "evaluate.n_samples=8", "metric=[mind,likelihood]", "metric.mind.features=pixels",
                 "evaluate.sampling_seeds=[0,1]"]) == 0  # fmt: skip
    assert seen == [(seed, seed) for seed in (7, sampling_seed_of(7, 1))]
    (file,) = workplace.glob("runs/*/*/rows.jsonl")
    of_density = [row for row in read_rows(file) if row.model == "oracle" and row.metric == "log_likelihood"]
    assert [row.sampling_seed for row in of_density] == [0], "a density has no samples"


def test_samples_of_others_have_no_sampling_seeds(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(workplace / "x.npy", np.zeros((50, 2), np.float32))
    given = ["evaluate", "samples=x.npy", "data=two_moons", "metric=[fid]", "metric.fid.features=pixels"]
    assert main([*given, "evaluate.sampling_seeds=[1,2]"]) == 2
    assert "evaluate.sampling_seeds: is for runs; here seed=1 draws samples anew" in capsys.readouterr().err


def test_where_it_cannot_be_written() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(UserError, match=r"\.csv or \.md"):
        command.main(parser.parse_args(["rows.jsonl", "--out", "x.txt"]))


def test_no_spread_at_all_is_shown_as_none(tmp_path: Path) -> None:
    panels: list[Panel] = panels_of(to_frame(rows_of(np.ones((3, 2)))))
    assert (panels[0].retraining, panels[0].resampling) == (0, 0)
    assert "0 (none seen)" in to_markdown(panels)


def test_the_interval_of_the_mean_is_students_at_95_percent() -> None:
    (panel,) = panels_of(to_frame(rows_of(VALUES)))
    parts = panel.components
    assert panel.half_width == pytest.approx(stats.t.ppf(0.975, parts.df_of_mean) * parts.variance_of_mean**0.5)
