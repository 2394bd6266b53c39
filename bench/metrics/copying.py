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

from bench.errors import BrokenError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured, proportion_error, wilson_interval
from bench.metrics.pairs import blocks, squared_distances
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

__all__ = ["Copying", "Nearest", "authentic", "copies", "copying_statistic", "nearest"]

QUANTILE = 0.01


@dataclass(frozen=True)
class Nearest:
    """The nearest example of a reference set: which, and how far (not squared), ``(N,)`` each."""

    index: Tensor
    distance: Tensor


def nearest(x: Tensor, reference: Tensor, itself: Tensor | None = None) -> Nearest:
    """Find the nearest of ``(M, D)`` for each of ``(N, D)``, in float64.

    Arguments:
        itself: Which of the reference each of x is, ``(N,)``: it is not its own neighbour. Equal examples are.
    """
    reference = reference.double()
    centre = reference.mean(0)
    reference = reference - centre
    index, distance = torch.empty(len(x), dtype=torch.long), reference.new_empty(len(x))
    for rows, part in blocks(x, len(reference)):
        part = part.double() - centre
        squared = squared_distances(part, reference)
        if itself is not None:
            squared[torch.arange(len(part)), itself[rows]] = math.inf
        index[rows] = squared.argmin(1)
        # Again without cancellation: a copy is at distance 0, not at the rounding error of large squares.
        distance[rows] = (part - reference[index[rows]]).norm(dim=1)
    return Nearest(index, distance)


def authentic(samples: Nearest, train: Tensor) -> Tensor:
    """Whether each sample's neighbour in ``train`` ``(M, D)`` is nearer to another training example, ``(N,)`` bool."""
    needed, of_sample = samples.index.unique(return_inverse=True)  # not all pairs of the training set
    return nearest(train[needed], train, itself=needed).distance[of_sample] < samples.distance


def copying_statistic(of_samples: Tensor, of_real: Tensor) -> float:
    """Return :math:`C_T` from distances of N samples and M fresh real examples to the training set."""
    n, m = len(of_samples), len(of_real)
    u = float(stats.mannwhitneyu(of_real.numpy(), of_samples.numpy(), method="asymptotic").statistic)
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
        of_fake, of_real = nearest(sets.fake, train), nearest(sets.real, train)
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
