"""The median distance between real examples: the unit in which kernels measure theirs."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bench.metrics.pairs import squared_distances

__all__ = ["MOST", "MedianDistance", "median_distance", "some"]

MOST = 2000
"""Examples whose pairs are looked at."""


def some(n: int, generator: Generator) -> Tensor:
    """At most 2000 random ones of n examples, their indices."""
    return torch.randperm(n, generator=generator)[:MOST]


@dataclass(frozen=True)
class MedianDistance:
    """The median distance, and how it moves with the examples.

    Attributes:
        value: The median.
        influence: Of each example on its logarithm, ``(N,)``.
        quadratic: The part of the logarithm's variance that belongs to pairs alone. The influences count it twice.
    """

    value: float
    influence: Tensor
    quadratic: float

    def variance(self) -> float:
        """Of the logarithm, over other examples; half of it at least is taken to be that of single examples."""
        whole = self.influence.var().item() / len(self.influence)
        return max(whole - self.quadratic, whole / 2)


def median_distance(x: Tensor) -> MedianDistance:
    r"""Return the median over all pairs of ``(N, D)``, N >= 2, in float64.

    The influence of example i on a median m of pairs is :math:`2 (\tfrac12 - F_i(m))\, Q'(\tfrac12) / m`, with
    :math:`F_i` the share of the others that lie within m of it and Q the quantiles of the distances. The slope of Q is
    taken over the range :math:`\tfrac12 \pm s` that one standard error s of the share :math:`F(m)` spans (Woodruff
    1952, "Confidence intervals for medians and other position measures"). A range of distances would not do: distances
    between the modes of a distribution come in few sizes, and the median jumps from one to the next. The quadratic part
    is that of the U-statistic F (Hoeffding 1948).
    """
    x = x.double() - x.double().mean(0)
    n, squared = len(x), squared_distances(x, x)
    rows, columns = torch.triu_indices(n, n, offset=1, device=x.device)
    pairs = squared[rows, columns].sort().values
    middle = (len(pairs) - 1) // 2
    median = math.sqrt(pairs[middle].item())
    share = ((squared <= pairs[middle]).double().sum(1) - 1) / (n - 1)  # less the example itself
    error = max(2 * share.std().item() / math.sqrt(n), 1 / len(pairs))
    reach = max(1, round(error * len(pairs)))
    low, high = (pairs[min(max(middle + step, 0), len(pairs) - 1)].sqrt().item() for step in (-reach, reach))
    slope = (high - low) / (2 * error * max(median, 1e-300))
    zeta = max(0.0, 0.25 - 2 * share.var(correction=0).item())
    return MedianDistance(median, 2 * (0.5 - share) * slope, 2 * zeta * slope**2 / n**2)
