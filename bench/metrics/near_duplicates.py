"""Search all pairs of a batch for near-duplicates, with distances that are scaled by the local radius.

Inner products about the batch's median are computed in blocks, so that memory grows with N and not with N^2. The
search bounds distances in float32, and compares what may lie below its limit again in float64, by differences. Where
that is more than a small part of a block, because clusters lie far apart or very many pairs coincide, the block is
computed in float64. So the results are always those of float64.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from bench.metrics.pairs import Cloud, Frame, exact_squared_distances, frame_of, lower_bounds, rows_at_a_time

__all__ = [
    "as_contrasted",
    "closest_distances",
    "closest_pairs",
    "collision_degrees",
    "distinct",
    "duplicate_groups",
    "local_radius",
    "neighbour_rank",
    "reference_radius",
]

BLOCK = 1024  # rows at a time; gives 8 MB of distances
FEW = 1 / 128  # of a block's pairs; differences of more cost about as much as its products in float64
ROUNDING = 64 * torch.finfo(torch.float64).eps  # error of squared distances, relative to the squared norms


def neighbour_rank(s: int) -> int:
    """Return the rank k of the neighbour whose distance is the local radius: 20, but at most 2 % of the batch."""
    return max(1, min(20, s // 50))


def distinct(x: Tensor) -> Tensor:
    """Return one index for each different example of ``(N, *shape)``, in lexicographic order: ``(n,)`` int64.

    Only indices are sorted, by NumPy on the CPU. Examples are copied only while they are compared.
    """
    rows = x.flatten(1).contiguous()
    array = rows.numpy()  # (N, F)
    # uint8 rows sort by their bytes. Other rows are sorted by columns; lexsort takes the first column last.
    by_bytes = array.dtype == np.uint8
    order = array.view(f"V{array.shape[1]}")[:, 0].argsort() if by_bytes else np.lexsort(array.T[::-1])
    index = torch.from_numpy(order)
    neighbours = zip(index[:-1].split(BLOCK), index[1:].split(BLOCK), strict=True)
    return index[torch.cat([index[:1] >= 0, *((rows[i] != rows[j]).any(dim=1) for i, j in neighbours)])]


def reference_radius(
    x: Tensor, reference: Tensor, order: Tensor, k: int, *, itself: bool = False, gain: float = 1.0, offset: float = 0.0
) -> Tensor:
    """Return the distance of each of ``x`` (s, F) to its k-th neighbour in ``reference[order]``: ``(s,)`` float64.

    Arguments:
        order: Indices ``(n,)`` of the rows of ``reference`` (N, F) to use.
        itself: Whether ``x`` is the beginning of ``reference[order]``. Then no example counts as its own neighbour.
        gain, offset: ``gain * x + offset`` is compared in place of x. The distance is returned in units of x.
    """
    frame = frame_of(reference)
    moved = _moved(x, (frame.centre - offset) / gain, frame.unit / gain)
    squares = _squares(moved)  # (s,)
    nearest = torch.full((len(x), k), math.inf, dtype=torch.float64, device=x.device)
    order = order.to(x.device)
    for column in range(0, len(order), BLOCK):
        columns = _moved(reference[order[column : column + BLOCK]], frame.centre, frame.unit)
        column_squares = _squares(columns)
        for row in range(0, len(x), BLOCK):
            rows = slice(row, row + BLOCK)
            distance = _squared(moved[rows], squares[rows], columns, column_squares)
            if itself and row == column:
                distance.fill_diagonal_(math.inf)
            nearest[rows] = _smallest(nearest[rows], distance)
    return nearest[:, -1].sqrt() * (frame.unit / gain)


def local_radius(x: Tensor, near: float, candidate_radius: Tensor, k: int, among: int | None = None) -> Tensor:
    r"""Return the distance of each of ``x`` (N, F) to its k-th neighbour in ``x`` that is not a likely copy: ``(N,)``.

    Pairs with :math:`\|x_i - x_j\| \le near \sqrt{c_i c_j}` are likely copies, where c is the ``candidate_radius``
    (N,). They are skipped: in a batch with repetitions the nearest neighbours are copies, and their distance does not
    tell how far apart different examples are. If fewer than k others remain, the radius is the candidate radius.

    Arguments:
        among: Only the first so many of x count as neighbours; None: all.
    """
    among = len(x) if among is None else among
    frame = frame_of(x)
    moved = _moved(x, frame.centre, frame.unit)
    squares = _squares(moved)  # (N,)
    candidates = near * candidate_radius / frame.unit
    nearest = torch.full((len(x), k), math.inf, dtype=torch.float64, device=x.device)
    for row in range(0, len(x), BLOCK):
        rows = slice(row, row + BLOCK)
        for column in range(0, among, BLOCK):
            columns = slice(column, min(column + BLOCK, among))
            distance = _squared(moved[rows], squares[rows], moved[columns], squares[columns])
            distance[distance <= candidates[rows, None] * candidates[columns]] = math.inf
            if row == column:
                distance.fill_diagonal_(math.inf)  # the example itself
            nearest[rows] = _smallest(nearest[rows], distance)
    found = nearest[:, -1].sqrt() * frame.unit
    return torch.where(found.isinf(), candidate_radius, found)


def collision_degrees(x: Tensor, radius: Tensor, threshold: float) -> Tensor:
    r"""Return the number of other examples that each example coincides with: ``(N,)`` int64. Their sum is 2 C.

    A pair coincides if :math:`\|x_i - x_j\| \le t \sqrt{r_i r_j}`, so exact copies always coincide. C is the number of
    such pairs.

    Arguments:
        x: Examples ``(N, F)``, any dtype.
        radius: r, ``(N,)`` float64.
        threshold: t >= 0.
    """
    degrees = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for i, j in _coinciding(x, radius, threshold):
        degrees += torch.bincount(torch.cat([i, j]), minlength=len(x))
    return degrees


def duplicate_groups(x: Tensor, radius: Tensor, threshold: float) -> Tensor:
    """Return the group of each example, ``(N,)`` int64: the connected components of the pairs that coincide.

    SciPy joins the groups, so they are on the CPU.

    Arguments:
        x, radius, threshold: As for ``collision_degrees``.
    """
    group = torch.arange(len(x))
    for i, j in _coinciding(x, radius, threshold):
        if len(i) > 0:
            i, j = i.cpu(), j.cpu()
            # The groups so far are stars: each example and the first one of its group.
            first = torch.full_like(group, len(x)).scatter_reduce_(0, group, torch.arange(len(x)), "amin")[group]
            ends = (torch.cat([i, torch.arange(len(x))]), torch.cat([j, first]))
            graph = sparse.coo_array((np.ones(len(ends[0]), bool), ends), shape=(len(x), len(x)))
            group = torch.from_numpy(sparse.csgraph.connected_components(graph, directed=False)[1]).long()
    return group


def closest_distances(x: Tensor, radius: Tensor, m: int) -> Tensor:
    r"""Return the m smallest values of :math:`\|x_i - x_j\| / \sqrt{r_i r_j}`, i < j, ascending: ``(m,)`` float64.

    Arguments:
        x: Examples ``(N, F)``, any dtype, with at least m pairs.
        radius: r > 0, ``(N,)`` float64.
    """
    return closest_pairs(x, radius, m)[2]


def closest_pairs(x: Tensor, radius: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the m pairs i < j with the smallest :math:`\|x_i - x_j\| / \sqrt{r_i r_j}`, by ascending distance.

    If there are fewer than m pairs, all are returned.

    Arguments:
        x: Examples ``(N, F)``, any dtype.
        radius: r > 0, ``(N,)`` float64.

    Returns:
        i, j, distance: ``(m,)`` int64, int64 and float64.
    """
    search = _Search.of(x)
    inverse = search.frame.unit / radius  # (N,)
    best_i, best_j = torch.zeros((2, 0), dtype=torch.int64, device=x.device)
    best = torch.zeros(0, dtype=torch.float64, device=x.device)
    for rows, columns in _blocks(len(x)):
        bound = best[-1].item() if len(best) == m else math.inf
        near = search.candidates(rows, columns, math.sqrt(bound) / inverse) if bound < math.inf else None
        i, j = _closest(search, rows, columns, inverse, m, bound) if near is None else near
        exact = search.exact(i, j) * inverse[i] * inverse[j]
        best_i, best_j, best = torch.cat([best_i, i]), torch.cat([best_j, j]), torch.cat([best, exact])
        best, order = best.sort(stable=True)
        best_i, best_j, best = best_i[order[:m]], best_j[order[:m]], best[:m]
        if len(best) == m and best[-1] == 0:
            break  # m exact copies; none is closer
    return best_i, best_j, best.sqrt()


def as_contrasted(x: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return a and b with which ``a x + b`` has the mean and the standard deviation of ``reference`` over all entries.

    Where all entries of x are equal, a is 1.
    """
    (mean, std), (their_mean, their_std) = _moments(x), _moments(reference)
    gain = their_std / std if std > 0 else 1.0
    return gain, their_mean - gain * mean


def _moments(x: Tensor) -> tuple[float, float]:
    """Return the mean and the standard deviation of all entries of ``(N, F)``."""
    parts = x.split(rows_at_a_time(x))
    mean = sum(piece.double().sum().item() for piece in parts) / x.numel()
    square = sum((piece.double() - mean).square().sum().item() for piece in parts) / x.numel()
    return mean, math.sqrt(square)


def _moved(x: Tensor, centre: Tensor, unit: float) -> Tensor:
    """Return ``(x - centre) / unit`` in float64."""
    moved = torch.empty(x.shape, dtype=torch.float64, device=x.device)
    for target, piece in zip(moved.split(rows_at_a_time(x)), x.split(rows_at_a_time(x)), strict=True):
        target.copy_((piece.double() - centre) / unit)
    return moved


def _squares(x: Tensor) -> Tensor:
    """Return the squared norms of the rows, ``(N,)``."""
    return torch.cat([piece.square().sum(dim=1) for piece in x.split(rows_at_a_time(x))])


def _squared(a: Tensor, a_squares: Tensor, b: Tensor, b_squares: Tensor) -> Tensor:
    """Return the squared distances ``(A, B)`` between rows. Rows about a centre avoid cancellation of large squares."""
    return torch.addmm(a_squares[:, None] + b_squares, a, b.T, alpha=-2).clamp_min_(0)


def _smallest(nearest: Tensor, distance: Tensor) -> Tensor:
    """Return the k smallest values of each row of ``nearest`` (b, k) and ``distance`` (b, B), ascending: ``(b, k)``."""
    return torch.cat([nearest, distance], dim=1).topk(nearest.shape[1], largest=False).values


def _blocks(n: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of the blocks that hold all pairs i < j of n examples."""
    for row in range(0, n, BLOCK):
        for column in range(row, n, BLOCK):
            yield slice(row, min(row + BLOCK, n)), slice(column, min(column + BLOCK, n))


@dataclass(frozen=True)
class _Search:
    """The pairs i < j of a batch, block by block. All squared distances are in units of ``frame.unit``.

    Attributes:
        frame: Where the batch lies.
        cloud: The batch about that, in float32.
    """

    frame: Frame
    cloud: Cloud

    @classmethod
    def of(cls, x: Tensor) -> "_Search":
        frame = frame_of(x)
        return cls(frame, Cloud.about(frame.centre, frame.unit, x))

    def candidates(self, rows: slice, columns: slice, reach: Tensor) -> tuple[Tensor, Tensor] | None:
        r"""Return the pairs of which float32 does not exclude that the squared distance is at most a_i a_j.

        Arguments:
            reach: a, ``(N,)`` float64.

        Returns:
            i, j: ``(P,)`` int64 each; None if they are more than ``FEW``.
        """
        rounded = reach.float() * (1 + 2.0**-20)  # no product of two is below that in float64
        lower = lower_bounds(self.cloud, self.cloud, rows, columns)  # (b, c)
        near = ~(lower > torch.outer(rounded[rows], rounded[columns]))  # what overflows is not excluded
        if rows == columns:
            near.triu_(1)
        if near.count_nonzero() > FEW * near.numel():
            return None
        i, j = near.nonzero().unbind(dim=1)
        return i + rows.start, j + columns.start

    def distances(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Return the squared distances of a block in float64, infinite for i >= j, and bounds of their rounding."""
        a, b = (_moved(self.cloud.x[part], self.frame.centre, self.frame.unit) for part in (rows, columns))
        squares = self.cloud.squares
        distance = _squared(a, squares[rows], b, squares[columns])
        if rows == columns:
            distance.masked_fill_(torch.ones_like(distance, dtype=torch.bool).tril(), math.inf)
        return distance, ROUNDING * (squares[rows, None] + squares[columns])

    def exact(self, i: Tensor, j: Tensor) -> Tensor:
        """Return the squared distances of the pairs (x_i, x_j) from their differences."""
        return exact_squared_distances(self.cloud, i, self.cloud, j)


def _coinciding(x: Tensor, radius: Tensor, threshold: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the pairs i < j that coincide, block by block: ``(P,)`` int64 each."""
    search = _Search.of(x)
    radius = radius / search.frame.unit
    for rows, columns in _blocks(len(x)):
        near = search.candidates(rows, columns, threshold * radius)
        if near is not None:
            i, j = near
            found = search.exact(i, j) <= threshold**2 * (radius[i] * radius[j])
            yield i[found], j[found]
        else:
            limit = threshold**2 * torch.outer(radius[rows], radius[columns])
            distance, rounding = search.distances(rows, columns)
            inside = distance < limit - rounding
            i, j = ((distance <= limit + rounding) & ~inside).nonzero().unbind(dim=1)
            inside[i, j] = search.exact(i + rows.start, j + columns.start) <= limit[i, j]
            i, j = inside.nonzero().unbind(dim=1)
            yield i + rows.start, j + columns.start


def _closest(
    search: _Search, rows: slice, columns: slice, inverse: Tensor, m: int, bound: float
) -> tuple[Tensor, Tensor]:
    """Return the pairs of a block that may be among its m closest, and not above the bound, within float64's rounding.

    Arguments:
        inverse: 1 / r in units of the frame, ``(N,)``: of two, the square of the scale of their distance.
        bound: Of the squared scaled distance.
    """
    distance, rounding = search.distances(rows, columns)
    scale = torch.outer(inverse[rows], inverse[columns])
    worst = ((distance + rounding) * scale).flatten().topk(min(m, scale.numel()), largest=False).values[-1]
    bound = min(bound, worst.item() if scale.numel() >= m else math.inf)
    i, j = (((distance - rounding) * scale <= bound * (1 + 1e-5)) & distance.isfinite()).nonzero().unbind(dim=1)
    return i + rows.start, j + columns.start
