"""Make estimates with standard errors and 95 % intervals. Uses the standard library only."""

import math
from typing import Any

from bench.schema import Estimate, MetricInfo, Relation

__all__ = ["Z975", "combined_interval", "measured", "proportion_error", "wilson_interval"]

Z975 = 1.959964
"""The 97.5 % quantile of the standard normal."""


def measured(
    info: MetricInfo,
    value: float,
    *,
    test: float | None = None,
    draws: float | None = None,
    stderr: float | None = None,
    within: tuple[float, float] = (-math.inf, math.inf),
    quantile: float = Z975,
    relation: Relation = Relation.ESTIMATE,
    **about: Any,
) -> Estimate:
    r"""Return an estimate with its 95 % interval :math:`v \pm q\,se`, clipped to its range.

    Arguments:
        info: Description of the number.
        value: The value v.
        test: Standard error due to the test examples. All runs on one split share them, so more seeds do not reduce it,
            and part of it cancels in comparisons.
        draws: Standard error due to this run's own draws: its samples, or its draws of a likelihood.
        stderr: Total standard error; None: the root of the sum of the squares of both.
        within: Smallest and largest possible value.
        quantile: q; larger than the normal one where the standard error is itself uncertain.
        relation: Whether the value is exact, an estimate or a bound.
        about: Further fields of ``Estimate``.
    """
    if stderr is None and (test is not None or draws is not None):
        stderr = math.hypot(test or 0.0, draws or 0.0)
    low = high = None
    if stderr is not None:
        low, high = max(within[0], value - quantile * stderr), min(within[1], value + quantile * stderr)
    ends = {"ci_low": low, "ci_high": high} | about
    return Estimate(info, value, stderr, relation=relation, stderr_test=test, stderr_draws=draws, **ends)


def wilson_interval(p: float, n: float) -> tuple[float, float]:
    r"""Return the 95 % interval for a proportion p of n trials (Wilson 1927), which lies in [0, 1] even at p = 1.

    .. math:: \frac{p + z^2/2n \pm z \sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}
    """
    centre = p + Z975**2 / (2 * n)
    half = Z975 * math.sqrt(p * (1 - p) / n + Z975**2 / (4 * n**2))
    low, high = (centre - half) / (1 + Z975**2 / n), (centre + half) / (1 + Z975**2 / n)
    return max(0.0, min(p, low)), min(1.0, max(p, high))  # without rounding, p would always be between them


def proportion_error(p: float, n: int) -> float:
    r"""Return the standard error of a proportion p of n trials, which is not 0 at p = 0 and p = 1.

    It is that of the proportion with two successes and two failures more (Agresti, Coull 1998, "Approximate is better
    than exact for interval estimation of binomial proportions"): :math:`\tilde n = n + 4,\ \tilde p = (np + 2) /
    \tilde n,\ \sqrt{\tilde p (1 - \tilde p) / \tilde n}`.
    """
    centre = (n * p + 2) / (n + 4)
    return math.sqrt(centre * (1 - centre) / (n + 4))


def combined_interval(
    weights: tuple[float, float],
    values: tuple[float, float],
    intervals: tuple[tuple[float, float], tuple[float, float]],
) -> tuple[float, float]:
    r"""Return the 95 % interval of a weighted sum of two independent estimates from their own 95 % intervals.

    .. math:: \hat\theta - \sqrt{\sum_i (w_i (\hat\theta_i - l_i))^2}, \qquad
              \hat\theta + \sqrt{\sum_i (w_i (u_i - \hat\theta_i))^2},

    with lower and upper ends exchanged where a weight is negative (Zou, Donner 2008, "Construction of confidence limits
    about effect measures"; for two proportions: Newcombe 1998). It keeps the asymmetry of Wilson's intervals.
    """
    low = high = 0.0
    for weight, value, (below, above) in zip(weights, values, intervals, strict=True):
        reach = (value - below, above - value)
        down, up = reach if weight >= 0 else reach[::-1]
        low, high = math.hypot(low, weight * down), math.hypot(high, weight * up)
    whole = sum(weight * value for weight, value in zip(weights, values, strict=True))
    return whole - low, whole + high
