"""Tables from hand-made rows: what is averaged, what shares a column, what is missing."""

import csv
import dataclasses
import io
import math
import random
import statistics
from typing import Any

import pytest
from helpers_rows import FAILED, make_row
from helpers_tables import SKIPPED, cells, csv_rows, only, run
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.schema import PROTOCOL, Relation, Source, Status
from bench.tables.aggregate import make_table
from bench.tables.as_csv import to_csv
from bench.tables.certified import certified
from bench.tables.exact import mean_and_deviation
from bench.tables.latex import to_latex
from bench.tables.markdown import to_markdown
from bench.tables.text import to_text
from bench.tables.uncertainty import _t975
from bench.tables.view import ABSENT

# Aggregation


def test_seeds_are_averaged_with_their_standard_error() -> None:
    values = [3.0, 5.0, 10.0]
    section = only([run(seed=seed, value=value, stderr=0.25) for seed, value in enumerate(values)])
    cell = cells(section)["dcgan"]
    assert cell.value == 6.0
    # s^2 = (9 + 1 + 16) / 2 = 13.
    assert cell.spread == pytest.approx(math.sqrt(13 / 3), rel=1e-15)
    assert cell.spread_kind == "seeds"
    reach = 0.95 * math.sqrt(2 / (1 - 0.95**2)) * math.sqrt(13 / 3)  # Student with 2 degrees of freedom
    assert (cell.ci_low, cell.ci_high) == pytest.approx((6 - reach, 6 + reach), rel=1e-12)
    assert cell.seeds == section.lines[0].seeds == (0, 1, 2)


def test_one_seed_keeps_the_error_within_the_run() -> None:
    cell = cells(only([make_row(value=1.5, stderr=0.25, ci_low=1.1, ci_high=None)]))["dcgan"]
    assert (cell.value, cell.spread, cell.spread_kind, cell.ci_low, cell.ci_high) == (1.5, 0.25, "run", 1.1, None)
    cell = cells(only([run()]))["dcgan"]
    assert (cell.spread, cell.spread_kind) == (None, "")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=8)
    | st.lists(st.sampled_from([0.1, 0.1 + 2**-56, 0.3, -0.0, 5e-324, 2.5e-323]), min_size=2, max_size=8)
    | st.integers(-(2**60), 2**60).map(lambda whole: [float(whole + k) for k in range(3)])
)
def test_mean_and_deviation_are_those_of_the_statistics_module_bit_for_bit(values: list[float]) -> None:
    mean, deviation = mean_and_deviation(values)
    assert mean == float(statistics.mean(values))
    try:
        expected = statistics.stdev(values)
    except OverflowError:
        expected = None
    assert deviation == expected


def test_equal_values_have_no_spread_and_overflow_no_traceback() -> None:
    cell = cells(only([run(seed=seed, value=0.1) for seed in range(3)]))["dcgan"]
    assert (cell.value, cell.spread) == (0.1, 0.0)
    for huge in ([1e308, 1.7e308, 1.6e308], [-1.7e308, 1.7e308]):
        rows = [run(seed=seed, value=value) for seed, value in enumerate(huge)]
        cell = cells(only(rows))["dcgan"]
        assert cell.value == statistics.mean(huge)
        assert all(number is None or math.isfinite(number) for number in (cell.spread, cell.ci_low, cell.ci_high))
        assert "inf" not in to_csv(make_table(rows))
        assert "inf" not in to_markdown(make_table(rows))


def test_student_quantile_against_scipy() -> None:
    from scipy.stats import t  # type: ignore[import-untyped,unused-ignore]

    for degrees in [1, 2, 3, 4, 5, 6, 9, 10, 29, 30, 101, 1000]:
        assert _t975(degrees) == pytest.approx(t.ppf(0.975, degrees), rel=1e-10)


def test_different_configurations_are_never_averaged() -> None:
    rows = [run(seed=seed, value=float(10 * seed + k), group=g) for k, g in enumerate("ab") for seed in range(2)]
    rows = [dataclasses.replace(row, group=f"1a2b3c{row.group}4", run_id=row.group + row.run_id) for row in rows]
    found = cells(only([*rows, run("maf", value=1.0)]))
    assert {label: cell.value for label, cell in found.items()} == {
        "dcgan #1a2b3ca": 5.0, "dcgan #1a2b3cb": 6.0, "maf": 1.0,
    }  # fmt: skip


def test_a_repeated_run_counts_once_and_a_value_comes_before_none() -> None:
    rows = [
        run(value=1.0, run_id="2026-01"), run(value=2.0, run_id="2026-02"), run(**FAILED, run_id="2026-03"),
        run(seed=1, value=4.0),
    ]  # fmt: skip
    section = only([*rows, rows[3]])
    cell = cells(section)["dcgan"]
    assert (cell.value, cell.seeds, cell.lost, section.repeated) == (3.0, (0, 1), (), 2)
    assert "2 rows of repeated runs left out" in to_markdown(make_table(rows))


# Columns


def test_protocol_fields_are_the_schemas() -> None:
    row = make_row()
    assert row.protocol == tuple(getattr(row, name) for name in PROTOCOL)


def test_two_protocols_are_two_columns_that_say_what_differs() -> None:
    section = only([run("a", value=1.0), run("b", value=2.0), run("a", value=3.0, n_fake=50000), run("b", value=4.0)])
    assert [(column.part("n_fake"), column.differs) for column in section.columns] == [
        (1000, ("n_fake",)), (50000, ("n_fake",)),
    ]  # fmt: skip
    assert (1, 1) not in section.cells
    markdown = to_markdown(make_table([run("a"), run("b", n_fake=50000)]))
    assert "FID ↓<br>1\u202f000 samples" in markdown
    assert "50\u202f000 samples" in markdown
    assert markdown.count(ABSENT) == 3  # two empty cells and the legend


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"data_revision": "d1"}, "revision d1"), ({"split": "val"}, "val"), ({"metric_version": 2}, "v2"),
        ({"extractor_hash": "e1ffffffffff"}, "#e1ffff"), ({"n_real": 7}, "7 real"), ({"n_real": 0}, "0 real"),
        ({"n_fake": None}, "samples unknown"), ({"source": Source.QUOTED}, "quoted"), ({"unit": "mm"}, "mm"),
    ],
)  # fmt: skip
def test_what_differs_between_protocols_is_labelled_and_not_ranked(change: dict[str, Any], label: str) -> None:
    rows = [run("a", value=1.0), run("b", value=2.0, **change)]
    section = only(rows)
    assert len(section.columns) == 2
    assert not any(cell.best for cell in section.cells.values())
    assert f"<br>{label}" in to_markdown(make_table(rows))
    assert label in to_text(make_table(rows))


def test_samples_of_others_share_the_column_of_measured_ones_and_say_what_they_are() -> None:
    rows = [
        run("ours", value=2.0), run("theirs", value=1.0, source=Source.EXTERNAL_SAMPLES),
        run("paper", value=0.5, source=Source.QUOTED),
    ]  # fmt: skip
    section = only(rows)
    assert [column.part("source") for column in section.columns] == ["measured", "quoted"]
    assert [line.label for line in section.lines] == ["theirs (external samples)", "ours", "paper"]
    assert {key: cell.best for key, cell in section.cells.items()} == {(0, 0): True, (1, 0): False, (2, 1): False}
    assert [(row["model"], row["source"]) for row in csv_rows(rows)] == [
        ("theirs", "external samples"), ("ours", "measured"), ("paper", "quoted"),
    ]  # fmt: skip
    assert "theirs (external samples)" in to_markdown(make_table(rows))


def test_samples_of_others_are_never_averaged_with_our_own() -> None:
    rows = [run(value=1.0), run(value=3.0, source=Source.EXTERNAL_SAMPLES), run(value=4.0, seed=1)]
    found = cells(only(rows))
    assert {label: cell.value for label, cell in found.items()} == {"dcgan": 2.5, "dcgan (external samples)": 3.0}
    assert certified(
        dataclasses.replace(rows[0], relation=Relation.EXACT), dataclasses.replace(rows[1], relation=Relation.EXACT)
    )


def test_data_sets_are_sections() -> None:
    table = make_table([run(dataset="b"), run(dataset="a"), run("x", dataset="a")])
    assert [(section.dataset, len(section.lines)) for section in table.sections] == [("a", 2), ("b", 1)]


def test_columns_have_an_order() -> None:
    names = [
        "log_likelihood", "bits_per_dim", "fid[a]", "fid[b]", "is[a]", "support[a]", "kid", "recall", "parameters",
        "train_seconds", "train_examples_per_second", "samples_per_second", "accuracy[a]", "zeta",
    ]  # fmt: skip
    rows = [run(metric=name, metric_title="", higher_is_better=None if name in names[-2:] else True) for name in names]
    random.Random(1).shuffle(rows)
    assert [column.part("metric") for column in only(rows).columns] == names


def test_metrics_of_one_title_show_their_names() -> None:
    section = only([run(metric="fid[a]"), run(metric="fid[b]"), run(metric="kid", metric_title="KID")])
    assert [column.title for column in section.columns] == ["fid[a]", "fid[b]", "KID"]


def test_a_selection_of_metrics() -> None:
    rows = [run(), run(metric="kid"), run(metric="fid[b]")]
    assert [column.part("metric") for column in only(rows, metrics=["fid"]).columns] == ["fid[b]", "fid[mnist-cnn]"]
    assert [column.part("metric") for column in only(rows, metrics=["fid[b]", "kid"]).columns] == ["fid[b]", "kid"]
    with pytest.raises(UserError, match=r"'ki'; there are fid\[b\], fid\[mnist-cnn\], kid"):
        make_table(rows, metrics=["ki"])


# Missing values


def test_failed_and_skipped_rows_stay_in_sight() -> None:
    unknown = {"n_real": None, "n_fake": None, "extractor_hash": "", "extractor": ""}
    rows = [
        run("a"), run("b", **FAILED | unknown, reason="out of memory"), run("c", **SKIPPED | unknown, reason="no way"),
        run("d", **SKIPPED | unknown, reason="no way"),
    ]  # fmt: skip
    section = only(rows)
    assert {label: cell.status for label, cell in cells(section).items()} == {
        "a": Status.OK, "b": Status.FAILED, "c": Status.SKIPPED, "d": Status.SKIPPED,
    }  # fmt: skip
    markdown = to_markdown(make_table(rows))
    assert "| b | gan | 1 | failed [1] |" in markdown
    assert "| c | gan | 1 | n/a [2] |\n| d | gan | 1 | n/a [2] |" in markdown
    assert "[1] failed: out of memory" in markdown
    assert "[2] n/a: no way" in markdown
    assert [row["reason"] for row in csv_rows(rows)] == ["", "out of memory", "no way", "no way"]
    assert [row["value"] for row in csv_rows(rows)] == ["1.0", "", "", ""]


def test_a_metric_that_applies_to_no_model_is_named_but_has_no_column() -> None:
    shared = {"metric": "modes", "metric_title": "modes", "extractor": "", "extractor_hash": ""}
    nowhere = [run(model, **SKIPPED, **shared, reason="no modes") for model in ("a", "b")]
    table = make_table([run("a"), run("b"), *nowhere])
    markdown = to_markdown(table)
    assert "| modes" not in markdown
    assert "no modes" not in markdown
    assert "not applicable modes" in markdown
    assert {entry["reason"] for entry in csv.DictReader(io.StringIO(to_csv(table))) if entry["metric"] == "modes"} == {
        "no modes"
    }
    # One model that has it, or should have it, brings the column back.
    for row in (run("b", **shared), run("b", **FAILED, **shared, reason="broke")):
        assert "| modes" in to_markdown(make_table([run("a"), run("b"), nowhere[0], row]))
    # And where there is nothing else, it stays.
    assert "| modes" in to_markdown(make_table(nowhere))


def test_a_model_with_nothing_but_failures_appears() -> None:
    section = only([run(**FAILED, n_fake=None), run(**FAILED, metric="kid", metric_title="KID")])
    assert [line.label for line in section.lines] == ["dcgan"]
    assert [cell.status for cell in section.cells.values()] == [Status.FAILED] * 2


def test_a_failure_that_states_another_protocol_has_its_own_column() -> None:
    section = only([run("a"), run("b", **FAILED, n_fake=7), run("b", seed=1, **FAILED, n_fake=7, n_real=None)])
    assert [column.part("n_fake") for column in section.columns] == [7, 1000]
    assert section.cells[1, 0].seeds == (0, 1)
    assert (1, 1) not in section.cells


def test_a_failure_of_unknown_protocol_stays_with_its_models_other_seeds() -> None:
    rows = [run("a"), run("b", n_fake=7), run("a", seed=1, **FAILED, n_fake=None), run("c", **FAILED, n_fake=None)]
    section = only(rows)
    lost = {(section.lines[line].label, section.columns[column].part("n_fake")): cell.lost
            for (line, column), cell in section.cells.items()}  # fmt: skip
    assert lost == {("a", 1000): (1,), ("b", 7): (), ("c", 7): (), ("c", 1000): ()}


def test_a_mean_of_survivors_says_so_and_is_not_ranked() -> None:
    rows = [run("a", seed, value=1.0) for seed in range(2)] + [run("a", 2, **FAILED, reason="diverged")]
    rows += [run("b", value=5.0), run("c", value=6.0)]
    found = cells(only(rows))
    assert (found["a"].value, found["a"].seeds, found["a"].lost, found["a"].best) == (1.0, (0, 1), (2,), False)
    assert found["b"].best
    assert "mean without the seeds 2 (diverged); not ranked" in to_markdown(make_table(rows))


def test_cells_of_fewer_seeds_say_so() -> None:
    markdown = to_markdown(make_table([run(), run(seed=4), run(metric="kid", seed=4)]))
    assert "of the seeds 4 only" in markdown


def test_zero_is_shown() -> None:
    rows = [run(value=0.0, stderr=0.0, seed=0, budget="0 examples")]
    assert "| dcgan | gan | 1 | 0 |" in to_markdown(make_table(rows))
    (row,) = csv_rows(rows)
    assert (row["value"], row["spread"], row["spread_kind"], row["seeds"]) == ("0.0", "0.0", "run", "0")
    for text in (to_markdown(make_table(rows)), to_text(make_table(rows)), to_latex(make_table(rows))):
        assert "seeds 0" in text


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_numbers_that_are_none_are_refused(value: float | None) -> None:
    with pytest.raises(UserError, match="with status ok"):
        make_table([run("a"), run("b", value=value)])  # type: ignore[arg-type]


def test_no_rows_and_no_such_checkpoint() -> None:
    with pytest.raises(UserError, match="no rows"):
        make_table([])
    with pytest.raises(UserError, match="choose one of best, final, both"):
        make_table([run()], checkpoint="last")
