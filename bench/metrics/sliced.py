r"""Sliced Wasserstein distance: what it costs to move one set of features onto another, along random directions.

.. math:: \mathrm{SW}_2^2 = \frac1P \sum_{p=1}^{P} W_2^2(\theta_p^\top X, \theta_p^\top Y), \qquad
          W_2^2(u, v) = \int_0^1 (F_u^{-1}(t) - F_v^{-1}(t))^2 \, dt

over directions :math:`\theta_p` uniform on the unit sphere (Bonneel, Rabin, Peyre, Pfister 2015, "Sliced and Radon
Wasserstein barycenters of measures"). One dimension needs no more than sorting. ``mind`` is 3 D SW_2^2 with P = 1000
("MIND", arXiv 2605.06797); the factor makes distances in spaces of different D comparable. Like FID it is biased
upwards by an amount that falls with the number of examples, so only values of equal numbers can be compared; unlike FID
it sees more than means and covariances.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bench.errors import BrokenError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["MIND", "SlicedDistance", "sliced_wasserstein"]

DIRECTIONS_AT_ONCE = 64


@dataclass(frozen=True)
class SlicedDistance:
    """A squared sliced Wasserstein distance, and the standard errors that come from x and from y."""

    value: float
    stderr_x: float
    stderr_y: float


def sliced_wasserstein(x: Tensor, y: Tensor, n_directions: int, generator: Generator) -> SlicedDistance:
    r"""Return :math:`\mathrm{SW}_2^2` of features ``(N, D)`` and ``(M, D)``, N, M >= 2, in float64.

    The influence of an example is its Kantorovich potential, averaged over the directions: in one dimension
    :math:`\phi(u) = \int^u 2 (s - T(s)) ds` with the optimal map T (Sommerfeld, Munk 2018, "Inference for empirical
    Wasserstein distances on finite spaces"). The squared error is the variance of the influence over N or M. It
    vanishes for equal distributions, where the distance is all bias.

    Arguments:
        n_directions: P.
        generator: Of the directions. Compare only values of the same directions.
    """
    x, y = x.double(), y.double()
    total, on_x, on_y = 0.0, x.new_zeros(len(x)), y.new_zeros(len(y))
    for start in range(0, n_directions, DIRECTIONS_AT_ONCE):
        size = min(DIRECTIONS_AT_ONCE, n_directions - start)
        theta = torch.randn(x.shape[1], size, generator=generator, dtype=torch.float64)
        theta = theta / theta.norm(dim=0)
        u, of_u = (x @ theta).sort(dim=0)  # (N, p)
        v, of_v = (y @ theta).sort(dim=0)  # (M, p)
        of_t, of_s, weight = _coupling(len(x), len(y))
        gap = u[of_t] - v[of_s]  # (T, p), T <= N + M pieces of [0, 1] on which both quantile functions are constant
        total += float((weight[:, None] * gap.square()).sum())
        on_x += _potential(u, gap, of_t, weight, of_u)
        on_y += _potential(v, -gap, of_s, weight, of_v)
    errors = [(on / n_directions).std().item() / math.sqrt(len(on)) for on in (on_x, on_y)]
    return SlicedDistance(total / n_directions, *errors)


def _coupling(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces of [0, 1] between all multiples of 1/n and 1/m: which of n, which of m, and how long."""
    cuts = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()  # in units of 1 / (n m)
    begins = torch.cat([cuts.new_zeros(1), cuts[:-1]])
    return begins // m, begins // n, (cuts - begins).double() / (n * m)


def _potential(u: Tensor, gap: Tensor, owner: Tensor, weight: Tensor, order: Tensor) -> Tensor:
    """Sum over directions of the potential of each example, ``(N,)``, from sorted projections u ``(N, p)``."""
    n = len(u)
    mean_gap = u.new_zeros(u.shape).index_add_(0, owner, weight[:, None] * gap) * n  # (N, p): u - T(u)
    steps = (u[1:] - u[:-1]) * (mean_gap[1:] + mean_gap[:-1])  # of the integral of 2 (s - T(s)), by the trapezoid rule
    potential = torch.cat([steps.new_zeros(1, u.shape[1]), steps.cumsum(0)])
    potential = potential - potential.mean(0)
    return u.new_zeros(u.shape).scatter_(0, order, potential).sum(1)


class MIND(Metric):
    """Computes ``mind[<features>]`` between the test split and the subject's samples.

    The directions are the same for all subjects and seeds: they are part of the metric.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
        n_directions: Number of random directions.
    """

    def __init__(self, features: Recipe, n_samples: int, n_directions: int = 1000) -> None:
        if n_directions < 1:
            raise ValueError(f"n_directions must be at least 1, not {n_directions}")
        self.recipe = features
        self.n_samples = n_samples
        self.n_directions = n_directions

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"mind[{name}]", "", False, self.version, f"MIND[{name}]", rank=33),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        sets = two_sets(examples, self.recipe, self.n_samples)
        generator = Generator().manual_seed(derive_seed(0, "sliced", "directions"))
        found = sliced_wasserstein(sets.real, sets.fake, self.n_directions, generator)
        scale = 3 * sets.real.shape[1]
        if not math.isfinite(scale * (found.value + found.stderr_x + found.stderr_y)):
            raise BrokenError("features are too large: their squares overflow")
        test, draws = scale * found.stderr_x, scale * found.stderr_y
        return [measured(info, scale * found.value, test=test, draws=draws, within=(0.0, math.inf), **sets.about)]
