"""Tables from hand-made rows: what is ranked, and at which checkpoint."""

import dataclasses
import itertools
import math

import pytest
from helpers_rows import FAILED
from helpers_tables import cells, csv_rows, likelihood, only, run

from bench.schema import Relation, Status
from bench.tables.aggregate import make_table
from bench.tables.certified import certified
from bench.tables.frame import table as wide_frame
from bench.tables.latex import to_latex
from bench.tables.markdown import to_markdown
from bench.tables.text import to_text

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


def test_trainings_of_another_budget_are_no_rivals_in_time() -> None:
    """A training that was told to stop early is short, and no faster for it."""
    shared = {"metric": "train_seconds", "unit": "s", "device": "cuda"}
    rows = [run("a", value=1.0, budget="60000 examples, patience 1", **shared)]
    rows += [run(name, value=value, **shared) for name, value in (("b", 2.0), ("c", 3.0))]
    assert [cell.best for cell in cells(only(rows)).values()] == [False, True, False]
    rows = [dataclasses.replace(row, metric="samples_per_second", unit="1/s") for row in rows]
    assert [cell.best for cell in cells(only(rows)).values()] == [True, False, False]


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
