"""Intervals that more than one metric needs. Standard library only."""

import math

__all__ = ["wilson_interval"]


def wilson_interval(p: float, n: int) -> tuple[float, float]:
    r"""95 % interval for a proportion p of n trials (Wilson 1927): inside [0, 1], and sensible at p = 1.

    .. math:: \frac{p + z^2/2n \pm z \sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}
    """
    z = 1.959964
    centre = p + z**2 / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    return max(0.0, min(p, low)), min(1.0, max(p, high))  # p is between them, but for rounding
