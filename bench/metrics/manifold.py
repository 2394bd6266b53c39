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

Ties count as inside. Distances are computed in float64 on centred features: in float32 a mean far from 0 changes the
result. No N x M matrix is held in memory.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor

from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.metrics.pairs import blocks, squared_distances
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["Manifold", "ManifoldScores", "clipped_coverage", "manifold_scores"]

HALVES = 20
"""Random halves of a side from which the standard errors are estimated."""
LEAST = 40
"""Examples that a side must have, so that half of them say something."""


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

    The error due to a side is the standard deviation of the scores over V = 20 random halves of it, with the other side
    whole: half of a set without replacement varies about the whole as the whole does about the truth. A jackknife that
    leaves out few examples would be up to 1.7 times too large, because scores are no smooth functions of them.

    Arguments:
        k: Which nearest neighbour the radii reach.
        generator: Of the halves; None: seed 0.

    Raises:
        ValueError: A side has fewer than max(40, 4 k) examples.
    """
    least = least_examples(k)
    if min(len(real), len(fake)) < least:
        raise ValueError(f"k={k} needs at least {least} examples on either side, not {len(real)} and {len(fake)}")
    generator = Generator().manual_seed(0) if generator is None else generator
    real, fake = real.double(), fake.double()
    centre = real.mean(0)
    x, y = _Side.of(real - centre, k, generator), _Side.of(fake - centre, k, generator)
    tally = _tally(x, y, k)
    of_real = _spread([tally.scores(v, 0) for v in range(1, 1 + HALVES)])
    of_fake = _spread([tally.scores(0, w) for w in range(1, 1 + HALVES)])
    whole = tally.scores(0, 0)
    return replace(whole, clipped_density=min(1.0, whole.clipped_density)), of_real, of_fake


def least_examples(k: int) -> int:
    return max(LEAST, 4 * k)


def clipped_coverage(c: float, n: int, m: int, k: int) -> float:
    r"""Return :math:`f^{-1}(c) / M` for the mean clipped share c of N = ``n`` balls among M = ``m`` samples.

    :math:`E[\min(J, k)] = \sum_{j<k} P(J > j)`. f grows strictly; c beyond f(M) gives 1.
    """
    return float(np.interp(c, _expected_shares(n, m, k), np.arange(m + 1)) / m)


@functools.lru_cache
def _expected_shares(n: int, m: int, k: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """f of 0 .. M samples, ``(M + 1,)``."""
    f = np.asarray(stats.betabinom.sf(np.arange(k)[:, None], np.arange(m + 1), k, n - k).mean(0))
    f[0] = 0.0
    return f


@dataclass(frozen=True)
class _Side:
    """One set of features. Versions ``v`` are the whole set (0) and random halves of it.

    Attributes:
        x: ``(N, D)``, centred.
        kept: ``(V, N)`` bool: the examples of each version.
        radius: ``(V, N)`` squared; -1 for an example that a version lacks.
        clipped: The same, no larger than their median.
        crowd: ``(V, N)``: in how many clipped balls of others an example lies.
    """

    x: Tensor
    kept: Tensor
    radius: Tensor
    clipped: Tensor
    crowd: Tensor

    @classmethod
    def of(cls, x: Tensor, k: int, generator: Generator) -> "_Side":
        n = len(x)
        kept = torch.ones(1 + HALVES, n, dtype=torch.bool)
        for half in kept[1:]:
            half[torch.randperm(n, generator=generator)[n // 2 :]] = False
        more = min(n - 1, 6 * k + 30)  # of so many neighbours, half are left in a half, and at least k
        near, index = x.new_empty(n, more), torch.empty(n, more, dtype=torch.long)
        for rows, part in blocks(x, n):
            distance = squared_distances(part, x)
            distance[:, rows].fill_diagonal_(math.inf)
            near[rows], index[rows] = distance.topk(more, dim=1, largest=False)
        radius, clipped = x.new_empty(kept.shape), x.new_empty(kept.shape)
        crowd = torch.empty(kept.shape, dtype=torch.long)
        for v, version in enumerate(kept):
            left = near.masked_fill(~version[index], math.inf)
            radius[v] = left.sort(1).values[:, k - 1].masked_fill(~version, -1.0)
            clipped[v] = radius[v].clamp(max=float(radius[v][version].sqrt().quantile(0.5).square()))
            # All others within a radius are among the nearest: ties aside, which only add to what is clipped.
            crowd[v] = torch.bincount(index[left <= clipped[v][:, None]], minlength=n)
        return cls(x, kept, radius, clipped, crowd)


@dataclass(frozen=True)
class _Tally:
    """What is counted in one pass over all pairs of a real example and a sample, for versions v of x and w of y.

    Attributes:
        x, y: Real examples and samples.
        k: As in ``manifold_scores``.
        balls, clipped: ``(V, M)``: in how many balls of v a sample lies, and in how many clipped ones.
        held: ``(V, N)``: samples in each ball of v.
        held_of: ``(W, N)``: samples of w in each ball of all x.
        recalled: ``(W, N)``: in how many balls of w a real example lies.
    """

    x: _Side
    y: _Side
    k: int
    balls: Tensor
    clipped: Tensor
    held: Tensor
    held_of: Tensor
    recalled: Tensor

    def scores(self, v: int, w: int) -> ManifoldScores:
        """Of version v of x and version w of y, one of which is the whole. Clipped density may exceed 1 here."""
        real, fake = self.x.kept[v], self.y.kept[w]
        balls, clipped = self.balls[v][fake].double(), self.clipped[v][fake].double()
        held = (self.held[v] if w == 0 else self.held_of[w])[real].double()
        own = (self.x.crowd[v][real].double() / self.k).clamp(max=1).mean().item()
        share = (clipped / self.k).clamp(max=1).mean().item()
        c = (held / self.k).clamp(max=1).mean().item()
        return ManifoldScores(
            precision=(balls > 0).double().mean().item(),
            recall=(self.recalled[w][real] > 0).double().mean().item(),
            density=balls.mean().item() / self.k,
            coverage=(held > 0).double().mean().item(),
            clipped_density=share / own if own > 0 else 0.0,
            clipped_coverage=clipped_coverage(c, int(real.sum()), int(fake.sum()), self.k),
        )


def _tally(x: _Side, y: _Side, k: int) -> _Tally:
    n, m = len(x.x), len(y.x)
    of_samples, of_real = (1 + HALVES, m), (1 + HALVES, n)
    tally = _Tally(
        x, y, k, *(torch.zeros(size, dtype=torch.long) for size in (of_samples, of_samples, of_real, of_real, of_real))
    )
    reach, reach_of_y = x.radius.max(0).values, y.radius.max(0).values
    for rows, part in blocks(y.x, n):
        distance = squared_distances(part, x.x)  # (b, N)
        # Few pairs lie within any ball. All versions are counted from those.
        j, i = (distance <= reach).nonzero(as_tuple=True)
        d, kept = distance[j, i], y.kept[:, rows]
        for v in range(1 + HALVES):
            inside = d <= x.radius[v, i]
            tally.balls[v, rows] = torch.bincount(j[inside], minlength=len(part))
            tally.clipped[v, rows] = torch.bincount(j[d <= x.clipped[v, i]], minlength=len(part))
            tally.held[v] += torch.bincount(i[inside], minlength=n)
            tally.held_of[v] += torch.bincount(i[(d <= x.radius[0, i]) & kept[v, j]], minlength=n)
        j, i = (distance <= reach_of_y[rows, None]).nonzero(as_tuple=True)
        d = distance[j, i]
        for w in range(1 + HALVES):
            tally.recalled[w] += torch.bincount(i[d <= y.radius[w, rows][j]], minlength=n)
    return tally


def _spread(halves: Sequence[ManifoldScores]) -> ManifoldScores:
    """The standard deviation of each score."""
    values = torch.tensor([[getattr(half, name) for name in NAMES] for half in halves], dtype=torch.float64)
    return ManifoldScores(*values.std(0).tolist())


class Manifold(Metric):
    """Computes the six scores between the test split and the subject's samples, by name ``precision[<features>]`` ...

    None is ranked: each can be raised by a model that is worse. Samples that crowd at the centre of the data (blurred,
    averaged, all alike) lie in many balls: clipped density and clipped coverage of them are 1.

    In simulation the intervals of precision, density and clipped coverage cover about 95 %; those of recall 98 %, and
    those of coverage and of clipped density near 1 up to 99.8 %, because half of one side beside the whole of the other
    changes how many samples a ball holds. So the real side's part of coverage's error is only half of the truth, and
    the samples' part is too large.

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
        whole, of_real, of_fake = manifold_scores(sets.real, sets.fake, self.k, generator)
        estimates = []
        for info, name in zip(self.infos(examples), NAMES, strict=True):
            within = (0.0, math.inf if name == "density" else 1.0)
            test, draws = getattr(of_real, name), getattr(of_fake, name)
            estimates.append(measured(info, getattr(whole, name), test=test, draws=draws, within=within, **sets.about))
        return estimates
