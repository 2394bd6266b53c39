r"""Estimate how many different examples a model can generate, by the birthday paradox.

Two draws coincide with probability :math:`p_2 = \sum_i p_i^2`. If C of the :math:`\binom{s}{2}` pairs among s draws
coincide, :math:`C / \binom{s}{2}` is an unbiased estimate of :math:`p_2`, and :math:`N_{\text{eff}} = 1/p_2` is the
Rényi-2 support. It is a lower bound on the number of different examples, with equality if all are equally likely. This
makes the test of Arora, Risteski, Zhang 2018, "Do GANs learn the distribution? Some theory and empirics", quantitative.

Copies need not be exact, so two samples coincide if their distance is below a threshold. The threshold is calibrated:
among equally many held-out real examples, a given number of pairs (one) is that close. Distances are divided by the
local radius within the batch, because samples with less contrast or detail than the data have small distances without
being copies. This correction is imperfect: among 1000 different digits about 15 pairs count as copies after blurring by
1 pixel, and about 90 after blurring by 2 pixels. So read an N_eff of several thousand from blurry samples as a lower
bound.

For pictures the result does not change with the contrast or the offset of the samples, :math:`x \to a x + b` with
numbers a > 0 and b: before they are compared with real examples, they are given the mean and the standard deviation
that the real ones have over all entries. Of vectors the scale is kept: points that all lie close together are copies.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Generator, Tensor

from bench.errors import BrokenError, UnavailableError, UserError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import Z975
from bench.schema import Estimate, MetricInfo, Relation, Status
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = [
    "Birthday",
    "Support",
    "closest_distances",
    "collision_degrees",
    "distinct",
    "local_radius",
    "near_duplicate_support",
    "neighbour_rank",
    "reference_radius",
    "renyi2_support",
]

BLOCK = 1024  # rows at a time; gives 8 MB of distances
PIECE = 2**20  # float64 numbers at a time; 8 MB
FEWEST = 50  # with fewer real examples no threshold can be calibrated
ROUNDING = 64 * torch.finfo(torch.float64).eps  # error of squared distances, relative to the squared norms


@dataclass(frozen=True)
class Support:
    """Rényi-2 support with its 95 % interval. If ``relation`` is a lower bound, there is only ``low``."""

    value: float
    relation: Relation
    low: float
    high: float | None
    stderr: float | None
    collisions: int


class Birthday(Metric):
    """Computes ``support[<features>]``: the Rényi-2 support of the subject, N_eff.

    The sample size s is the number of distinct held-out real examples or the number of samples, whichever is smaller.

    Version 2 does not depend on the contrast and offset of pictures, and computes distances in float64.

    Arguments:
        features: Recipe of the feature space in which distances are measured. On digits, pixels work better than the
            classifier's features: they find more noisy and more distorted copies, and samples without fine detail do
            not collapse to one point.
        n_samples: Number of the subject's samples.
        false_pairs: Expected number of close pairs by chance among s real examples, at least 1.

    Raises:
        UserError: ``false_pairs`` is below 1.
    """

    version = 2

    def __init__(self, features: Recipe, n_samples: int, false_pairs: int = 1) -> None:
        if false_pairs < 1:
            raise UserError(f"metric.birthday.false_pairs={false_pairs}: must be at least 1")
        self.recipe = features
        self.n_samples = n_samples
        self.false_pairs = false_pairs

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        # No direction: more is better only up to what the data have, and noise has more than any data.
        return (MetricInfo(f"support[{name}]", "", None, self.version, "N_eff", rank=50),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        examples.need(self.recipe)
        samples = examples.samples(self.n_samples)
        order = distinct(examples.held_out)
        s = min(len(order), len(samples))
        if s < FEWEST:
            reason = f"{s} examples (distinct real ones, or samples) are too few: at least {FEWEST} are needed"
            return [Estimate(info, status=Status.SKIPPED, reason=reason)]
        # Take a random part of the real examples, because splits may be sorted. The samples are already independent.
        generator = Generator().manual_seed(derive_seed(examples.seed, "birthday", "real"))
        order = order[torch.randperm(len(order), generator=generator)]
        extractor = examples.extractor(self.recipe)
        real, fake = (examples.features(extractor, x) for x in (examples.held_out, samples))
        fake = fake[:s]
        for whose, x in (("the samples", fake), ("real examples", real)):
            if not all(bool(torch.isfinite(piece).all()) for piece in x.split(_piece(x))):
                return [Estimate(info, status=Status.FAILED, reason=f"features of {whose} are not finite")]
        support = near_duplicate_support(fake, real, order, self.false_pairs, pictures=len(examples.spec.shape) == 3)
        return [
            Estimate(
                info, support.value, support.stderr, support.low, support.high, support.relation, n_real=s, n_fake=s,
                extractor=extractor.name, extractor_hash=extractor.hash, stderr_draws=support.stderr,
            )
        ]  # fmt: skip


def near_duplicate_support(
    fake: Tensor, real: Tensor, order: Tensor, false_pairs: int, *, pictures: bool = False
) -> Support:
    """Return the support of ``fake`` (s, F), with the threshold calibrated on s examples of ``real`` (N, F).

    Real and fake examples go through the same steps. The threshold is the ``false_pairs``-th smallest distance between
    real examples, so that the same number of pairs is expected by chance among s new real examples.

    Arguments:
        fake: Features of the samples.
        real: Features of the real examples.
        order: Indices of different real examples in random order, ``(n,)`` int64 with n >= s. The first s are compared
            with each other; the local radius is measured among all n.
        false_pairs: Rank of the distance that is the threshold, at least 1.
        pictures: Whether contrast and offset of the samples make no difference.

    Raises:
        BrokenError: Distances between samples overflow even relative to the samples' spread.
        UnavailableError: So many real examples have the same features that there is nothing to tell copies by.
    """
    s = len(fake)
    k = neighbour_rank(s)
    held = real[order[:s]]
    gain, offset = _as_contrasted(fake, real) if pictures else (1.0, 0.0)
    candidates = [
        reference_radius(held, real, order, k, itself=True),
        reference_radius(fake, real, order, k, gain=gain, offset=offset),
    ]
    if bool((candidates[0] == 0).any()):
        raise UnavailableError(f"some real example has the features of {k} others; they do not tell copies apart")
    near = closest_distances(held, candidates[0], false_pairs)[-1].item()
    radius = [local_radius(x, near, own, k) for x, own in zip((held, fake), candidates, strict=True)]
    if not all(bool(torch.isfinite(own).all()) for own in radius):
        raise BrokenError("distances between samples overflow")
    threshold = closest_distances(held, radius[0], false_pairs)[-1].item()
    return renyi2_support(collision_degrees(fake, radius[1], threshold), false_pairs)


def neighbour_rank(s: int) -> int:
    """Return the rank k of the neighbour whose distance is the local radius: 20, but at most 2 % of the batch."""
    return max(1, min(20, s // 50))


def distinct(x: Tensor) -> Tensor:
    """Return one index for each different example of ``(N, *shape)``, in lexicographic order: ``(n,)`` int64.

    Only indices are sorted. Examples are copied only while they are compared.
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
    frame = _frame(reference)
    moved = _moved(x, (frame.centre - offset) / gain, frame.unit / gain)
    squares = _squares(moved)  # (s,)
    nearest = torch.full((len(x), k), math.inf, dtype=torch.float64)
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


def local_radius(x: Tensor, near: float, candidate_radius: Tensor, k: int) -> Tensor:
    r"""Return the distance of each of ``x`` (N, F) to its k-th neighbour in ``x`` that is not a likely copy: ``(N,)``.

    Pairs with :math:`\|x_i - x_j\| \le near \sqrt{c_i c_j}` are likely copies, where c is the ``candidate_radius``
    (N,). They are skipped: in a batch with repetitions the nearest neighbours are copies, and their distance does not
    tell how far apart different examples are. If fewer than k others remain, the radius is the candidate radius.
    """
    frame = _frame(x)
    moved = _moved(x, frame.centre, frame.unit)
    squares = _squares(moved)  # (N,)
    candidates = near * candidate_radius / frame.unit
    nearest = torch.full((len(x), k), math.inf, dtype=torch.float64)
    for row in range(0, len(x), BLOCK):
        rows = slice(row, row + BLOCK)
        for column in range(0, len(x), BLOCK):
            columns = slice(column, column + BLOCK)
            distance = _squared(moved[rows], squares[rows], moved[columns], squares[columns])
            distance[distance <= candidates[rows, None] * candidates[columns]] = math.inf  # the example itself as well
            nearest[rows] = _smallest(nearest[rows], distance)
    found = nearest[:, -1].sqrt() * frame.unit
    return torch.where(found.isinf(), candidate_radius, found)


def collision_degrees(x: Tensor, radius: Tensor, threshold: float) -> Tensor:
    r"""Return the number of other examples that each example coincides with: ``(N,)`` int64. Their sum is 2 C.

    A pair coincides if :math:`\|x_i - x_j\| \le t \sqrt{r_i r_j}`, so exact copies always coincide. C is the number of
    such pairs. Distances come from inner products; pairs within rounding error of the threshold are compared again by
    their differences. The N x N distances are computed in blocks.

    Arguments:
        x: Examples ``(N, F)``, any dtype.
        radius: r, ``(N,)`` float64.
        threshold: t >= 0.
    """
    degrees = torch.zeros(len(x), dtype=torch.int64)
    frame = _frame(x)
    radius = radius / frame.unit
    for row, column, distance, rounding in _pairs(x, frame):
        limit = threshold**2 * torch.outer(radius[row : row + len(distance)], radius[column : column + BLOCK])
        found = distance < limit - rounding
        i, j = ((distance <= limit + rounding) & ~found).nonzero().unbind(dim=1)
        found[i, j] = _exact(x, i + row, j + column, frame) <= limit[i, j]
        degrees[row : row + BLOCK] += found.sum(dim=1)
        degrees[column : column + BLOCK] += found.sum(dim=0)
    return degrees


def closest_distances(x: Tensor, radius: Tensor, m: int) -> Tensor:
    r"""Return the m smallest values of :math:`\|x_i - x_j\| / \sqrt{r_i r_j}`, i < j, ascending: ``(m,)`` float64.

    Arguments:
        x: Examples ``(N, F)``, any dtype, with at least m pairs.
        radius: r > 0, ``(N,)`` float64.
    """
    frame = _frame(x)
    inverse = frame.unit / radius  # (N,)
    best = torch.full((m,), math.inf, dtype=torch.float64)
    for row, column, distance, rounding in _pairs(x, frame):
        scale = torch.outer(inverse[row : row + BLOCK], inverse[column : column + BLOCK])
        # Compute exactly only the pairs that can be among the best within the rounding error.
        worst = ((distance + rounding) * scale).flatten().topk(min(m, scale.numel()), largest=False).values[-1]
        bound = min(best[-1].item(), worst.item() if scale.numel() >= m else math.inf)
        i, j = (((distance - rounding) * scale <= bound * (1 + 1e-5)) & distance.isfinite()).nonzero().unbind(dim=1)
        exact = _exact(x, i + row, j + column, frame) * inverse[i + row] * inverse[j + column]
        best = torch.cat([best, exact]).sort().values[:m]
    return best.sqrt()


def renyi2_support(degrees: Tensor, false_pairs: int) -> Support:
    r"""Return N_eff and its interval from the numbers of coincidences ``degrees`` (s,).

    .. math::
        \hat p_2 = C / \tbinom s2, \qquad
        \operatorname{var} \hat p_2 = \frac{2}{s(s-1)} \left[2(s-2) \zeta_1 + \zeta_2\right].

    This is the variance of a U-statistic (Hoeffding 1948), with :math:`\zeta_1 = \overline{\binom{\deg}{2}} /
    \binom{s-1}{2} - \hat p_2^2` from coinciding triples and :math:`\zeta_2 = \hat p_2 (1 - \hat p_2)`. The interval is
    symmetric on the log scale.

    If real examples reach C by chance with a probability above 5 %, the result is the lower bound
    :math:`\binom s2 / U`, where U is the upper 95 % Poisson limit for C; for C = 0 it is s(s-1)/6. The chance
    distribution of C is negative binomial: it counts the pairs of new examples below the m-th smallest distance of as
    many others, and that distance is random.

    Arguments:
        degrees: ``(s,)`` int64 from ``collision_degrees``.
        false_pairs: m >= 1, the rank of the real distance that is the threshold.
    """
    s = len(degrees)
    pairs = s * (s - 1) / 2
    collisions = int(degrees.sum()) // 2
    if collisions == 0 or special.nbdtrc(collisions - 1, false_pairs, 0.5) > 0.05:
        bound = pairs / float(special.pdtri(collisions, 0.05))
        return Support(bound, Relation.LOWER_BOUND, bound, None, None, collisions)
    p2 = collisions / pairs
    degree = degrees.double()
    triples = (degree * (degree - 1) / 2).mean().item() / ((s - 1) * (s - 2) / 2)
    variance = 2 / (s * (s - 1)) * (2 * (s - 2) * max(triples - p2**2, 0.0) + p2 * (1 - p2))
    relative = math.sqrt(variance) / p2
    factor = math.exp(Z975 * relative)
    return Support(1 / p2, Relation.ESTIMATE, 1 / p2 / factor, factor / p2, relative / p2, collisions)


def _piece(x: Tensor) -> int:
    """Return how many rows of ``x`` to convert to float64 at a time, because a whole split could take gigabytes."""
    return max(1, PIECE // x.shape[1])


@dataclass(frozen=True)
class _Frame:
    """Where a batch lies, ``(F,)`` float64, and a power of two about as large as it is: to divide by it rounds nothing.

    Both are medians, so that no single example moves them far: near all others little is lost to rounding.
    """

    centre: Tensor
    unit: float


def _frame(x: Tensor) -> _Frame:
    """Return the median of each coordinate, and the median of the distances from it that are not 0 (or 1)."""
    width = max(1, PIECE // len(x))
    centre = torch.cat([columns.double().median(dim=0).values for columns in x.split(width, dim=1)])
    distance = torch.cat([(piece.double() - centre).norm(dim=1) for piece in x.split(_piece(x))])
    distance = distance[distance > 0]
    spread = distance.median().item() if len(distance) > 0 else 1.0
    return _Frame(centre, math.ldexp(0.5, math.frexp(spread)[1]) if math.isfinite(spread) else math.inf)


def _as_contrasted(x: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return a and b with which ``a x + b`` has the mean and the standard deviation of ``reference`` over all entries.

    Where all entries of x are equal, a is 1.
    """
    (mean, std), (their_mean, their_std) = _moments(x), _moments(reference)
    gain = their_std / std if std > 0 else 1.0
    return gain, their_mean - gain * mean


def _moments(x: Tensor) -> tuple[float, float]:
    """Return the mean and the standard deviation of all entries of ``(N, F)``."""
    parts = x.split(_piece(x))
    mean = sum(piece.double().sum().item() for piece in parts) / x.numel()
    square = sum((piece.double() - mean).square().sum().item() for piece in parts) / x.numel()
    return mean, math.sqrt(square)


def _moved(x: Tensor, centre: Tensor, unit: float) -> Tensor:
    """Return ``(x - centre) / unit`` in float64."""
    moved = torch.empty(x.shape, dtype=torch.float64)
    for target, piece in zip(moved.split(_piece(x)), x.split(_piece(x)), strict=True):
        target.copy_((piece.double() - centre) / unit)
    return moved


def _squares(x: Tensor) -> Tensor:
    """Return the squared norms of the rows, ``(N,)``."""
    return torch.cat([piece.square().sum(dim=1) for piece in x.split(_piece(x))])


def _squared(a: Tensor, a_squares: Tensor, b: Tensor, b_squares: Tensor) -> Tensor:
    """Return the squared distances ``(A, B)`` between rows. Rows about a centre avoid cancellation of large squares."""
    return torch.addmm(a_squares[:, None] + b_squares, a, b.T, alpha=-2).clamp_min_(0)


def _smallest(nearest: Tensor, distance: Tensor) -> Tensor:
    """Return the k smallest values of each row of ``nearest`` (b, k) and ``distance`` (b, B), ascending: ``(b, k)``."""
    return torch.cat([nearest, distance], dim=1).topk(nearest.shape[1], largest=False).values


def _pairs(x: Tensor, frame: _Frame) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yield all pairs i < j in blocks.

    Each block is its first row, its first column, the squared distances in units of ``frame.unit`` (infinite for i >=
    j) and the bound on their rounding errors.
    """
    moved = _moved(x, frame.centre, frame.unit)
    squares = _squares(moved)  # (N,)
    for row in range(0, len(x), BLOCK):
        rows = slice(row, row + BLOCK)
        for column in range(row, len(x), BLOCK):
            columns = slice(column, column + BLOCK)
            distance = _squared(moved[rows], squares[rows], moved[columns], squares[columns])
            if column == row:
                distance.masked_fill_(torch.ones_like(distance, dtype=torch.bool).tril(), math.inf)
            yield row, column, distance, ROUNDING * (squares[rows, None] + squares[columns])


def _exact(x: Tensor, i: Tensor, j: Tensor, frame: _Frame) -> Tensor:
    """Return the squared distances of the pairs (x_i, x_j) from their differences, in units of ``frame.unit``."""
    parts = [torch.zeros(0, dtype=torch.float64)]
    for a, b in zip(i.split(_piece(x)), j.split(_piece(x)), strict=True):
        parts.append(((x[a].double() - x[b].double()) / frame.unit).square().sum(dim=1))
    return torch.cat(parts)
