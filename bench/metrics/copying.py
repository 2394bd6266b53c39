r"""Does a model copy its training set? Authenticity, and the three-sample test of data copying.

For a sample y let x be its nearest training example, in feature space. y is *authentic* if x is nearer to another
training example than to y (Alaa, van Breugel, Saveliev, van der Schaar 2022, "How faithful is your synthetic data?",
arXiv 2102.08921). Of fresh real examples about half are. A resampler of the training set has authenticity 0.

The test compares how near the training set samples y and fresh real examples t lie: :math:`U = \#\{(y, t): d(y) <
d(t)\}` with d the distance from the nearest training example, ties counted half, standardized as for Mann and Whitney:

.. math:: C_T = \frac{\tfrac12 NM - U}{\sqrt{NM (N + M + 1) / 12}}

It is below -3 where samples lie nearer the training set than fresh real examples do, which is copying; above 3 where
they lie further, which is underfitting (Meehan, Chaudhuri, Dasgupta 2020, "A non-parametric test to detect data-copying
in generative models", arXiv 2004.05675; their cells are left out: one cell holds all). A model can hide copies behind
bad samples: 10 % of copies among noise leave :math:`C_T` high. So ``copies`` counts them: the share of samples nearer
to a training example than all but 1 % of fresh real examples are, less the share of those. None of the three is ranked:
noise is authentic.
"""

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from bench.device import on_gpu
from bench.errors import BrokenError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured, proportion_error, wilson_interval
from bench.metrics.pairs import Cloud, blocks, exact_squared_distances, frame_of, lower_bounds, squared_distances
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

__all__ = ["Copying", "Nearest", "authentic", "copies", "copying_statistic", "nearest"]

QUANTILE = 0.01
QUERIES = 2**24
"""Pairs at once."""


@dataclass(frozen=True)
class Nearest:
    """The nearest example of a reference set: which, and how far (not squared), ``(N,)`` each."""

    index: Tensor
    distance: Tensor


def nearest(x: Tensor, reference: Tensor, itself: Tensor | None = None) -> Nearest:
    """Find the nearest of ``(M, D)`` for each of ``(N, D)``.

    Distances are bounded in float32, and computed from differences in float64 where the bounds leave a choice; of
    several at the same distance the first is taken. Where the bounds leave very many, all are computed in float64.

    Arguments:
        itself: Which of the reference each of x is, ``(N,)``: it is not its own neighbour. Equal examples are.
    """
    frame = frame_of(reference)
    references, queries = (Cloud.about(frame.centre, frame.unit, side) for side in (reference, x))
    index = torch.empty(len(x), dtype=torch.long, device=x.device)
    squared = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for rows, part in blocks(x, len(reference), QUERIES):
        own = None if itself is None else itself[rows]
        lower = lower_bounds(queries, references, rows, slice(0, len(reference)))  # (b, M)
        if own is not None:
            lower[torch.arange(len(own), device=lower.device), own] = math.inf
        least = (lower + (2 * references.doubt).float()).min(1).values + (2 * queries.doubt[rows]).float()
        near = ~(lower > least[:, None] * (1 + 2.0**-20))  # what overflows is not excluded
        if near.count_nonzero() > len(part) * max(4, len(reference) // 128):
            index[rows] = _nearest_by_products(part, reference, frame.centre, own)
            squared[rows] = exact_squared_distances(queries, _numbers(rows, x), references, index[rows])
            continue
        i, j = near.nonzero(as_tuple=True)
        exact = exact_squared_distances(queries, i + rows.start, references, j)
        squared[rows] = squared[rows].fill_(math.inf).scatter_reduce(0, i, exact, "amin")
        first = exact == squared[rows][i]
        index[rows] = index[rows].fill_(len(reference)).scatter_reduce(0, i[first], j[first], "amin")
    return Nearest(index, squared.sqrt() * queries.unit)


def _numbers(rows: slice, x: Tensor) -> Tensor:
    return torch.arange(rows.start, rows.stop, device=x.device)


def _nearest_by_products(x: Tensor, reference: Tensor, centre: Tensor, itself: Tensor | None) -> Tensor:
    """Which of ``(M, D)`` is nearest to each of ``(N, D)``, ``(N,)``, by inner products about a centre in float64."""
    x = x.double() - centre
    least, index = x.new_full((len(x),), math.inf), torch.zeros(len(x), dtype=torch.long, device=x.device)
    for columns, part in blocks(reference, len(x)):
        squared = squared_distances(x, part.double() - centre)
        if itself is not None:
            here = ((itself >= columns.start) & (itself < columns.stop)).nonzero()[:, 0]
            squared[here, itself[here] - columns.start] = math.inf
        values, places = squared.min(1)
        index = torch.where(values < least, places + columns.start, index)
        least = torch.minimum(least, values)
    return index


def authentic(samples: Nearest, train: Tensor) -> Tensor:
    """Whether each sample's neighbour in ``train`` ``(M, D)`` is nearer to another training example, ``(N,)`` bool."""
    needed, of_sample = samples.index.unique(return_inverse=True)  # not all pairs of the training set
    return nearest(train[needed], train, itself=needed).distance[of_sample] < samples.distance


def copying_statistic(of_samples: Tensor, of_real: Tensor) -> float:
    """Return :math:`C_T` from distances of N samples and M fresh real examples to the training set."""
    n, m = len(of_samples), len(of_real)
    sides = (side.cpu().numpy() for side in (of_real, of_samples))  # SciPy knows no GPU
    u = float(stats.mannwhitneyu(*sides, method="asymptotic").statistic)
    return (n * m / 2 - u) / math.sqrt(n * m * (n + m + 1) / 12)


def copies(of_samples: Tensor, of_real: Tensor) -> tuple[float, float]:
    """Return the share of samples as near the training set as the nearest 1 % of real examples, less theirs; its error.

    The error has the binomial parts of both sides.
    """
    limit = of_real.double().quantile(QUANTILE)
    p, q = ((side <= limit).double().mean().item() for side in (of_samples, of_real))
    return p - q, math.sqrt(p * (1 - p) / len(of_samples) + q * (1 - q) / len(of_real))


class Copying(Metric):
    """Computes ``authenticity``, ``copying_statistic`` and ``copies`` by features, against the training split.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        on = f"[{self.recipe.name(examples.spec)}]"
        return (
            MetricInfo(f"authenticity{on}", "", None, self.version, f"authenticity{on}", rank=300),
            MetricInfo(f"copying_statistic{on}", "", None, self.version, f"C_T{on}", rank=300),
            # Version 1 subtracted 1 %, whatever the share of real examples within the limit.
            MetricInfo(f"copies{on}", "", None, 2, f"copies{on}", rank=300),
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        of_training = examples.train
        sets = two_sets(examples, self.recipe, self.n_samples, least=20)
        extractor = examples.extractor(self.recipe)
        train = examples.features(extractor, of_training)
        if not bool(torch.isfinite(train).all()):
            raise BrokenError("features of training examples are not finite")
        fake, real, train = on_gpu(sets.fake, sets.real, train)
        of_fake, of_real = nearest(fake, train), nearest(real, train)
        p = authentic(of_fake, train).double().mean().item()
        share, share_error = copies(of_fake.distance, of_real.distance)
        authenticity, statistic, copied = self.infos(examples)
        low, high = wilson_interval(p, len(sets.fake))
        return [
            measured(
                authenticity, p, draws=proportion_error(p, len(sets.fake)), ci_low=low, ci_high=high, **sets.about
            ),
            measured(statistic, copying_statistic(of_fake.distance, of_real.distance), stderr=1.0, **sets.about),
            measured(copied, share, stderr=share_error, within=(-1.0, 1.0), **sets.about),
        ]
