"""Tables from hand-made rows: what is averaged, what is ranked, what is shown, and what cannot be smuggled in."""

import argparse
import csv
import dataclasses
import doctest
import io
import itertools
import math
import random
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers_rows import FAILED, make_row
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cli import table as cli_table
from bench.errors import UserError
from bench.rows.frame import load_rows, read_frame
from bench.rows.store import write_rows
from bench.schema import PROTOCOL, Relation, ResultRow, Source, Status
from bench.tables.aggregate import make_table
from bench.tables.as_csv import to_csv
from bench.tables.certified import certified
from bench.tables.exact import mean_and_deviation
from bench.tables.frame import table as wide_frame
from bench.tables.latex import to_latex
from bench.tables.leaderboard import write_leaderboard
from bench.tables.markdown import to_markdown
from bench.tables.model import Cell, Section
from bench.tables.text import to_text
from bench.tables.uncertainty import _t975
from bench.tables.view import ABSENT, format_number

PLAIN: dict[str, Any] = {"stderr": None, "ci_low": None, "ci_high": None}
SKIPPED: dict[str, Any] = FAILED | {"status": Status.SKIPPED}


def run(model: str = "dcgan", seed: int = 0, value: float = 1.0, **changes: Any) -> ResultRow:
    return make_row(
        **{"model": model, "group": f"group of {model}", "seed": seed, "run_id": f"{model}-{seed}", "value": value}
        | PLAIN
        | changes
    )


def likelihood(model: str, value: float, relation: Relation, draws: int, **changes: Any) -> ResultRow:
    same = {"metric": "log_likelihood", "metric_title": "log-likelihood", "unit": "nats", "extractor": ""}
    changes = same | {"extractor_hash": "", "n_fake": None, "higher_is_better": True} | changes
    return run(model, value=value, relation=relation, n_draws=draws, **changes)


def only(rows: list[ResultRow], **options: Any) -> Section:
    (section,) = make_table(rows, **options).sections
    return section


def cells(section: Section) -> dict[str, Cell]:
    """By label, for a section of one column."""
    assert len(section.columns) == 1
    return {section.lines[line].label: cell for (line, _), cell in section.cells.items()}


def csv_rows(rows: list[ResultRow]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(make_table(rows)))))


def realistic() -> list[ResultRow]:
    """Two data sets; six models with 3 seeds; bounds, skipped and failed rows, a second configuration, timings."""
    rng = random.Random(0)
    rows = []
    models = {"gaussian": 1, "maf": 1, "realnvp": 8, "vae": 64, "dcgan": 0, "wgan-gp": 0}
    for (model, draws), seed, dataset in itertools.product(models.items(), range(3), ["mnist5k", "digits"]):
        common: dict[str, Any] = {
            "dataset": dataset,
            "seed": seed,
            "run_id": f"{dataset}-{model}-{seed}",
            "dirty": model == "maf",
        }
        if draws == 0:
            skipped = likelihood(model, 0.0, Relation.ESTIMATE, 1, **common)
            rows.append(dataclasses.replace(skipped, **SKIPPED, relation=None, n_draws=None, reason="no likelihood"))
        else:
            relation = Relation.EXACT if draws == 1 else Relation.LOWER_BOUND
            rows.append(likelihood(model, rng.gauss(-100, 9), relation, draws, **common))
        if (model, seed) == ("wgan-gp", 2):
            rows.append(run(model, **common | FAILED, reason="diverged at example 64", n_real=None, n_fake=None))
        else:
            rows.append(run(model, value=rng.gauss(30, 5), **common))
        rows.append(run(model, value=rng.gauss(30, 5), **common, n_fake=500))
        rows.append(run(model, value=rng.gauss(30, 5), **common, n_fake=500, checkpoint="final"))
        speed: dict[str, Any] = {
            "metric": "samples_per_second",
            "metric_title": "samples/s",
            "unit": "1/s",
            "higher_is_better": True,
        }
        rows.append(run(model, value=rng.uniform(1, 1e5), **common | speed, n_fake=None, n_real=None))
    rows += [run("maf", seed, 7.0, group="another", run_id=f"x{seed}", dataset="digits") for seed in range(2)]
    return rows


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


# Ranking


def test_the_best_is_marked_in_its_direction() -> None:
    for direction, best in [(True, {"c"}), (False, {"a", "b"}), (None, set())]:
        rows = [
            run(name, value=float(value), higher_is_better=direction)
            for name, value in zip("abc", [1, 1, 2], strict=True)
        ]
        assert {label for label, cell in cells(only(rows)).items() if cell.best} == best
        markdown = to_markdown(make_table(rows))
        assert markdown.count("**") == 2 * len(best) + 2 * bool(best)  # and in the legend
        assert to_latex(make_table(rows)).count(r"\textbf{") == len(best)
        assert {row["model"] for row in csv_rows(rows) if row["best"] == "true"} == best
        assert [row["model"] for row in csv_rows(rows)] == list("cab" if direction else "abc")
        arrow = {True: "FID ↑", False: "FID ↓", None: "FID |"}[direction]
        assert arrow in markdown


def test_one_cell_alone_is_not_best() -> None:
    assert not cells(only([run("a"), run("b", **FAILED)]))["a"].best


def test_likelihoods_are_ranked_within_one_relation_and_number_of_draws() -> None:
    rows = [
        likelihood("exact", -90.0, Relation.EXACT, 1), likelihood("exact2", -95.0, Relation.EXACT, 4),
        likelihood("bound64", -80.0, Relation.LOWER_BOUND, 64), likelihood("bound64b", -85.0, Relation.LOWER_BOUND, 64),
        likelihood("bound8", -70.0, Relation.LOWER_BOUND, 8), likelihood("upper", -10.0, Relation.UPPER_BOUND, 64),
        likelihood("guess", 0.0, Relation.ESTIMATE, 64), likelihood("guess2", -1.0, Relation.ESTIMATE, 64),
    ]  # fmt: skip
    found = cells(only(rows))
    # The bounds show that two models are better than any of exact likelihood.
    assert {label for label, cell in found.items() if cell.best} == {"bound64", "guess"}
    below = [row for row in rows if row.model in ("exact", "exact2")] + [
        likelihood("low64", -99.0, Relation.LOWER_BOUND, 64), likelihood("low64b", -98.0, Relation.LOWER_BOUND, 64),
    ]  # fmt: skip
    assert {label for label, cell in cells(only(below)).items() if cell.best} == {"exact", "low64b"}
    markdown = to_markdown(make_table(rows))
    for entry in ["= -90", "= -95", "≥ **-80 (K=64)**", "≥ -70 (K=8)", "≤ -10 (K=64)", "≈ **0 (K=64)**"]:
        assert f"| {entry} |" in markdown
    assert "$\\geq$ \\textbf{$-$80 (K$=$64)}" in to_latex(make_table(rows))


def test_times_are_ranked_on_one_device_only() -> None:
    rows = [run("a", value=1.0, unit="s", device="cpu"), run("b", value=2.0, unit="s", device="gpu")]
    assert not any(cell.best for cell in cells(only(rows)).values())
    assert "| cpu |" in to_markdown(make_table(rows))
    rows = [dataclasses.replace(row, unit="") for row in rows]
    assert [cell.best for cell in cells(only(rows)).values()] == [True, False]


@pytest.mark.parametrize(
    ("relations", "mean"),
    [
        ([Relation.EXACT, Relation.LOWER_BOUND], Relation.LOWER_BOUND),
        ([Relation.UPPER_BOUND, Relation.EXACT, Relation.UPPER_BOUND], Relation.UPPER_BOUND),
        ([Relation.ESTIMATE, Relation.EXACT], Relation.ESTIMATE),
        ([Relation.LOWER_BOUND, Relation.LOWER_BOUND], Relation.LOWER_BOUND),
    ],
)
def test_the_mean_of_values_and_bounds_is_a_bound(relations: list[Relation], mean: Relation) -> None:
    rows = [likelihood("a", -1.0 - seed, one, 8 + seed, seed=seed) for seed, one in enumerate(relations)]
    cell = cells(only(rows))["a"]
    assert (cell.value, cell.relation, cell.n_draws) == (-(1 + len(rows)) / 2, mean, None)


@pytest.mark.parametrize(
    "relations",
    [
        [Relation.LOWER_BOUND, Relation.ESTIMATE], [Relation.LOWER_BOUND, Relation.UPPER_BOUND],
        [Relation.ESTIMATE, Relation.UPPER_BOUND, Relation.ESTIMATE], [Relation.EXACT, None],
        [Relation.LOWER_BOUND, Relation.EXACT, Relation.ESTIMATE],
    ],
)  # fmt: skip
def test_bounds_and_estimates_have_no_mean(relations: list[Relation]) -> None:
    rows = [likelihood("a", 1500.0 * (seed + 1), one, 8, seed=seed) for seed, one in enumerate(relations)]
    rows += [likelihood("b", 1.0, Relation.ESTIMATE, 8), likelihood("c", 2.0, Relation.ESTIMATE, 8)]
    section = only(rows)
    cell = cells(section)["a"]
    assert (cell.status, cell.value, cell.spread, cell.relation, cell.best) == (Status.OK, None, None, None, False)
    assert section.lines[-1].label == "a"
    for view in (to_markdown(make_table(rows)), to_text(make_table(rows), 200), to_latex(make_table(rows))):
        assert "no mean" in view
        assert "1500" in view
        assert "3000" in view
    (entry,) = [row for row in csv_rows(rows) if row["model"] == "a"]
    assert (entry["value"], entry["relation"], entry["status"]) == ("", "", "ok")
    assert wide_frame(rows)["log-likelihood"]["value"].count() == 2


def consistent(relation: Relation | None, value: int) -> list[int]:
    """The true values, on a grid, that a reported value leaves possible."""
    grid = range(-3, 4)
    return {
        Relation.EXACT: [value],
        Relation.LOWER_BOUND: [truth for truth in grid if truth >= value],
        Relation.UPPER_BOUND: [truth for truth in grid if truth <= value],
        Relation.ESTIMATE: list(grid),
        None: list(grid),
    }[relation]


@pytest.mark.parametrize("higher", [True, False])
def test_certified_by_enumeration_of_all_truths(higher: bool) -> None:
    counts = {True: 0, False: 0}
    relations = [*Relation, None]
    for one, other, left, right in itertools.product(relations, relations, range(-2, 3), range(-2, 3)):
        a = run("a", value=float(left), relation=one, higher_is_better=higher)
        b = run("b", value=float(right), relation=other, higher_is_better=higher)
        truths = itertools.product(consistent(one, left), consistent(other, right))
        expected = all((x > y) if higher else (x < y) for x, y in truths)
        assert certified(a, b) is expected
        counts[expected] += 1
    assert min(counts.values()) > 20


def test_certified_minds_uncertainty_protocol_and_status() -> None:
    a, b = likelihood("a", -80.0, Relation.LOWER_BOUND, 64), likelihood("b", -90.0, Relation.EXACT, 1)
    assert certified(a, b)
    assert not certified(b, a)
    assert certified(dataclasses.replace(a, stderr=5.0), b)
    assert not certified(dataclasses.replace(a, stderr=5.2), b)
    assert not certified(a, dataclasses.replace(b, ci_high=-80.0))
    assert certified(dataclasses.replace(a, ci_high=math.inf), b)
    assert not certified(a, dataclasses.replace(b, n_real=999))
    assert not certified(dataclasses.replace(a, **FAILED), b)
    assert not certified(dataclasses.replace(a, higher_is_better=None), dataclasses.replace(b, higher_is_better=None))


# Checkpoints


def test_checkpoints() -> None:
    rows = [
        run("a", value=1.0), run("a", value=2.0, checkpoint="final"), run("b", value=3.0, checkpoint="final"),
        run("c", value=4.0),
    ]  # fmt: skip
    values = {
        which: {label: cell.value for label, cell in cells(only(rows, checkpoint=which)).items()}
        for which in ("best", "final", "both")
    }
    assert values == {
        "best": {"a (best)": 1.0, "b (final)": 3.0, "c (best)": 4.0},
        "final": {"a (final)": 2.0, "b (final)": 3.0, "c (best)": 4.0},
        "both": {"a (best)": 1.0, "a (final)": 2.0, "b (final)": 3.0, "c (best)": 4.0},
    }
    assert [line.label for line in only(rows[:2]).lines] == ["a"]
    assert "where a run has none: the other" in to_markdown(make_table(rows))
    assert "where a run has none" not in to_markdown(make_table(rows[:2]))


def test_a_seed_that_failed_before_its_best_checkpoint_is_not_forgotten() -> None:
    rows = [run(value=1.0), run(seed=1, **FAILED, checkpoint="final")]
    assert cells(only(rows))["dcgan"].lost == (1,)


# Numbers


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (12.3456, 0.5678, "12.35 ± 0.57"), (12.3456, 0.0996, "12.35 ± 0.10"), (-0.001, 0.21, "0.00 ± 0.21"),
        (12345.6, 234.5, "12_350 ± 230"), (1234567.0, 99.6, "1_234_570 ± 100"), (3.0, 1200.0, "0 ± 1_200"),
        (0.00012346, 0.0000012, "0.0001235 ± 0.0000012"), (5.0, 0.0, "5"), (0.0, None, "0"), (-0.0, None, "0"),
        (1234567.0, None, "1_234_567"), (3.14159, None, "3.142"), (0.999999, None, "1.000"), (-2.5, None, "-2.500"),
        (123456.7, None, "123_500"), (0.000012345, None, "0.00001234"), (1e-9, None, "1.000e-09"),
        (1e15, None, "1.000e+15"), (1e300, 1e299, "1.000e+300 ± 1.0e+299"), (0.5, 1e-12, "5.000e-01 ± 1.0e-12"),
        (-3.4657359, 2e-17, "-3.466"),
    ],
)  # fmt: skip
def test_digits_follow_the_uncertainty(value: float, spread: float | None, text: str) -> None:
    assert format_number(value, spread) == text.replace("_", "\N{NARROW NO-BREAK SPACE}")


def test_csv_has_full_precision() -> None:
    third = 1 / 3
    (row,) = csv_rows([run(value=third, stderr=third / 7, ci_low=-third, ci_high=2 * third)])
    assert [float(row[name]) for name in ("value", "spread", "ci_low", "ci_high")] == [
        third, third / 7, -third, 2 * third,
    ]  # fmt: skip
    assert row["ci_low"] == repr(-third)


# Views


def test_views_depend_on_the_set_of_rows_alone() -> None:
    rows = realistic()
    rows += [dataclasses.replace(row, run_id="again", value=1.0) for row in rows[::7] if row.value is not None]
    rows += [dataclasses.replace(row, value=2.0) for row in rows[::5] if row.value is not None]
    expected = [make(make_table(rows, checkpoint="both")) for make in (to_csv, to_markdown, to_latex, to_text)]
    for seed in range(5):
        shuffled = rows + rows[::3]
        random.Random(seed).shuffle(shuffled)
        found = [make(make_table(shuffled, checkpoint="both")) for make in (to_csv, to_markdown, to_latex, to_text)]
        assert found == expected


def test_rows_and_frames_of_rows_make_the_same_table(tmp_path: Path) -> None:
    rows = realistic()
    write_rows(tmp_path / "rows.jsonl", rows)
    loaded = load_rows([tmp_path])
    for frame in (read_frame([tmp_path]), loaded, loaded.astype("object"), loaded.sample(frac=1, random_state=0)):
        assert to_csv(make_table(frame)) == to_csv(make_table(rows))
        assert to_markdown(make_table(frame)) == to_markdown(make_table(rows))
    assert to_csv(make_table(loaded[loaded["seed"] == 0])) == to_csv(make_table([row for row in rows if row.seed == 0]))
    with pytest.raises(UserError, match="lacks the columns seed"):
        make_table(loaded.drop(columns="seed"))
    with pytest.raises(UserError, match="no rows"):
        make_table(loaded[:0])


def test_a_wide_frame_has_what_the_table_shows() -> None:
    rows = realistic()
    wide = wide_frame(rows)
    made = make_table(rows)
    assert list(wide.index) == [(part.dataset, line.label) for part in made.sections for line in part.lines]
    shown = [cell for section in made.sections for cell in section.cells.values() if cell.value is not None]
    assert wide.xs("value", axis=1, level=1).count().sum() == len(shown)
    assert wide.xs("value", axis=1, level=1).sum().sum() == pytest.approx(sum(cell.value or 0 for cell in shown))
    assert wide.loc[("digits", "maf #group "), ("log-likelihood", "relation")] == "exact"
    assert "FID (500 samples)" in wide.columns.get_level_values(0)
    assert list(wide_frame(rows, metrics=["log_likelihood"]).columns) == [
        ("log-likelihood", part) for part in ("value", "stderr", "stderr_seeds", "stderr_test", "relation")
    ]  # fmt: skip


def test_a_wide_frame_keeps_metrics_of_one_title_apart() -> None:
    wide = wide_frame([run(dataset="one", metric="fid[a]"), run(dataset="two", metric="fid[b]", value=2.0)])
    assert wide["fid[a]"]["value"].count() == wide["fid[b]"]["value"].count() == 1


def test_the_wide_frames_example_is_true() -> None:
    import bench.tables.frame

    assert doctest.testmod(bench.tables.frame).attempted > 0
    assert doctest.testmod(bench.tables.frame).failed == 0


def test_a_leaderboard_can_be_made_again(tmp_path: Path) -> None:
    rows = realistic()
    paths = write_leaderboard(rows, tmp_path / "results", "small")
    assert [path.name for path in paths] == ["small.csv", "small.md", "small.tex"]
    first = [path.read_bytes() for path in paths]
    write_leaderboard(list(reversed(rows)), tmp_path / "results", "small")
    assert [path.read_bytes() for path in paths] == first
    assert sorted(tmp_path.joinpath("results").iterdir()) == paths
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        write_leaderboard(rows, tmp_path / "file", "x")


def test_markdown_says_where_the_numbers_come_from() -> None:
    markdown = to_markdown(make_table(realistic()))
    facts = markdown.split("\n\n")[1]
    for fact in ["revision d0", "split test", "budget 60000 examples", "device cpu", "seeds 0, 1, 2",
                 "commit abc, dirty",
                 "real examples 1\u202f000", "model samples 500, 1\u202f000", "draws K 8, 64", "checkpoint best",
                 "features mnist-cnn #e0"]:  # fmt: skip
        assert fact in facts
    assert "± standard error over new seeds and new test examples, unless noted" in markdown
    assert "] ± over the seeds alone: the rows do not hold the part of the test examples" in markdown
    both = to_markdown(make_table([run("a", stderr=1.0), run("b", 0, 1.0), run("b", 1, 2.0)]))
    assert "± standard error over the seeds, s/√m, without the part of the test examples" in both
    assert "| ≈" not in both
    assert "**1.0 ± 1.0** [1]" in both
    assert "[1] ± within the run: how much training varies is unknown from one seed" in both


def test_every_view_has_every_line_and_cell() -> None:
    table = make_table(realistic())
    assert len(to_csv(table).splitlines()) - 1 == sum(len(section.cells) for section in table.sections)
    for make in (to_markdown, to_latex, to_text):
        for name in ("gaussian", "maf \\#anothe" if make is to_latex else "maf #anothe", "wgan-gp"):
            assert name in make(table)
    for line in to_markdown(table).splitlines():
        assert not line.startswith("|") or line.count("|") in (8, 9)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_terminal_text_fits_its_width_and_keeps_every_number(width: int) -> None:
    table = make_table(realistic())
    text = to_text(table, width)
    assert max(len(line) for line in text.splitlines()) <= width
    words = set(text.split())
    for section in table.sections:
        for cell in section.cells.values():
            if cell.value is not None:
                first = format_number(cell.value, cell.spread).split("\N{NARROW NO-BREAK SPACE}")[0].split(" ")[0]
                assert any(word.startswith(first) for word in words)
    # A number is never broken over two lines: the sign of its spread is followed by digits.
    assert not re.search(r"±\s*$", text.split("[1]")[0], flags=re.MULTILINE)


PAYLOADS = [
    "=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "\uff1d1",
    "<script>alert(1)</script>",
    "a|b", "a\nb | c", "![x](http://x)", "[x](javascript:0)", "`x`", "**x**", "__x__", "\\input{/etc/passwd}",
    "a & b % c",
    "$x$ #1 ~^_{}", "\x1b[31mred\x07", "[bold red]x[/]", "\u202eright to left", "] \\\\ [1cm]", "a\\", ":smile:",
    '"q",""',
]  # fmt: skip
STRINGS = [name for name, kind in ResultRow.__annotations__.items() if kind is str]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_can_be_injected_through_any_string(payload: str) -> None:
    harmless = [run("a", stderr=0.5), run("b", value=-2.0), run("c", **FAILED, reason="x", n_fake=None)]
    expected = make_table(harmless)
    commands = set(re.findall(r"\\[A-Za-z]+", to_latex(expected))) | {
        "\\textbackslash", "\\textasciicircum", "\\textasciitilde", "\\textless", "\\textgreater", "\\textbar",
        "\\uparrow",
    }  # fmt: skip
    assert len(STRINGS) >= 18
    for name in [*STRINGS, "all"]:
        change = dict.fromkeys(STRINGS if name == "all" else [name], payload)
        rows = [dataclasses.replace(row, **change) for row in harmless]  # type: ignore[arg-type]
        table = make_table(rows)
        # CSV: the same shape, no cell that a spreadsheet would run; numbers as they are.
        lines = list(csv.reader(io.StringIO(to_csv(table))))
        assert {len(line) for line in lines} == {40}
        numbers = {lines[0].index(one) for one in ("value", "ci_low", "ci_high")}
        assert name == "all" or "-2.0" in {line[lines[0].index("value")] for line in lines}
        for line in lines:
            texts = [text for place, text in enumerate(line) if place not in numbers]
            assert not any(text.lstrip().startswith(tuple("=+-@\uff1d")) for text in texts)
        # Markdown: rows of equal length, no HTML, link, code or emphasis from outside.
        markdown = to_markdown(table)
        grid = [line for line in markdown.splitlines() if line.startswith("| ")]
        assert len(grid) == 2 + sum(len(section.lines) for section in table.sections)
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in grid}) == 1
        assert "<" not in markdown.replace("<br>", "")
        assert "](" not in markdown
        assert not re.search(r"(?<!\\)(?:\\\\)*[`~$_]", markdown)
        # LaTeX: our commands only, and rows of equal length.
        latex = to_latex(table)
        assert set(re.findall(r"\\[A-Za-z]+", latex)) <= commands
        body = latex.split("\\toprule\n")[1].split("\n\\bottomrule")[0].replace("\\midrule\n", "").splitlines()
        assert all(line.endswith(r" \\") and line.count(r"\\") == 1 for line in body)
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
        assert not any(line.startswith("[") for line in body)
        assert not any(re.search(r"(?<!\\)%", line) for line in latex.splitlines() if not line.startswith("% "))
        # Terminal: nothing that acts on it, and no markup.
        text = to_text(table, 300)
        assert all(character.isprintable() or character in "\n\u202f" for character in text)
        if payload == "[bold red]x[/]" and name == "model":
            assert payload in text


# The command


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli_table.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = realistic()
    (tmp_path / "runs" / "deep").mkdir(parents=True)
    write_rows(tmp_path / "runs" / "rows.jsonl", rows[::2])
    write_rows(tmp_path / "runs" / "deep" / "more.jsonl", rows[1::2])
    for name, make in {"csv": to_csv, "markdown": to_markdown, "latex": to_latex, "text": to_text}.items():
        assert cli_table.main(parse(str(tmp_path / "runs"), "--format", name)) == 0
        assert capsys.readouterr().out == make(make_table(rows))
        out = tmp_path / f"table.{name}"
        assert cli_table.main(parse(str(tmp_path / "runs"), "--format", name, "--out", str(out))) == 0
        assert out.read_text() == make(make_table(rows))
        assert capsys.readouterr().out == ""
    options = ["--checkpoint", "final", "--metric", "fid", "--metric", "log_likelihood"]
    cli_table.main(parse(str(tmp_path / "runs" / "*.jsonl"), str(tmp_path / "runs" / "deep"), *options))
    expected = make_table(rows, checkpoint="final", metrics=["fid", "log_likelihood"])
    assert capsys.readouterr().out == to_text(expected)


def test_the_commands_mistakes_are_user_errors(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [run()])
    path = str(tmp_path / "rows.jsonl")
    for arguments in [
        [str(tmp_path / "nothing")],
        [path, "--metric", "x"],
        [path, "--out", str(tmp_path / "no" / "x")],
    ]:
        with pytest.raises(UserError) as caught:
            cli_table.main(parse(*arguments))
        assert "\n" not in str(caught.value)
    with pytest.raises(SystemExit):
        parse(path, "--checkpoint", "last")


COMMAND = """
import argparse, sys, time
from bench.cli import table as cli_table
parser = argparse.ArgumentParser()
cli_table.add_arguments(parser)
assert cli_table.main(parser.parse_args(sys.argv[1:])) == 0
print(sorted({"torch", "matplotlib", "hydra"} & set(sys.modules)), time.process_time(), file=sys.stderr)
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_command_is_light_and_speaks_to_any_terminal(tmp_path: Path, encoding: str) -> None:
    write_rows(tmp_path / "rows.jsonl", realistic())
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMAND, str(tmp_path)],
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    assert b"gaussian" in result.stdout
    modules, seconds = result.stderr.decode().split("] ")
    assert modules == "["
    assert float(seconds) < 1.0  # of the processor; 0.4 on a quiet machine, most of it pandas


def test_asking_for_help_does_not_wait_for_pandas() -> None:
    code = "import sys, bench.cli.table; assert not {'pandas', 'numpy', 'scipy', 'rich', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_big_table_is_made_in_a_second_or_two() -> None:
    import time

    rows = [
        run(f"m{model}", seed, value=float(seed + model), metric=f"metric{metric}", metric_title="")
        for model, seed, metric in itertools.product(range(50), range(10), range(20))
    ]
    start = time.process_time()
    table = make_table(rows)
    to_csv(table)
    assert time.process_time() - start < 5
    assert len(table.sections[0].cells) == 1000


def test_seeds_of_a_cell_show_bounds_of_the_same_number_of_draws() -> None:
    """A bound measured again with more draws replaces nothing; it is shown once all seeds have it."""
    few = [
        likelihood("vae", -90.0 - seed, Relation.LOWER_BOUND, 16, seed=seed, measuring_key="k16") for seed in range(3)
    ]
    more = [
        likelihood("vae", -80.0 - seed, Relation.LOWER_BOUND, 256, seed=seed, measuring_key="k256") for seed in range(3)
    ]
    for measured, value, draws in (
        ([*few, more[0]], -91.0, 16),
        ([*few, *more[:2]], -91.0, 16),
        ([*few, *more], -81.0, 256),
    ):
        (cell,) = cells(only(measured)).values()
        assert (cell.value, cell.n_draws, cell.seeds) == (value, draws, (0, 1, 2))
