"""All pairs of two sets of features, block by block, so that memory does not grow with the number of pairs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.device import full_float32

__all__ = [
    "PAIRS",
    "Cloud",
    "Frame",
    "blocks",
    "clouds",
    "exact_squared_distances",
    "frame_of",
    "lower_bounds",
    "nearest_bounds",
    "rows_at_a_time",
    "squared_distances",
]

PAIRS = 2**26
"""Pairs at once: 512 MB in float64."""
PIECE = 2**20
"""Entries of features in float64 at once: 8 MB."""


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


@dataclass(frozen=True)
class Frame:
    """Where a batch lies, ``(D,)`` float64, and a power of two about as large as it is: to divide by it rounds nothing.

    Both are medians, so that no single example moves them far: near all others little is lost to rounding.
    """

    centre: Tensor
    unit: float


def frame_of(x: Tensor) -> Frame:
    """Return the median of each coordinate, and the median of the distances from it that are not 0 (or 1)."""
    width = max(1, PIECE // len(x))
    centre = torch.cat([columns.double().median(dim=0).values for columns in x.split(width, dim=1)])
    distance = torch.cat([(piece.double() - centre).norm(dim=1) for piece in x.split(rows_at_a_time(x))])
    distance = distance[distance > 0]
    spread = distance.median().item() if len(distance) > 0 else 1.0
    return Frame(centre, math.ldexp(0.5, math.frexp(spread)[1]) if math.isfinite(spread) else math.inf)


def rows_at_a_time(x: Tensor) -> int:
    """Return how many rows of ``x`` to convert to float64 at a time, because a whole split could take gigabytes."""
    return max(1, PIECE // x.shape[1])


@dataclass(frozen=True)
class Cloud:
    r"""Features whose squared distances are bounded in float32, twice as fast as in float64 and half as large.

    With :math:`u = 2^{-24}` and rows a, b of D entries about a centre, the rounding of entries and products in float32
    changes :math:`|a|^2 - 2 a \cdot b + |b|^2` by at most

    .. math:: (D + 16) \, u \, (|a|^2 + |b|^2)

    where nothing is below the least number of float32, and by less than :math:`D 2^{-124}` more where something is,
    so ``lower_bounds`` lies below the squared distance by at most 2 (doubt of a + doubt of b). That holds whatever the
    order in which a product of matrices is summed, so on a GPU as well, but not in TF32.

    Attributes:
        x: As given, ``(N, D)``.
        unit: Of all distances: a power of two, so that squares neither overflow nor vanish.
        rough: About the centre, ``(N, D)`` float32.
        squares: Squared norms about the centre, ``(N,)`` float64.
        doubt: ``(N,)`` float64.
    """

    x: Tensor
    unit: float
    rough: Tensor
    squares: Tensor
    doubt: Tensor

    @classmethod
    def about(cls, centre: Tensor, unit: float, x: Tensor) -> "Cloud":
        """Features ``(N, D)`` about a centre ``(D,)`` float64."""
        rough = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        squares = torch.empty(len(x), dtype=torch.float64, device=x.device)
        for rows, part in blocks(x, x.shape[1], PIECE):
            moved = (part.double() - centre) / unit
            rough[rows], squares[rows] = moved, moved.square().sum(1)
        return cls(x, unit, rough, squares, (1.01 * x.shape[1] + 16) * (2.0**-24 * squares + 2.0**-124))


def clouds(x: Tensor, y: Tensor) -> tuple[Cloud, Cloud]:
    """Two sets of features, ``(N, D)`` and ``(M, D)``, about the mean of the first, in a unit about as large as it."""
    centre = x.mean(0, dtype=torch.float64)
    spread = math.sqrt(sum((part.double() - centre).square().sum().item() for _, part in blocks(x, 1)) / len(x))
    unit = math.ldexp(1.0, math.frexp(spread)[1]) if 0 < spread < math.inf else 1.0
    return Cloud.about(centre, unit, x), Cloud.about(centre, unit, y)


def lower_bounds(a: Cloud, b: Cloud, rows: slice, columns: slice) -> Tensor:
    """Lower bounds of squared distances ``(n, m)`` float32 of some rows of a and of b; they may lie below 0."""
    of_a, of_b = ((one.squares - one.doubt).float() for one in (a, b))
    with full_float32():
        bounds = torch.addmm(of_b[columns], a.rough[rows], b.rough[columns].T, alpha=-2)
    return bounds.add_(of_a[rows, None])


def exact_squared_distances(a: Cloud, i: Tensor, b: Cloud, j: Tensor) -> Tensor:
    """Squared distances ``(P,)`` float64 of the pairs (a_i, b_j), from their differences: equal rows are at 0."""
    size = rows_at_a_time(a.x)
    parts = [a.squares.new_zeros(0)]
    for left, right in zip(i.split(size), j.split(size), strict=True):
        parts.append(((a.x[left].double() - b.x[right].double()) / a.unit).square().sum(1))
    return torch.cat(parts)


def nearest_bounds(x: Cloud, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest lower bounds between each example and others, ascending, and which these are: ``(N, k)`` each.

    Each pair is computed once.
    """
    n = len(x.x)
    near = x.rough.new_full((n, k), math.inf)
    index = torch.zeros(n, k, dtype=torch.long, device=near.device)

    def keep(rows: slice, bounds: Tensor, first: int) -> None:
        values, places = bounds.topk(min(k, bounds.shape[1]), largest=False)
        near[rows], chosen = torch.cat([near[rows], values], 1).topk(k, largest=False)
        index[rows] = torch.cat([index[rows], places + first], 1).gather(1, chosen)

    for rows, part in blocks(x.rough, n):
        bounds = lower_bounds(x, x, rows, slice(rows.start, n))  # (b, n - start)
        bounds.diagonal().fill_(math.inf)
        keep(rows, bounds, rows.start)
        if rows.stop < n:
            keep(slice(rows.stop, n), bounds[:, len(part) :].T.contiguous(), rows.start)
    return near, index
