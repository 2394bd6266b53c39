"""The interval of a cell covers a new seed and a new test set as often as it says."""

import math

import numpy as np
import pytest
from helpers_coverage import coverage
from helpers_intervals import CASES, DEAR, coverage_of
from helpers_rows import make_row

from bench.rows.frame import to_frame
from bench.schema import Relation, Source
from bench.tables.aggregate import make_table
from bench.tables.model import Cell
from bench.tables.uncertainty import error_parts, quantile


@pytest.mark.parametrize("m", [1, 2, 3, 5])
@pytest.mark.parametrize("ratio", [0.3, 1.0, 3.0])
def test_the_interval_covers_new_seeds_and_test_sets(m: int, ratio: float) -> None:
    # Four standard errors of the simulation around 93 and 97 %.
    assert abs(coverage(m, ratio, 400)["total"] - 0.95) < 0.02 + 4 * math.sqrt(0.95 * 0.05 / 400)


def test_the_seeds_alone_forget_the_test_set() -> None:
    found = coverage(3, 0.3, 400)
    assert found["seeds_alone"] < 0.7 < 0.9 < found["total"]


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2, 3, 5])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_the_interval_covers_between_93_and_97_percent(m: int, ratio: float) -> None:
    assert 0.93 < coverage(m, ratio, 20_000)["total"] < 0.97


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in DEAR])
def test_intervals_of_metrics_cover_what_they_say(case: str) -> None:
    """Reduced from tests/benchmarks/bench_coverage.py. Of 300 draws the standard error is 1.3 %."""
    for one in coverage_of(case, 300):
        if one.redrawn == "both":
            assert one.covered > 0.95 - 0.02 - 3 * 0.0126, one


@pytest.mark.parametrize(
    "case", ["a share of 0.01 in 1000", "shares of 0.99 and 1", "25 modes, 5 missing", "exact likelihood of a normal"]
)
def test_intervals_that_are_quickly_simulated(case: str) -> None:
    for one in coverage_of(case, 100):
        assert one.covered > 0.85, one


def cell(*rows: dict[str, object], **shared: object) -> Cell:
    made = [make_row(**{"seed": seed, "run_id": f"r{seed}", **shared, **row}) for seed, row in enumerate(rows)]
    (section,) = make_table(made).sections
    (only,) = section.cells.values()
    return only


def test_the_parts_add_up_and_the_shared_part_counts_once() -> None:
    found = cell({"value": 3.0}, {"value": 5.0}, {"value": 10.0}, stderr=5.0, stderr_test=4.0, stderr_draws=3.0)
    assert found.spread_kind == "total"
    assert found.stderr_seeds == pytest.approx(math.sqrt(13 / 3))
    assert found.stderr_test == 4.0
    assert found.stderr_draws == pytest.approx(3 / math.sqrt(3))
    assert found.spread == pytest.approx(math.sqrt(13 / 3 + 16))
    assert found.spread is not None
    reach = quantile(math.sqrt(13 / 3), 4.0, 3, 1000) * found.spread
    assert (found.ci_low, found.ci_high) == pytest.approx((6 - reach, 6 + reach))


@pytest.mark.parametrize(
    ("stated", "test", "draws"),
    [
        ({"stderr_test": 3.0, "stderr_draws": 4.0}, 3.0, 4.0),
        ({"stderr_draws": 4.0}, 3.0, 4.0),
        ({"stderr_test": 3.0}, 3.0, 4.0),
        ({"relation": Relation.EXACT}, 5.0, 0.0),
        ({"n_real": None}, 0.0, 5.0),
        ({"stderr": None, "n_real": None}, 0.0, math.nan),
        ({}, math.nan, math.nan),
        ({"stderr": None}, math.nan, math.nan),
    ],
)
def test_parts_follow_from_what_a_row_states(stated: dict[str, object], test: float, draws: float) -> None:
    parts = error_parts(to_frame([make_row(**{"stderr": 5.0, **stated})]))
    np.testing.assert_allclose([part.item() for part in parts], [test, draws])


def test_seeds_of_the_same_samples_of_others_are_no_new_samples() -> None:
    found = cell({"value": 1.0}, {"value": 1.0}, stderr=0.5, source=Source.EXTERNAL_SAMPLES)
    assert (found.spread, found.spread_kind, found.stderr_seeds) == (0.5, "run", None)


def test_the_quantile_is_students_where_one_part_is_all() -> None:
    from scipy.stats import norm, t  # type: ignore[import-untyped,unused-ignore]

    assert quantile(1.0, 0.0, 3, 500) == pytest.approx(t.ppf(0.975, 2))
    assert quantile(0.0, 1.0, 3, 500) == pytest.approx(t.ppf(0.975, 499))
    assert quantile(0.0, 1.0, 3, None) == pytest.approx(norm.ppf(0.975))
    assert quantile(0.0, 0.0, 2, None) == pytest.approx(t.ppf(0.975, 1))
