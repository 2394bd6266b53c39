"""All pairs of two sets of features, block by block, so that memory does not grow with the number of pairs."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["PAIRS", "blocks", "squared_distances"]

PAIRS = 2**26
"""Pairs at once: 512 MB in float64."""


def blocks(x: Tensor, columns: int, pairs: int = PAIRS) -> Iterator[tuple[slice, Tensor]]:
    """The rows of ``(N, D)``, some at a time, and where they stand; each is paired with so many ``columns``."""
    size = max(1, min(1024, pairs // max(1, columns)))
    for start in range(0, len(x), size):
        part = x[start : start + size]
        yield slice(start, start + len(part)), part


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    r"""Squared Euclidean distances ``(N, M)`` of ``(N, D)`` and ``(M, D)``, not below 0.

    :math:`|x|^2 - 2 x \cdot y + |y|^2` cancels where the features lie far from the origin: subtract a common mean
    first. Features that differ in no bit have distance 0 but for rounding of about :math:`10^{-16} |x|^2`.
    """
    squares = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)  # (N, M)
    return squares.add_(x.square().sum(1)[:, None]).clamp_min_(0)
