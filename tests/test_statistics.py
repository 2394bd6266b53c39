"""Variance components, many tests at once and detectable effects, against peers, exact cases and simulation."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from bench.statistics import (
    benjamini_hochberg,
    detectable,
    fisher_one_sided,
    holm,
    satterthwaite,
    t_quantile,
    two_way_components,
)


def panels(between: float, shared: float, rest: float, shape: tuple[int, int], count: int) -> "np.ndarray":
    rng = np.random.default_rng(0)
    n, m = shape
    rows, columns = rng.normal(size=(count, n, 1)), rng.normal(size=(count, 1, m))
    noise = rng.normal(size=(count, n, m))
    return 3.0 + between**0.5 * rows + shared**0.5 * columns + rest**0.5 * noise


def test_components_of_a_panel_that_can_be_worked_out_by_hand() -> None:
    # Rows 1 and 5 apart by 4, columns by 2, nothing else: M_a = 16, M_b = 4, M_e = 0.
    found = two_way_components([[0.0, 2.0], [4.0, 6.0]])
    assert (found.mean, found.between, found.within, found.shared) == (3.0, 8.0, 2.0, 2.0)
    assert (found.df_between, found.df_within) == (1.0, 1.0)
    assert found.variance_of_mean == (16 + 4) / 4
    assert found.df_of_mean == pytest.approx(20**2 / (16**2 + 4**2))


@pytest.mark.parametrize(("between", "shared", "rest"), [(4.0, 0.0, 1.0), (1.0, 0.5, 2.0), (9.0, 3.0, 0.1)])
def test_components_are_right_on_average(between: float, shared: float, rest: float) -> None:
    found = [two_way_components(panel) for panel in panels(between, shared, rest, (5, 4), 4000)]
    assert np.mean([one.between for one in found]) == pytest.approx(between, rel=0.07)
    assert np.mean([one.within for one in found]) == pytest.approx(shared + rest, rel=0.07)
    true = between / 5 + shared / 4 + rest / 20
    assert np.var([one.mean for one in found]) == pytest.approx(true, rel=0.07)
    assert np.mean([one.variance_of_mean for one in found]) == pytest.approx(true, rel=0.07)


def test_the_mean_of_a_panel_is_covered_as_often_as_its_degrees_of_freedom_say() -> None:
    found = [two_way_components(panel) for panel in panels(1.0, 0.5, 1.0, (4, 4), 4000)]
    z = [(one.mean - 3.0) / one.variance_of_mean**0.5 / t_quantile(0.025, one.df_of_mean) for one in found]
    assert 0.93 <= np.mean(np.abs(z) <= 1) <= 0.98


@pytest.mark.parametrize("seeds", [2, 4])
def test_the_interval_of_the_mean_stays_finite_where_a_component_is_small_by_chance(seeds: int) -> None:
    found = [two_way_components(panel) for panel in panels(0.0, 0.1, 1.0, (seeds, seeds), 2000)]
    assert min(one.df_of_mean for one in found) >= seeds - 1
    reach = [t_quantile(0.025, one.df_of_mean) * one.variance_of_mean**0.5 for one in found]
    assert max(reach) < 100
    assert 0.93 <= np.mean([abs(one.mean - 3.0) <= r for one, r in zip(found, reach, strict=True)]) <= 0.985


def test_mean_squares_agree_with_those_of_statsmodels() -> None:
    pytest.importorskip("statsmodels", reason="statsmodels is an oracle here, nothing that genbench needs")
    import pandas as pd
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    panel = panels(1.0, 0.5, 1.0, (5, 3), 1)[0]
    long = pd.DataFrame([(i, j, panel[i, j]) for i in range(5) for j in range(3)], columns=["i", "j", "y"])
    square = anova_lm(ols("y ~ C(i) + C(j)", long).fit())["mean_sq"]
    found = two_way_components(panel)
    assert found.between == pytest.approx(max(square["C(i)"] - square["Residual"], 0) / 3)
    assert found.within == pytest.approx((square["C(j)"] - square["Residual"]) / 5 + square["Residual"])


def test_without_shared_draws_the_mean_has_the_variance_of_the_seeds_means() -> None:
    panel = np.array([[1.0, 2.0, 1.5], [4.0, 3.0, 3.5], [7.0, 8.0, 7.5]])  # columns have less spread than the rest
    found = two_way_components(panel)
    assert found.shared == 0
    assert found.variance_of_mean == pytest.approx(panel.mean(1).var(ddof=1) / 3)
    assert found.df_of_mean == 2


@pytest.mark.parametrize("panel", [[[1.0, 2.0]], [[1.0], [2.0]], [1.0, 2.0], [[1.0, np.nan], [2.0, 3.0]], []])
def test_what_is_no_panel_is_refused(panel: object) -> None:
    with pytest.raises(ValueError, match="panel"):
        two_way_components(panel)  # type: ignore[arg-type]


def test_constant_panels_have_no_components() -> None:
    found = two_way_components(np.full((3, 3), 7.0))
    assert (found.between, found.within, found.variance_of_mean, found.df_between) == (0, 0, 0, 0)


def test_satterthwaite_is_welch_for_two_samples_whatever_the_scale() -> None:
    a, b = np.array([1.0, 2.5, 2.0, 4.0]), np.array([3.0, 9.0, 5.0])
    expected = stats.ttest_ind(b, a, equal_var=False).df
    for scale in (1.0, 1e-200, 1e150):
        parts = [scale * a.var(ddof=1) / 4, scale * b.var(ddof=1) / 3]
        assert satterthwaite(parts, [3, 2]) == pytest.approx(expected)
    assert satterthwaite([0.0, 0.0], [3, 2]) == 2


def test_adjusted_p_values() -> None:
    rng = np.random.default_rng(1)
    for size in (0, 1, 2, 7, 40):
        p = np.round(rng.random(size) ** 3, 2)  # with ties
        found, false = holm(p), benjamini_hochberg(p)
        if size:
            assert false == pytest.approx(stats.false_discovery_control(p, method="bh"))
        for level in (0.01, 0.05, 0.2):  # Holm's steps as he wrote them
            rejected = np.zeros(size, bool)
            for k, place in enumerate(np.argsort(p, kind="stable")):
                if p[place] > level / (size - k):
                    break
                rejected[place] = True
            assert ((found <= level) == rejected).all()


def test_quantiles_of_t() -> None:
    for level, df in ((0.01, 3.5), (0.05, 5.0), (0.5, 1.0)):
        assert stats.t.sf(t_quantile(level, df), df) == pytest.approx(level)


@pytest.mark.parametrize("df", [1, 2, 4.5, 30])
@pytest.mark.parametrize("level", [0.05, 0.001])
def test_the_detectable_effect_is_found_with_its_power(df: float, level: float) -> None:
    rng = np.random.default_rng(2)
    mine, its = (np.sqrt(rng.chisquare(df, 400_000) / df) for _ in range(2))
    needed = t_quantile(level, df) * its
    assert ndtr(detectable(1.0, df, level, known=True) - needed).mean() == pytest.approx(0.8, abs=0.01)
    assert ndtr(detectable(mine, df, level) - needed).mean() == pytest.approx(0.8, abs=0.01)  # type: ignore[arg-type]
    assert detectable(3.0, df, level) == 3 * detectable(1.0, df, level)
    if df == 30:
        known = detectable(1.0, df, level, known=True)
        assert stats.nct.sf(t_quantile(level, df), df, known) == pytest.approx(0.8, abs=0.01)


def test_failures_are_compared_exactly() -> None:
    expected = stats.fisher_exact([[3, 2], [0, 8]], alternative="greater").pvalue
    assert fisher_one_sided(3, 5, 0, 8) == pytest.approx(expected)
    assert fisher_one_sided(0, 5, 3, 8) == 1
