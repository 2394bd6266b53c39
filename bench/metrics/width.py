"""The median distance between real examples: the unit in which kernels measure theirs."""

import math

import torch
from torch import Generator, Tensor

from bench.metrics.pairs import squared_distances

__all__ = ["MOST", "median_distance", "some"]

MOST = 2000
"""Examples whose pairs are looked at."""


def some(n: int, generator: Generator) -> Tensor:
    """At most 2000 random ones of n examples, their indices."""
    return torch.randperm(n, generator=generator)[:MOST]


def median_distance(x: Tensor) -> tuple[float, Tensor]:
    r"""The median over all pairs of ``(N, D)``, and the influence of each example on its logarithm, ``(N,)``. Float64.

    The influence on a median m of pairs is :math:`2 (\tfrac12 - F_i(m)) / (m f(m))`, with :math:`F_i` the share of the
    others that lie within m of example i, and f the density of the distances, from the share within a tenth of m.
    """
    x = x.double() - x.double().mean(0)
    squared = squared_distances(x, x)
    rows, columns = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    pairs = squared[rows, columns]
    median = math.sqrt(pairs.median().item())
    within = [(pairs <= (median * factor) ** 2).double().mean().item() for factor in (0.9, 1.1)]
    share = ((squared <= median**2).double().sum(1) - 1) / (len(x) - 1)  # less the example itself
    return median, 2 * (0.5 - share) * 0.2 / max(within[1] - within[0], 1e-12)
