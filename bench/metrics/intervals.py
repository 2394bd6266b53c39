"""Make estimates with standard errors and 95 % intervals. Uses the standard library only."""

import math
from typing import Any

from bench.schema import Estimate, MetricInfo, Relation

__all__ = ["Z975", "measured", "wilson_interval"]

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
    relation: Relation = Relation.ESTIMATE,
    **about: Any,
) -> Estimate:
    r"""Return an estimate with its normal 95 % interval :math:`v \pm 1.96\,se`, clipped to its range.

    Arguments:
        info: Description of the number.
        value: The value v.
        test: Standard error due to the test examples. All runs on one split share them, so more seeds do not reduce it,
            and part of it cancels in comparisons.
        draws: Standard error due to this run's own draws: its samples, or its draws of a likelihood.
        stderr: Total standard error; None: the root of the sum of the squares of both.
        within: Smallest and largest possible value.
        relation: Whether the value is exact, an estimate or a bound.
        about: Further fields of ``Estimate``.
    """
    if stderr is None and (test is not None or draws is not None):
        stderr = math.hypot(test or 0.0, draws or 0.0)
    low = high = None
    if stderr is not None:
        low, high = max(within[0], value - Z975 * stderr), min(within[1], value + Z975 * stderr)
    ends = {"ci_low": low, "ci_high": high} | about
    return Estimate(info, value, stderr, relation=relation, stderr_test=test, stderr_draws=draws, **ends)


def wilson_interval(p: float, n: int) -> tuple[float, float]:
    r"""Return the 95 % interval for a proportion p of n trials (Wilson 1927), which lies in [0, 1] even at p = 1.

    .. math:: \frac{p + z^2/2n \pm z \sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}
    """
    centre = p + Z975**2 / (2 * n)
    half = Z975 * math.sqrt(p * (1 - p) / n + Z975**2 / (4 * n**2))
    low, high = (centre - half) / (1 + Z975**2 / n), (centre + half) / (1 + Z975**2 / n)
    return max(0.0, min(p, low)), min(1.0, max(p, high))  # without rounding, p would always be between them
