r"""How many different examples a model can make: the birthday-paradox estimate of its support.

Two of s draws coincide with probability :math:`p_2 = \sum_i p_i^2`, so the number of coinciding pairs C among
:math:`\binom{s}{2}` gives :math:`N_{\text{eff}} = 1/p_2` without bias in :math:`p_2`: the Rényi-2 support, a lower
bound on the number of different examples, equal to it where all are equally likely (after Arora, Risteski, Zhang 2018,
"Do GANs learn the distribution? Some theory and empirics", whose test it makes quantitative).

Copies need not be exact, so "coincide" is a threshold on a distance, and that threshold is a measured one: among as
many held-out real examples, a declared number of pairs (one) is that close. Distances are in units of the local radius
of the batch itself, because a model whose samples have less contrast or detail than the data has small distances
without repeating itself. That is not perfect: of 1000 different digits blurred by 1 pixel some 15 pairs count as
copies, by 2 pixels some 90. So an N_eff of several thousand from blurry samples is to be read as a lower bound.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Generator, Tensor

from bench.errors import UserError
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

BLOCK = 1024  # rows at a time: 4 MB of distances
PIECE = 2**20  # numbers at a time in float64: 8 MB
FEWEST = 50  # real examples below which no threshold can be calibrated
ROUNDING = 64 * torch.finfo(torch.float32).eps  # of squared distances, in units of the squared norms


@dataclass(frozen=True)
class Support:
    """Rényi-2 support with its 95 % interval. ``low`` alone bounds it where ``relation`` is a lower bound."""

    value: float
    relation: Relation
    low: float
    high: float | None
    stderr: float | None
    collisions: int


class Birthday(Metric):
    """``support[<features>]``: the Rényi-2 support of the subject, N_eff.

    The sample size s is the number of distinct held-out real examples, or of samples if that is smaller.

    Arguments:
        features: Recipe of the space where distances are taken. On digits pixels are better than the classifier's
            features at both: they find more of the noisy and the distorted copies, and samples without fine detail do
            not collapse in them, as they do to a classifier.
        n_samples: Samples of the subject.
        false_pairs: Number of close pairs that s real examples may be expected to have by chance: at least 1.

    Raises:
        UserError: Fewer than one false pair.
    """

    def __init__(self, features: Recipe, n_samples: int, false_pairs: int = 1) -> None:
        if false_pairs < 1:
            raise UserError(f"metric.birthday.false_pairs={false_pairs}: must be at least 1")
        self.recipe = features
        self.n_samples = n_samples
        self.false_pairs = false_pairs

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"support[{name}]", "", True, self.version, "N_eff", rank=50),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        examples.need(self.recipe)
        samples = examples.samples(self.n_samples)
        order = distinct(examples.held_out)
        s = min(len(order), len(samples))
        if s < FEWEST:
            reason = f"{s} examples (distinct real ones, or samples) are too few: at least {FEWEST} are needed"
            return [Estimate(info, status=Status.SKIPPED, reason=reason)]
        # A random part of the real examples, for splits may be sorted; the samples are independent as they come.
        generator = Generator().manual_seed(derive_seed(examples.seed, "birthday", "real"))
        order = order[torch.randperm(len(order), generator=generator)]
        extractor = examples.extractor(self.recipe)
        real, fake = (examples.features(extractor, x) for x in (examples.held_out, samples))
        fake = fake[:s]
        if not bool(torch.isfinite(fake).all()):
            return [Estimate(info, status=Status.FAILED, reason="samples or their features are not finite")]
        support = near_duplicate_support(fake, real, order, self.false_pairs)
        return [
            Estimate(
                info, support.value, support.stderr, support.low, support.high, support.relation, n_real=s, n_fake=s,
                extractor=extractor.name, extractor_hash=extractor.hash, stderr_draws=support.stderr,
            )
        ]  # fmt: skip


def near_duplicate_support(fake: Tensor, real: Tensor, order: Tensor, false_pairs: int) -> Support:
    """The support behind ``fake`` (s, F), with the threshold calibrated on as many of ``real`` (N, F).

    The same steps are taken with s real examples as with the s fake ones; the threshold is the ``false_pairs``-th
    smallest of the real distances, so as many pairs are expected by chance in s fresh real examples.

    Arguments:
        order: Which of ``real`` count: indices of different examples in random order, ``(n,)`` int64 with n >= s. The
            first s are compared with each other; the local radius is among all n.
    """
    s = len(fake)
    k = neighbour_rank(s)
    held = real[order[:s]]
    candidates = [reference_radius(held, real, order, k, itself=True), reference_radius(fake, real, order, k)]
    near = closest_distances(held, candidates[0], false_pairs)[-1].item()
    radius = [local_radius(x, near, own, k) for x, own in zip((held, fake), candidates, strict=True)]
    threshold = closest_distances(held, radius[0], false_pairs)[-1].item()
    return renyi2_support(collision_degrees(fake, radius[1], threshold), false_pairs)


def neighbour_rank(s: int) -> int:
    """Which neighbour's distance is the local radius: the 20th, or fewer so as to stay within 2 % of the batch."""
    return max(1, min(20, s // 50))


def distinct(x: Tensor) -> Tensor:
    """Indices of the different examples of ``(N, *shape)``, each once, in lexicographic order: ``(n,)`` int64.

    Only indices are sorted: no example is copied, but for those that are being compared.
    """
    rows = x.flatten(1).contiguous()
    array = rows.numpy()  # (N, F)
    # Bytes are in the order of the numbers where a number is a byte. Else column by column, the first one last.
    by_bytes = array.dtype == np.uint8
    order = array.view(f"V{array.shape[1]}")[:, 0].argsort() if by_bytes else np.lexsort(array.T[::-1])
    index = torch.from_numpy(order)
    neighbours = zip(index[:-1].split(BLOCK), index[1:].split(BLOCK), strict=True)
    return index[torch.cat([index[:1] >= 0, *((rows[i] != rows[j]).any(dim=1) for i, j in neighbours)])]


def reference_radius(x: Tensor, reference: Tensor, order: Tensor, k: int, itself: bool = False) -> Tensor:
    """Distance of each of ``x`` (s, F) to its k-th nearest neighbour in ``reference[order]``: ``(s,)`` float64.

    Arguments:
        order: Indices ``(n,)`` of the rows of ``reference`` (N, F) that count.
        itself: Whether ``x`` is the beginning of ``reference[order]``: then an example is no neighbour of its own.
    """
    centre = _mean(reference)
    centred = _centred(x, centre)
    squares = _squares(centred)  # (s,)
    nearest = torch.full((len(x), k), math.inf)
    for column in range(0, len(order), BLOCK):
        columns = _centred(reference[order[column : column + BLOCK]], centre)
        column_squares = _squares(columns)
        for row in range(0, len(x), BLOCK):
            rows = slice(row, row + BLOCK)
            distance = _squared(centred[rows], squares[rows], columns, column_squares)
            if itself and row == column:
                distance.fill_diagonal_(math.inf)
            nearest[rows] = _smallest(nearest[rows], distance)
    return nearest[:, -1].double().sqrt()


def local_radius(x: Tensor, near: float, candidate_radius: Tensor, k: int) -> Tensor:
    r"""Distance of each of ``x`` (N, F) to its k-th nearest neighbour in ``x`` that is no likely copy: ``(N,)``.

    Likely copies, :math:`\|x_i - x_j\| \le near \sqrt{c_i c_j}` with c the ``candidate_radius`` (N,), are passed over:
    in a batch that repeats itself the nearest neighbours are copies, and their distance says nothing of the space
    between different examples. Where fewer than k others remain, the radius is the candidate radius.
    """
    centred = _centred(x, _mean(x))
    squares = _squares(centred)  # (N,)
    candidates = near * candidate_radius.float()
    nearest = torch.full((len(x), k), math.inf)
    for row in range(0, len(x), BLOCK):
        rows = slice(row, row + BLOCK)
        for column in range(0, len(x), BLOCK):
            columns = slice(column, column + BLOCK)
            distance = _squared(centred[rows], squares[rows], centred[columns], squares[columns])
            distance[distance <= candidates[rows, None] * candidates[columns]] = math.inf  # the example itself as well
            nearest[rows] = _smallest(nearest[rows], distance)
    found = nearest[:, -1].double().sqrt()
    return torch.where(found.isinf(), candidate_radius, found)


def collision_degrees(x: Tensor, radius: Tensor, threshold: float) -> Tensor:
    r"""With how many others each example coincides: ``(N,)`` int64. Their sum is twice the number of pairs C.

    A pair coincides if :math:`\|x_i - x_j\| \le t \sqrt{r_i r_j}`, so exact copies always do. All pairs are compared
    in float32, those within rounding of the threshold again in float64; N x N distances are never held at once.

    Arguments:
        x: Examples ``(N, F)``, any dtype.
        radius: r, ``(N,)`` float64.
        threshold: t >= 0.
    """
    degrees = torch.zeros(len(x), dtype=torch.int64)
    for row, column, distance, rounding in _pairs(x):
        limit = threshold**2 * torch.outer(radius[row : row + len(distance)], radius[column : column + BLOCK]).float()
        found = distance < limit - rounding
        i, j = ((distance <= limit + rounding) & ~found).nonzero().unbind(dim=1)
        found[i, j] = _exact(x, i + row, j + column) <= threshold**2 * radius[i + row] * radius[j + column]
        degrees[row : row + BLOCK] += found.sum(dim=1)
        degrees[column : column + BLOCK] += found.sum(dim=0)
    return degrees


def closest_distances(x: Tensor, radius: Tensor, m: int) -> Tensor:
    r"""The m smallest of all :math:`\|x_i - x_j\| / \sqrt{r_i r_j}`, i < j, ascending: ``(m,)`` float64.

    Arguments:
        x: Examples ``(N, F)``, any dtype, with at least m pairs.
        radius: r > 0, ``(N,)`` float64.
    """
    inverse = 1 / radius  # (N,)
    best = torch.full((m,), math.inf, dtype=torch.float64)
    for row, column, distance, rounding in _pairs(x):
        scale = torch.outer(inverse[row : row + BLOCK], inverse[column : column + BLOCK]).float()
        # Only pairs that rounding leaves a chance to be among the best are computed exactly.
        worst = ((distance + rounding) * scale).flatten().topk(min(m, scale.numel()), largest=False).values[-1]
        bound = min(best[-1].item(), worst.item() if scale.numel() >= m else math.inf)
        i, j = (((distance - rounding) * scale <= bound * (1 + 1e-5)) & distance.isfinite()).nonzero().unbind(dim=1)
        exact = _exact(x, i + row, j + column) * inverse[i + row] * inverse[j + column]
        best = torch.cat([best, exact]).sort().values[:m]
    return best.sqrt()


def renyi2_support(degrees: Tensor, false_pairs: int) -> Support:
    r"""N_eff from the numbers of coincidences ``degrees`` (s,).

    .. math::
        \hat p_2 = C / \tbinom s2, \qquad
        \operatorname{var} \hat p_2 = \frac{2}{s(s-1)} \left[2(s-2) \zeta_1 + \zeta_2\right],

    the variance of a U-statistic (Hoeffding 1948), with :math:`\zeta_1 = \overline{\binom{\deg}{2}} / \binom{s-1}{2} -
    \hat p_2^2` from coinciding triples and :math:`\zeta_2 = \hat p_2 (1 - \hat p_2)`. The interval is symmetric on the
    log scale.

    Where C is no more than real examples reach by chance (95 % of the time), the result is the lower bound
    :math:`\binom s2 / U` with U the upper 95 % Poisson limit for C; for C = 0 that is s(s-1)/6. By chance: C of fresh
    examples below the m-th smallest distance of as many others is negative binomial, because that distance is random.

    Arguments:
        degrees: ``(s,)`` int64 from ``collision_degrees``.
        false_pairs: m >= 1, which of the real distances is the threshold.
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
    """How many rows of ``x`` may be in float64 at a time: of a whole split of pictures that would be gigabytes."""
    return max(1, PIECE // x.shape[1])


def _mean(x: Tensor) -> Tensor:
    """Mean of the rows, float64."""
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for piece in x.split(_piece(x)):
        total = total + piece.double().sum(dim=0)
    return total / len(x)


def _centred(x: Tensor, centre: Tensor) -> Tensor:
    """Rows less ``centre``, subtracted in float64 and rounded to float32."""
    centred = torch.empty(x.shape)
    for target, piece in zip(centred.split(_piece(x)), x.split(_piece(x)), strict=True):
        target.copy_(piece.double() - centre)
    return centred


def _squares(x: Tensor) -> Tensor:
    """Squared norms of the rows, ``(N,)``."""
    return torch.cat([piece.square().sum(dim=1) for piece in x.split(_piece(x))])


def _squared(a: Tensor, a_squares: Tensor, b: Tensor, b_squares: Tensor) -> Tensor:
    """Squared distances ``(A, B)`` of rows; of centred rows, lest the squares cancel."""
    return torch.addmm(a_squares[:, None] + b_squares, a, b.T, alpha=-2).clamp_min_(0)


def _smallest(nearest: Tensor, distance: Tensor) -> Tensor:
    """The k smallest of each row of both, ascending: ``(b, k)`` of ``(b, k)`` and ``(b, B)``."""
    return torch.cat([nearest, distance], dim=1).topk(nearest.shape[1], largest=False).values


def _pairs(x: Tensor) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """All pairs i < j in blocks: first row, first column, squared float32 distances (infinite for i >= j), rounding."""
    centred = _centred(x, _mean(x))
    squares = _squares(centred)  # (N,)
    for row in range(0, len(x), BLOCK):
        rows = slice(row, row + BLOCK)
        for column in range(row, len(x), BLOCK):
            columns = slice(column, column + BLOCK)
            distance = _squared(centred[rows], squares[rows], centred[columns], squares[columns])
            if column == row:
                distance.masked_fill_(torch.ones_like(distance, dtype=torch.bool).tril(), math.inf)
            yield row, column, distance, ROUNDING * (squares[rows, None] + squares[columns])


def _exact(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Squared float64 distances of the pairs (x_i, x_j)."""
    parts = [torch.zeros(0, dtype=torch.float64)]
    for a, b in zip(i.split(_piece(x)), j.split(_piece(x)), strict=True):
        parts.append((x[a].double() - x[b].double()).square().sum(dim=1))
    return torch.cat(parts)
