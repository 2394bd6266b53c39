r"""Number of statistically different bins: k-means cells in which samples and real examples differ in number.

The training examples' features are divided into K cells by k-means. Of N real test examples and M samples, shares
:math:`p_b` and :math:`q_b` fall into cell b. The cell differs if the two-proportion z-test says so at level
:math:`\alpha = 0.05`,

.. math:: |p_b - q_b| > z_{1-\alpha/2} \sqrt{\bar p_b (1 - \bar p_b) (1/N + 1/M)}, \qquad
          \bar p_b = \frac{N p_b + M q_b}{N + M}.

NDB/K is the share of cells that differ: :math:`\alpha` is expected of a perfect model, and not 0, so it is not ranked.
It was made to see missing modes, and sees little of noise within the cells. The Jensen-Shannon
divergence of the two histograms, in nats, says by how much (Richardson, Weiss 2018, "On GANs and GMMs", arXiv
1805.12462, who compare samples with the training set itself; here with test examples, so that copies of the training
set are no better than other samples). NDB counts what n examples can prove: more examples prove more, so compare only
values of equal numbers. The divergence is biased upwards by about (K - 1) (1/N + 1/M) / 8.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bench.errors import BrokenError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import Z975, measured, proportion_error, wilson_interval
from bench.metrics.pairs import blocks, squared_distances
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["NDB", "DifferentBins", "different_bins", "k_means", "nearest_centre"]

PER_BIN = 20
"""Examples of the smaller side that a cell has on average, at least."""
MOST = 20_000
"""Training examples that the cells are made from."""
ROUNDS = 30


@dataclass(frozen=True)
class DifferentBins:
    """NDB/K, the Jensen-Shannon divergence in nats, and the divergence's standard errors due to x and to y."""

    share: float
    divergence: float
    stderr_x: float
    stderr_y: float


def different_bins(x: Tensor, y: Tensor) -> DifferentBins:
    r"""Compare two histograms, counts ``(K,)`` of N real examples and ``(K,)`` of M samples.

    The divergence's errors follow from the delta method: :math:`\partial\,\mathrm{JS} / \partial p_b = \tfrac12 \log
    (p_b / m_b)` with m the mean of both histograms. They vanish where the two are equal.
    """
    n, m = x.sum().double(), y.sum().double()
    p, q = x.double() / n, y.double() / m
    pooled = (x + y).double() / (n + m)
    error = (pooled * (1 - pooled) * (1 / n + 1 / m)).sqrt()
    middle = (p + q) / 2
    slopes = [torch.where(side > 0, (side / middle).log(), 0.0) / 2 for side in (p, q)]
    parts = [(side * slope).sum() for side, slope in zip((p, q), slopes, strict=True)]
    errors = [
        float((((side * slope.square()).sum() - part.square()).clamp_min(0) / size).sqrt())
        for side, slope, part, size in zip((p, q), slopes, parts, (n, m), strict=True)
    ]
    return DifferentBins(float(((p - q).abs() > Z975 * error).double().mean()), float(parts[0] + parts[1]), *errors)


def k_means(x: Tensor, k: int, generator: Generator) -> Tensor:
    """Centres ``(k, D)`` of ``(N, D)``, N >= k, by Lloyd's rounds from k-means++ (Arthur, Vassilvitskii 2007). Float64.

    A centre that loses all its examples stays where it is.
    """
    centres = x[torch.randint(len(x), (1,), generator=generator)]
    nearest = squared_distances(x, centres)[:, 0]
    while len(centres) < k:
        total = nearest.sum()
        weights = nearest if total > 0 else torch.ones_like(nearest)
        # By the cumulative weights: torch.multinomial takes no more than 2^24 of them.
        place = weights.cumsum(0)
        at = torch.rand(1, generator=generator, dtype=torch.float64) * place[-1]
        chosen = x[int(torch.searchsorted(place, at).clamp_max(len(x) - 1))][None]
        centres = torch.cat([centres, chosen])
        nearest = torch.minimum(nearest, squared_distances(x, chosen)[:, 0])
    for _ in range(ROUNDS):
        cell = nearest_centre(x, centres)
        counts = torch.bincount(cell, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, cell, x)
        moved = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def nearest_centre(x: Tensor, centres: Tensor) -> Tensor:
    """Which of ``(K, D)`` is nearest to each of ``(N, D)``, ``(N,)`` int64."""
    return torch.cat([squared_distances(part, centres).argmin(1) for _, part in blocks(x, len(centres))])


class NDB(Metric):
    """Computes ``ndb[<features>]``, the share NDB/K of cells that differ, and ``bins_js[<features>]``.

    K is ``bins``, but no more than a twentieth of the smaller side. The cells are the same for all subjects and seeds.
    Where there are fewer training examples than K they are made from the real examples themselves. The error of the
    share is binomial over the cells, which is at most too large: cells are not equally likely to differ.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
        bins: Largest number of cells.
    """

    def __init__(self, features: Recipe, n_samples: int, bins: int = 100) -> None:
        if bins < 2:
            raise ValueError(f"bins must be at least 2, not {bins}")
        self.recipe = features
        self.n_samples = n_samples
        self.bins = bins

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        on = f"[{self.recipe.name(examples.spec)}]"
        return (
            MetricInfo(f"ndb{on}", "", None, self.version, f"NDB/K{on}", rank=300),
            MetricInfo(f"bins_js{on}", "nats", None, self.version, f"JS of bins{on}", rank=300),
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        sets = two_sets(examples, self.recipe, self.n_samples, least=2 * PER_BIN)
        k = min(self.bins, min(len(sets.real), len(sets.fake)) // PER_BIN)
        generator = Generator().manual_seed(derive_seed(0, "ndb", "cells"))
        train = examples.data.train.x
        kept = train[torch.randperm(len(train), generator=generator)[:MOST]]
        extractor = examples.extractor(self.recipe)
        known = examples.features(extractor, kept) if len(kept) >= k else sets.real
        if not bool(torch.isfinite(known).all()):
            raise BrokenError("features of training examples are not finite")
        centre = known.double().mean(0)
        centres = k_means(known.double() - centre, k, generator)
        counts = [
            torch.bincount(nearest_centre(side.double() - centre, centres), minlength=k)
            for side in (sets.real, sets.fake)
        ]
        found = different_bins(*counts)
        share, divergence = self.infos(examples)
        low, high = wilson_interval(found.share, k)
        return [
            measured(
                share, found.share, stderr=proportion_error(found.share, k), ci_low=low, ci_high=high, **sets.about
            ),
            measured(
                divergence, found.divergence, test=found.stderr_x, draws=found.stderr_y, within=(0.0, math.log(2)),
                **sets.about,
            ),
        ]  # fmt: skip
