r"""How much worse a new sample of runs is than a baseline's, with its standard error and degrees of freedom.

Both functions work along the last axis, so that simulations compare thousands of samples at a time. Positive shifts are
worse. The tests are Student's, one-sided, with the returned degrees of freedom.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.statistics import detectable

__all__ = ["Shift", "design_df", "effect", "p_value", "paired", "upper_bound", "unpaired"]

_POWER = 0.87  # for normal values, so that outliers and skew leave about 0.8 and never less than 0.75

Floats = NDArray[np.float64]


class Shift(NamedTuple):
    """The shift of a mean, its standard error and that error's degrees of freedom."""

    shift: Floats
    stderr: Floats
    df: Floats


def paired(new: ArrayLike, base: ArrayLike) -> Shift:
    r"""Compare runs of the same seeds: the mean of the differences :math:`d_i`, with :math:`s_d / \sqrt n`.

    What a seed does to both runs alike cancels. If nothing changed, differences are symmetric whatever the values are,
    and skew and outliers raise no false alarms.
    """
    difference = np.asarray(new, np.float64) - np.asarray(base, np.float64)
    n = difference.shape[-1]
    spread = difference.std(-1, ddof=1)
    return Shift(difference.mean(-1), spread / np.sqrt(n), np.full(spread.shape, n - 1.0))


def unpaired(new: ArrayLike, base: ArrayLike, new_draws: float = 0.0, base_draws: float = 0.0) -> Shift:
    r"""Compare runs of different seeds.

    The squared standard error is the larger of Welch's :math:`s_1^2/n + s_2^2/m` and of the pooled one; the degrees of
    freedom are the smaller of Welch's and of what Welch's would be if both variances were equal. For n = m this is
    Welch's test (1947). For n = 3 and m = 8, Welch's own raises up to twice as many false alarms on skewed values as
    it should, because a small sample that has little spread by chance counts as precise.

    Arguments:
        new, base: Values, one a training seed.
        new_draws, base_draws: Standard error of one value from its own draws, by the rows; a sample shows at least
            this spread.
    """
    new, base = np.asarray(new, np.float64), np.asarray(base, np.float64)
    n, m = new.shape[-1], base.shape[-1]
    v = np.maximum(new.var(-1, ddof=1), new_draws**2)
    w = np.maximum(base.var(-1, ddof=1), base_draws**2)
    welch = v / n + w / m
    pooled = ((n - 1) * v + (m - 1) * w) / (n + m - 2) * (1 / n + 1 / m)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(welch > 0, v / n / welch, 0.5)
        df = 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (m - 1))
    return Shift(new.mean(-1) - base.mean(-1), np.sqrt(np.maximum(welch, pooled)), np.minimum(df, design_df(n, m)))


def design_df(n: int, m: int) -> float:
    """Welch's degrees of freedom for n and m runs of equal variance."""
    return (1 / n + 1 / m) ** 2 / (1 / (n**2 * (n - 1)) + 1 / (m**2 * (m - 1)))


def p_value(found: Shift, margin: ArrayLike = 0.0) -> Floats:
    """The chance of a shift as bad if the true one is ``margin``. Without any spread it is 0 or 1."""
    from scipy.special import stdtr

    excess = found.shift - np.asarray(margin, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = excess / found.stderr
    p = stdtr(found.df, -np.where(np.isfinite(t), t, 0.0))
    return np.where(found.stderr > 0, p, np.where(excess > 0, 0.0, 1.0))


def upper_bound(found: Shift, level: float) -> Floats:
    """The shift that the true one exceeds with at most the chance ``level``."""
    from scipy.special import stdtrit

    return found.shift - stdtrit(found.df, level) * found.stderr


def effect(stderr: float, df: float, level: float) -> float:
    """The worsening that a test with these seeds calls one in 80 of 100 cases, with a reserve for outliers."""
    return detectable(stderr, df, level, _POWER)
