r"""Fidelity and coverage from nearest neighbours: precision, recall, density, coverage, and their clipped versions.

Let :math:`r_i` be the distance of real example :math:`x_i` from its k-th nearest other real example, :math:`s_j` that
of sample :math:`y_j` from its k-th nearest other sample, and :math:`d_{ij} = |x_i - y_j|`, between features. With N
real examples and M samples

.. math::
    \text{precision} &= \frac1M \sum_j [\exists i: d_{ij} \le r_i], &
    \text{recall} &= \frac1N \sum_i [\exists j: d_{ij} \le s_j], \\
    \text{density} &= \frac1{kM} \sum_j \sum_i [d_{ij} \le r_i], &
    \text{coverage} &= \frac1N \sum_i [\exists j: d_{ij} \le r_i]

(Kynkaanniemi, Karras, Laine, Lehtinen, Aila 2019, "Improved precision and recall metric for assessing generative
models", arXiv 1904.06991; Naeem, Oh, Uh, Choi, Yoo 2020, "Reliable fidelity and diversity metrics for generative
models", arXiv 2002.09797). One outlier among the real examples has a huge ball, in which bad samples count as precise;
one among the samples has a huge ball that feigns recall; density exceeds 1 where samples crowd. The clipped versions
(Salvy, Talbot, Thirion 2025, "Enhanced generative model evaluation with clipped density and coverage", arXiv
2507.01761) limit what one example contributes. They read as the share of good samples where bad samples
lie outside the data, and not where they crowd inside: blurred or averaged samples get 1. None of the six is ranked.

.. math::
    \text{clipped density} = \min\Big(1, \frac{\frac1M \sum_j \min(1, \frac1k \sum_i [d_{ij} \le \bar r_i])}
    {\frac1N \sum_l \min(1, \frac1k \sum_{i \ne l} [|x_i - x_l| \le \bar r_i])}\Big), \qquad
    \bar r_i = \min(r_i, \operatorname{median} r)

    \text{clipped coverage} = \frac{f^{-1}(c)}{M}, \qquad c = \frac1N \sum_i \min(1, \tfrac1k \#\{j: d_{ij} \le r_i\}),
    \qquad f(m) = \tfrac1k E[\min(J_m, k)]

where :math:`J_m`, the number of m samples of the real distribution in a ball that holds k of N - 1 other examples, has
the beta-binomial distribution with parameters m, k, N - k, and :math:`f^{-1}` is linear between whole m.

Ties count as inside. Features are centred, because in float32 a mean far from 0 changes the result. Distances are
bounded in float32, and computed again in float64 where the bounds do not tell on which side of a radius a pair lies:
the values are those of float64. No N x M matrix is held in memory.
"""

import functools
import math
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Generator, Tensor

from bench.device import on_gpu
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.metrics.pairs import Cloud, blocks, clouds, exact_squared_distances, lower_bounds, nearest_bounds
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["Manifold", "ManifoldScores", "clipped_coverage", "manifold_scores"]

SPLITS = 10
"""Random splits of either side into halves, from which the standard errors are estimated."""
QUANTILE = float(stdtrit(SPLITS, 0.975))
"""Of Student's t: a standard error from ten splits is itself uncertain, by a fifth."""
LEAST = 40
"""Examples that a side must have, so that half of them say something."""
FAR = 4.0
"""Standard errors between the score of all and that of halves, from which on the error is doubtful: it is of halves."""
SMALL = 0.05
"""A difference that is nothing to speak of, however small the error."""
ROWS = 64
"""Samples whose pairs are listed at once."""


@dataclass(frozen=True)
class ManifoldScores:
    """The six numbers as the module defines them."""

    precision: float
    recall: float
    density: float
    coverage: float
    clipped_density: float
    clipped_coverage: float


NAMES = tuple(field.name for field in fields(ManifoldScores))


def manifold_scores(
    real: Tensor, fake: Tensor, k: int = 5, generator: Generator | None = None
) -> tuple[ManifoldScores, ManifoldScores, ManifoldScores]:
    r"""Return the scores of features ``(N, D)`` and ``(M, D)``, and their standard errors due to real and due to fake.

    Either side is split into halves at random, ten times. Balls around half of the examples reach half of the others,
    so a ball holds as many samples as before, and the scores :math:`T_{ab}` of half a of the real examples and half b
    of the samples are those of a measurement with half as many. The halves of a side are independent, so

    .. math:: \tfrac14 E\Big[\Big(\frac{T_{11} + T_{12} - T_{21} - T_{22}}2\Big)^2\Big], \qquad
              \tfrac14 E\Big[\Big(\frac{T_{11} - T_{12} + T_{21} - T_{22}}2\Big)^2\Big]

    are the variance due to real and that due to fake, of which each has half of what belongs to both. Their sum is half
    of the variance of the scores of halves, and that of the whole if variances fall as one over the number of examples.
    They do not where halves are another case: where a cluster has some more than k examples, half of them are too few,
    and their balls reach other clusters. The metric's rows say so where the halves score something else.
    It needs no smooth scores. A jackknife that leaves out few examples would be up to 1.7 times too large.

    Arguments:
        k: Which nearest neighbour the radii reach.
        generator: Of the splits; None: seed 0.

    Raises:
        ValueError: A side has fewer than max(40, 4 k) examples.
    """
    return _with_halves(real, fake, k, generator)[:3]


def _with_halves(
    real: Tensor, fake: Tensor, k: int, generator: Generator | None
) -> tuple[ManifoldScores, ManifoldScores, ManifoldScores, ManifoldScores]:
    """What ``manifold_scores`` returns, and the mean scores of halves."""
    least = least_examples(k)
    if min(len(real), len(fake)) < least:
        raise ValueError(f"k={k} needs at least {least} examples on either side, not {len(real)} and {len(fake)}")
    generator = Generator().manual_seed(0) if generator is None else generator
    x, y = (_Side.of(side, k, generator) for side in clouds(real, fake))
    tally = _tally(x, y, k)
    crossed = [[[tally.scores(v, half) for half in range(2)] for v in pair] for pair in _pairs()]
    t = torch.tensor([[[astuple(scores) for scores in side] for side in split] for split in crossed]).double()
    of_real, of_fake = (_root_mean_square(t.mean(side).diff(dim=1)[:, 0] / 2) for side in (2, 1))  # (SPLITS, 6)
    whole = tally.scores(0, 0)
    halves = ManifoldScores(*t.mean((0, 1, 2)).tolist())
    return replace(whole, clipped_density=min(1.0, whole.clipped_density)), of_real, of_fake, halves


def _pairs() -> list[tuple[int, int]]:
    """The numbers of the versions that are the two halves of each split."""
    return [(1 + 2 * split, 2 + 2 * split) for split in range(SPLITS)]


def _root_mean_square(values: Tensor) -> ManifoldScores:
    return ManifoldScores(*values.square().mean(0).sqrt().tolist())


def least_examples(k: int) -> int:
    return max(LEAST, 4 * k)


def clipped_coverage(c: float, n: int, m: int, k: int) -> float:
    r"""Return :math:`f^{-1}(c) / M` for the mean clipped share c of N = ``n`` balls among M = ``m`` samples.

    :math:`E[\min(J, k)] = \sum_{j<k} P(J > j)`. f grows strictly; c beyond f(M) gives 1.
    """
    return float(np.interp(c, _expected_shares(n, m, k), np.arange(m + 1)) / m)


@functools.lru_cache
def _expected_shares(n: int, m: int, k: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    r"""f of 0 .. M samples, ``(M + 1,)``.

    The beta-binomial mass at 0 is :math:`\prod_{s<k} (b + s) / (b + m + s)` with b = N - k, and that at l + 1 is
    :math:`(m - l) (l + k) / ((l + 1) (m - l - 1 + b))` times that at l.
    """
    m_, b = np.arange(m + 1, dtype=np.float64), n - k
    mass = np.prod([(b + s) / (b + m_ + s) for s in range(k)], axis=0)  # at l
    below, beyond = np.zeros(m + 1), np.zeros(m + 1)
    for draw in range(k):
        below += mass
        beyond += 1 - below
        mass = mass * (m_ - draw) * (draw + k) / ((draw + 1) * np.maximum(m_ - draw - 1 + b, 1))
    f = np.maximum.accumulate(beyond / k)
    f[0] = 0.0
    return f


@dataclass(frozen=True)
class _Side:
    """One set of features. Versions ``v`` are the whole set (0) and its halves, 2 s + 1 and 2 s + 2 of split s.

    Of the whole set, radii are exact. The halves serve for errors alone and keep the rounding of float32.

    Attributes:
        x: The features.
        kept: ``(V, N)`` bool: the examples of each version.
        radius: ``(V, N)`` squared; -1 for an example that a version lacks.
        clipped: The same, no larger than their median.
        crowd: ``(V, N)``: in how many clipped balls of others an example lies.
    """

    x: Cloud
    kept: Tensor
    radius: Tensor
    clipped: Tensor
    crowd: Tensor

    @classmethod
    def of(cls, x: Cloud, k: int, generator: Generator) -> "_Side":
        n = len(x.x)
        kept = torch.ones(1 + 2 * SPLITS, n, dtype=torch.bool)
        for one, other in _pairs():
            kept[one, torch.randperm(n, generator=generator)[n // 2 :]] = False
            kept[other] = ~kept[one]
        kept = kept.to(x.x.device)
        more = min(n - 1, 6 * k + 30)  # of so many neighbours, half are left in a half, and at least k
        near, doubt, index = _neighbours(x, k, more)
        radius, clipped = x.squares.new_empty(kept.shape), x.squares.new_empty(kept.shape)
        crowd = torch.empty(kept.shape, dtype=torch.long, device=near.device)
        for v, version in enumerate(kept):
            left = near.masked_fill(~version[index], math.inf)
            radius[v] = left.sort(1).values[:, k - 1].masked_fill(~version, -1.0)
            clipped[v] = radius[v].clamp(max=float(radius[v][version].sqrt().quantile(0.5).square()))
            if v == 0:
                _refine(x, near, index, (near - clipped[0][:, None]).abs() <= doubt)
                left = near
            # All others within a radius are among the nearest: ties aside, which only add to what is clipped.
            crowd[v] = torch.bincount(index[left <= clipped[v][:, None]], minlength=n)
        return cls(x, kept, radius, clipped, crowd)


def _neighbours(x: Cloud, k: int, more: int) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances to ``more`` near others, how far they may be wrong, and which these are: ``(N, more)`` each.

    The k-th smallest distance is exact, and so are all that could be the k-th smallest.
    """
    lower, index = nearest_bounds(x, more)
    doubt = x.doubt[:, None] + x.doubt[index]
    near = (lower.double() + doubt).clamp_min_(0)
    highest = (near + doubt).kthvalue(k, 1, keepdim=True).values
    lowest = (near - doubt).kthvalue(k, 1, keepdim=True).values
    _refine(x, near, index, (near - doubt <= highest) & (near + doubt >= lowest))
    # An example that was left out may be nearer than the k-th, where very many lie at nearly the same distance.
    radius = near.kthvalue(k, 1).values
    unsure = (radius > lower[:, -1].double().clamp_min(0)) & (len(x.x) - 1 > more)
    for i in unsure.nonzero()[:, 0].tolist():
        others = torch.arange(len(x.x), device=near.device)
        found = exact_squared_distances(x, torch.full_like(others, i), x, others)
        found[i] = math.inf
        near[i], index[i] = found.topk(more, largest=False)
        doubt[i] = 0.0
    return near, doubt, index


def _refine(x: Cloud, near: Tensor, index: Tensor, wanted: Tensor) -> None:
    """Put exact distances in the place of the wanted ones."""
    i, column = wanted.nonzero(as_tuple=True)
    near[i, column] = exact_squared_distances(x, i, x, index[i, column])


@dataclass(frozen=True)
class _Tally:
    """What is counted in one pass over all pairs of a real example and a sample, for versions v of x and w of y.

    Attributes:
        x, y: Real examples and samples.
        k: As in ``manifold_scores``.
        balls, clipped: ``(V, M)``: in how many balls of v a sample lies, and in how many clipped ones.
        held: ``(V, 2, N)``: samples in each ball of v, of either half of y in the same split; of the whole x, of all y.
        recalled: ``(W, N)`` bool: whether a real example lies in a ball of w.
    """

    x: _Side
    y: _Side
    k: int
    balls: Tensor
    clipped: Tensor
    held: Tensor
    recalled: Tensor

    def scores(self, v: int, half: int) -> ManifoldScores:
        """Of the whole of both, or of version v of x and a half of y. Clipped density may exceed 1 here."""
        w = 0 if v == 0 else _pairs()[(v - 1) // 2][half]
        real, fake = self.x.kept[v], self.y.kept[w]
        balls, clipped = self.balls[v][fake].double(), self.clipped[v][fake].double()
        held = self.held[v, half][real].double()
        own = (self.x.crowd[v][real].double() / self.k).clamp(max=1).mean().item()
        share = (clipped / self.k).clamp(max=1).mean().item()
        c = (held / self.k).clamp(max=1).mean().item()
        return ManifoldScores(
            precision=(balls > 0).double().mean().item(),
            recall=self.recalled[w][real].double().mean().item(),
            density=balls.mean().item() / self.k,
            coverage=(held > 0).double().mean().item(),
            clipped_density=share / own if own > 0 else 0.0,
            clipped_coverage=clipped_coverage(c, int(real.sum()), int(fake.sum()), self.k),
        )


def _tally(x: _Side, y: _Side, k: int) -> _Tally:
    n, m = len(x.x.x), len(y.x.x)
    balls, clipped = torch.zeros(2, len(x.kept), m, dtype=torch.long, device=x.kept.device)
    held = torch.zeros(len(x.kept), 2, n, dtype=torch.long, device=x.kept.device)
    tally = _Tally(x, y, k, balls, clipped, held, torch.zeros_like(x.kept))
    reach = x.radius.max(0).values.float()
    for rows, part in blocks(y.x.rough, n):
        lower = lower_bounds(y.x, x.x, rows, slice(0, n))  # (b, N)
        for first in range(0, len(part), ROWS):  # where samples crowd, many pairs lie within a ball
            some = lower[first : first + ROWS]
            _count(tally, some, slice(rows.start + first, rows.start + first + len(some)), reach)
    return tally


def _count(tally: _Tally, lower: Tensor, rows: slice, reach: Tensor) -> None:
    """Add the pairs of some samples with all real examples, of which the lower bounds ``(b, N)`` are given."""
    x, y, n = tally.x, tally.y, lower.shape[1]
    j, i = (lower <= reach).nonzero(as_tuple=True)
    if len(j) > 0:
        d, kept = _distances(x, y, lower, rows, j, i, (x.radius[0, i], x.clipped[0, i])), y.kept[:, rows]
        first = [kept[0], *(kept[one] for one, _ in _pairs() for _ in range(2))]  # half 0 of y beside each version
        for v, half in enumerate(first):
            inside = d <= x.radius[v, i]
            tally.balls[v, rows] = torch.bincount(j[inside], minlength=len(lower))
            tally.clipped[v, rows] = torch.bincount(j[d <= x.clipped[v, i]], minlength=len(lower))
            of_first = half[j]
            tally.held[v, 0] += torch.bincount(i[inside & of_first], minlength=n)
            tally.held[v, 1] += torch.bincount(i[inside & ~of_first], minlength=n)
    # Real examples that are recalled in every version need no further look.
    left = (~tally.recalled.all(0)).nonzero()[:, 0]
    radius = y.radius[:, rows]
    j, i = (lower[:, left] <= radius.max(0).values.float()[:, None]).nonzero(as_tuple=True)
    if len(j) > 0:
        i = left[i]
        d = _distances(x, y, lower, rows, j, i, (radius[0, j],))
        for w in range(len(y.kept)):
            tally.recalled[w, i[d <= radius[w, j]]] = True


def _distances(
    x: _Side, y: _Side, lower: Tensor, rows: slice, j: Tensor, i: Tensor, radii: tuple[Tensor, ...]
) -> Tensor:
    """Squared distances ``(P,)`` of pairs of a block, exact where rounding could move them over one of their radii."""
    doubt = x.x.doubt[i] + y.x.doubt[rows][j]
    d = (lower[j, i].double() + doubt).clamp_min_(0)
    unsure = torch.stack([(d - radius).abs() <= doubt for radius in radii]).any(0)
    d[unsure] = exact_squared_distances(y.x, rows.start + j[unsure], x.x, i[unsure])
    return d


class Manifold(Metric):
    """Computes the six scores between the test split and the subject's samples, by name ``precision[<features>]`` ...

    None is ranked: each can be raised by a model that is worse. Samples that crowd at the centre of the data (blurred,
    averaged, all alike) lie in many balls: clipped density and clipped coverage of them are 1. The error of clipped
    density is that of the number before it is clipped to 1, so it is too large near 1.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
        k: Which nearest neighbour the radii reach.
    """

    def __init__(self, features: Recipe, n_samples: int, k: int = 5) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        self.recipe = features
        self.n_samples = n_samples
        self.k = k

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        on = f"[{self.recipe.name(examples.spec)}]"
        infos = []
        for place, name in enumerate(NAMES):
            infos.append(MetricInfo(name + on, "", None, self.version, name.replace("_", " ") + on, 300 + place))
        return tuple(infos)

    def compute(self, examples: Examples) -> list[Estimate]:
        sets = two_sets(examples, self.recipe, self.n_samples, least_examples(self.k))
        generator = Generator().manual_seed(derive_seed(examples.seed, "manifold", "halves"))
        real, fake = on_gpu(sets.real, sets.fake)
        whole, of_real, of_fake, halves = _with_halves(real, fake, self.k, generator)
        estimates = []
        for info, name in zip(self.infos(examples), NAMES, strict=True):
            within = (0.0, math.inf if name == "density" else 1.0)
            test, draws = getattr(of_real, name), getattr(of_fake, name)
            value, of_halves = getattr(whole, name), min(getattr(halves, name), within[1])
            reason = ""
            if abs(of_halves - value) > max(FAR * math.hypot(test, draws), SMALL):
                reason = f"halves of the examples score {of_halves:.2g}: k={self.k} is too large, and ± may be far off"
            estimates.append(
                measured(
                    info, value, test=test, draws=draws, within=within, quantile=QUANTILE, reason=reason, **sets.about
                )
            )
        return estimates
