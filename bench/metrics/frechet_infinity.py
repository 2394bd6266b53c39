r"""Fréchet distance extrapolated to infinitely many examples.

The estimate from N samples and M real examples has the expectation

.. math:: E[\text{FID}_{N,M}] = \text{FID}_\infty + \frac{c}{N} + \frac{c'}{M} + O(N^{-2} + M^{-2}),

where c depends on the model, so that models with equal distances at one N need not be equally good (Chong, Forsyth 2020,
"Effectively unbiased FID and Inception Score and where to find them", arXiv 1911.07023). A line in 1/N through the
distances of all examples and of halves meets 1/N = 0 at :math:`2\,\text{FID}_{N,M} - \text{FID}_{N/2,M/2}`. Both sides
are halved together, so that the line removes the bias of either.

The authors draw the samples from Sobol points in the latent space and shrink them to a tenth. Here subsets are plain,
because a subject may be anything that has samples, and are halves, because the terms of higher order are the smaller,
the larger the subsets. The two halves of a partition use all examples, so the extrapolation has the linear term of
:math:`\text{FID}_{N,M}` and with it its standard error, but for a term of second order.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bench.errors import UnavailableError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.frechet import frechet_distance_from_features, frechet_influences
from bench.metrics.intervals import measured
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["Extrapolated", "FIDInfinity", "frechet_infinity"]

PARTITIONS = 4
LEAST = 4  # examples of either side for each feature: with fewer the bias is no line in 1/N


@dataclass(frozen=True)
class Extrapolated:
    """A distance, its standard errors from x and from y, and that of second order, which belongs to both."""

    value: float
    stderr_x: float
    stderr_y: float
    stderr_second: float

    @property
    def stderr(self) -> float:
        return math.hypot(self.stderr_x, self.stderr_y, self.stderr_second)


def frechet_infinity(x: Tensor, y: Tensor, generator: Generator) -> Extrapolated:
    r"""Return the squared Fréchet distance of features ``(N, D)`` and ``(M, D)`` extrapolated to N = M = infinity.

    N and M should be at least 4 D. The value may be below 0, as that of an unbiased estimate must be where the truth
    is 0.

    The errors from x and y are those of the distance of all examples. The term of second order is a sum over pairs of
    examples that are in different halves. In a half it has the variance v, which the two halves of each of R partitions
    show by the difference of their distances less that of their influences; in the extrapolation :math:`(1 + 1/R)\,v /
    4`.

    Arguments:
        generator: Of the R = 4 partitions.
    """
    x, y = x.double(), y.double()
    on_x, on_y = (influence - influence.mean() for influence in frechet_influences(x, y))
    halves, squares = [], []
    for _ in range(PARTITIONS):
        parts = [torch.randperm(len(side), generator=generator).tensor_split(2) for side in (x, y)]
        first, second = (frechet_distance_from_features(x[i], y[j]) for i, j in zip(*parts, strict=True))
        linear = [float(on_x[i].mean() + on_y[j].mean()) for i, j in zip(*parts, strict=True)]
        halves += [first, second]
        squares.append((first - second - (linear[0] - linear[1])) ** 2 / 2)
    value = 2 * frechet_distance_from_features(x, y) - math.fsum(halves) / len(halves)
    variance = math.fsum(squares) / PARTITIONS
    errors = (math.sqrt(influence.var().item() / len(influence)) for influence in (on_x, on_y))
    return Extrapolated(value, *errors, math.sqrt((1 + 1 / PARTITIONS) * variance / 4))


class FIDInfinity(Metric):
    """Computes ``fid_infinity[<features>]`` between the test split and the subject's samples.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"fid_infinity[{name}]", "", False, self.version, f"FID∞[{name}]", rank=31),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        sets = two_sets(examples, self.recipe, self.n_samples)
        n, dim = min(len(sets.real), len(sets.fake)), sets.real.shape[1]
        if n < LEAST * dim:
            raise UnavailableError(f"needs at least {LEAST * dim} real examples and samples, {LEAST} for each of "
                                   f"{dim} features, not {len(sets.real)} and {len(sets.fake)}")  # fmt: skip
        # The same halves of the real examples for all subjects of one seed.
        generator = Generator().manual_seed(derive_seed(examples.seed, "fid_infinity"))
        found = frechet_infinity(sets.real, sets.fake, generator)
        draws = math.hypot(found.stderr_y, found.stderr_second)
        return [measured(info, found.value, test=found.stderr_x, draws=draws, **sets.about)]
