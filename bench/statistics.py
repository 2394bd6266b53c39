r"""Statistics of repeated runs: variance components, degrees of freedom, many tests at once, detectable effects.

Nothing here knows of rows or metrics.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Components", "benjamini_hochberg", "detectable", "fisher_one_sided", "holm", "satterthwaite", "t_quantile",
    "two_way_components",
]  # fmt: skip

_NODES = 100


@dataclass(frozen=True)
class Components:
    """Where the spread of a panel of I training seeds x J sampling seeds comes from. Variances, not deviations.

    Attributes:
        mean: Of all values.
        between: Variance between training seeds: what retraining changes. 0 where the panel shows none.
        within: Variance within one training over sampling seeds: what drawing samples again changes.
        shared: The part of ``within`` that a sampling seed does to all trainings alike; 0 where the draws of each
            training are its own.
        df_between, df_within: Satterthwaite's degrees of freedom of the two; 0 where ``between`` is 0.
        variance_of_mean: Of ``mean``, over new training seeds and new sampling seeds.
        df_of_mean: Satterthwaite's degrees of freedom of ``variance_of_mean``.
        seeds, draws: I and J.
    """

    mean: float
    between: float
    within: float
    shared: float
    df_between: float
    df_within: float
    variance_of_mean: float
    df_of_mean: float
    seeds: int
    draws: int


def two_way_components(values: ArrayLike) -> Components:
    r"""Variance components of a panel by two-way random effects, one value for each pair.

    .. math:: y_{ij} = \mu + a_i + b_j + e_{ij}, \qquad i \le I \text{ training seeds},\ j \le J \text{ sampling seeds}

    With the mean squares :math:`M_a, M_b, M_e` of rows, columns and the rest (I - 1, J - 1, (I - 1)(J - 1) degrees of
    freedom), the estimates are :math:`\sigma_a^2 = (M_a - M_e)/J` for ``between`` and
    :math:`\sigma_b^2 + \sigma_e^2 = (M_b - M_e)/I + M_e` for ``within``. Draws nested in the trainings are the case
    :math:`\sigma_b^2 = 0`. The mean has the variance
    :math:`(M_a + \max(M_b - M_e, 0)) / IJ`. Degrees of freedom by Satterthwaite (1946); those of the mean are at least
    min(I, J) - 1, because a difference that is small by chance would leave none, and an interval without end.

    Arguments:
        values: Of shape (training seeds, sampling seeds), at least 2 x 2, finite.

    Raises:
        ValueError: The panel is smaller, not a matrix, or holds a number that is not finite.
    """
    panel = np.asarray(values, np.float64)
    if panel.ndim != 2 or min(panel.shape) < 2:
        raise ValueError(f"a panel has at least 2 training seeds x 2 sampling seeds, not the shape {panel.shape}")
    if not np.isfinite(panel).all():
        raise ValueError("a panel holds finite numbers only")
    n, m = panel.shape
    mean = panel.mean()
    rows, columns = panel.mean(1) - mean, panel.mean(0) - mean
    rest = panel - mean - rows[:, None] - columns
    of_rows = m * float(rows @ rows) / (n - 1)
    of_columns = n * float(columns @ columns) / (m - 1)
    of_rest = float((rest**2).sum()) / ((n - 1) * (m - 1))
    df = (n - 1, m - 1, (n - 1) * (m - 1))
    between = max(of_rows - of_rest, 0.0) / m
    within = of_columns / n + of_rest * (n - 1) / n
    shared = max(of_columns - of_rest, 0.0)
    df_of_mean = satterthwaite([of_rows, of_columns, -of_rest], df) if shared > 0 else n - 1
    return Components(
        mean=float(mean),
        between=between,
        within=within,
        shared=shared / n,
        df_between=satterthwaite([of_rows, -of_rest], [df[0], df[2]]) if between > 0 else 0.0,
        df_within=satterthwaite([of_columns / n, of_rest * (n - 1) / n], [df[1], df[2]]),
        variance_of_mean=(of_rows + shared) / (n * m),
        df_of_mean=float(max(df_of_mean, min(df))),
        seeds=n,
        draws=m,
    )


def satterthwaite(variances: Sequence[float], degrees: Sequence[float]) -> float:
    r"""Degrees of freedom of a sum of independent variance estimates: :math:`(\sum_i v_i)^2 / \sum_i (v_i^2 / f_i)`.

    A part that is subtracted is given negative. Where all parts are 0 it is the smallest of the degrees. F. E.
    Satterthwaite (1946), An approximate distribution of estimates of variance components.
    """
    scale = max(map(abs, variances))
    if scale == 0:
        return float(min(degrees))
    parts = [variance / scale for variance in variances]  # their squares neither overflow nor vanish
    return sum(parts) ** 2 / sum(part**2 / f for part, f in zip(parts, degrees, strict=True))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p-values adjusted for all being looked at: reject those at most alpha, and any false rejection has that chance.

    S. Holm (1979), A simple sequentially rejective multiple test procedure.

    >>> holm([0.01, 0.04, 0.03]).round(9).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(p: ArrayLike) -> NDArray[np.float64]:
    """p-values adjusted so that of those at most q, a share q is false on average.

    Y. Benjamini, Y. Hochberg (1995), Controlling the false discovery rate.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(9).tolist()
    [0.03, 0.04, 0.04]
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(-p, kind="stable")
    stepped = np.minimum.accumulate(p[order] * len(p) / np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def t_quantile(level: float, df: float) -> float:
    """The value that Student's t exceeds with the chance ``level``, for example 0.05."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, level))


def detectable(stderr: float, df: float, level: float, power: float = 0.8, *, known: bool = False) -> float:
    r"""The smallest true effect that a one-sided t test at ``level`` finds with the chance ``power``.

    It is :math:`\lambda\, se` with the :math:`\lambda` that solves

    .. math:: P(Z + \lambda\, U > t_{1-\text{level}, f}\, V) = \text{power}, \qquad f U^2,\, f V^2 \sim \chi^2_f,

    where V is the error of the standard error in the test, and U that of ``stderr`` here: of few seeds a standard error
    is often too small by chance, and so would be the effect.

    Arguments:
        stderr: Standard error, estimated with ``df`` degrees of freedom from a sample like the one to be tested.
        known: Whether it is the true one instead; then U = 1.
    """
    return _noncentrality(df, level, power, known) * stderr


@functools.lru_cache(4096)
def _noncentrality(df: float, level: float, power: float, known: bool) -> float:
    """By bisection over quantiles of the chi-square; scipy's own inverse of the noncentral t does not always end."""
    from scipy.special import chdtri, ndtr

    chances = (np.arange(_NODES) + 0.5) / _NODES
    errors = np.sqrt(chdtri(df, chances) / df)
    needed = t_quantile(level, df) * errors[:, None]
    factor = np.ones(1) if known else errors
    low, high = 0.0, float(needed.max() + 10.0) / float(factor.min())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if ndtr(middle * factor - needed).mean() > power else (middle, high)
    return high


def fisher_one_sided(failed: int, of: int, failed_before: int, of_before: int) -> float:
    """The chance of at least as many failures of the new runs, if new and old fail equally often (Fisher 1935)."""
    from scipy.stats import hypergeom

    return float(hypergeom.sf(failed - 1, of + of_before, failed + failed_before, of))
