r"""Diversity without a reference: how many different samples there are, in the sense of a kernel's entropy.

With a Gaussian kernel :math:`k(a, b) = \exp(-|a - b|^2 / 2\sigma^2)` and eigenvalues :math:`\lambda` of the matrix
:math:`K_{ij} / N`, whose sum is 1,

.. math:: \mathrm{RKE} = \frac1{\sum_i \lambda_i^2} = \frac{N^2}{\sum_{ij} K_{ij}^2}, \qquad
          \mathrm{Vendi} = \exp\Big(-\sum_i \lambda_i \log \lambda_i\Big).

Both lie between 1, all equal, and N, all far apart. (Jalali, Li, Farnia 2023, "An information-theoretic evaluation of
generative models in learning multi-modal distributions", arXiv 2302.03033; Friedman, Dieng 2023, "The Vendi score",
arXiv 2210.02410.) RKE is the soft version of the support size that the birthday test estimates. It converges with N for
any kernel; Vendi need not before 20,000 samples (arXiv 2410.21719). :math:`\sigma` is a share of the median distance
between *real* examples, so that the unit is the data's and not the model's. Neither is ranked: noise is diverse. What
to compare with is the same number of real examples, which is reported beside it.

The errors of RKE hold two parts: that of the U-statistic, and that of the bandwidth, a median that other real examples
would move. For the real examples themselves the two nearly cancel: if they lay further apart, the bandwidth would be
larger as well. Where the real examples are few clusters, the median jumps between a few distances, and these errors can
be up to a third too small. Vendi has no error.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from bench.device import on_gpu
from bench.errors import BrokenError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.metrics.kernels import STEP, gaussian, within
from bench.metrics.pairs import squared_distances
from bench.metrics.two_sets import two_sets
from bench.metrics.width import MOST, median_distance, some
from bench.schema import Estimate, MetricInfo, Relation
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["KernelEntropy", "rke", "vendi"]

SHARE = 0.25
"""Of the median distance between real examples."""


def rke(x: Tensor, sigma: float) -> tuple[float, float]:
    r"""Return :math:`N^2 / \sum_{ij} K_{ij}^2` of features ``(N, D)``, N >= 2, and its standard error, in float64.

    The error is that of other examples for a given bandwidth. The mean of :math:`K^2` over pairs of different examples
    is a U-statistic: the variance of the influences counts the part that belongs to pairs twice, so it is subtracted
    once, but no more than half of the whole (as in ``bench.metrics.kernel_distance``).
    """
    found = _measured(x, sigma)
    return found.value, math.sqrt(_variance(found.influence / len(x), found.quadratic))


@dataclass(frozen=True)
class _Measured:
    """RKE, the influence of each example on it, ``(N,)``, and the part of its variance that belongs to pairs."""

    value: float
    influence: Tensor
    quadratic: float


def _measured(x: Tensor, sigma: float) -> _Measured:
    n, x = len(x), x.double() - x.double().mean(0)
    pairs = within(x, partial(gaussian, sigma=sigma / math.sqrt(2)))  # K^2
    purity = 1 / n + (1 - 1 / n) * pairs.mean  # with the pairs of each example with itself
    slope = -(1 - 1 / n) / purity**2
    return _Measured(1 / purity, 2 * slope * (pairs.means - pairs.mean), 2 * pairs.zeta * slope**2 / n**2)


def _variance(shares: Tensor, quadratic: float) -> float:
    """The variance of a sum of examples' shares ``(N,)``, which count the quadratic part of it twice."""
    whole = shares.square().sum().item() * len(shares) / (len(shares) - 1)
    return max(whole - quadratic, whole / 2)


def _slope(x: Tensor, sigma: float) -> float:
    """The derivative of RKE by the logarithm of the bandwidth."""
    wider, narrower = (_measured(x, sigma * factor).value for factor in (1 + STEP, 1 - STEP))
    return (wider - narrower) / (2 * STEP)


def vendi(x: Tensor, sigma: float) -> float:
    """Return the exponential of the entropy of the eigenvalues, of features ``(N, D)``, in float64."""
    x = x.double() - x.double().mean(0)
    kernel = (-squared_distances(x, x) / (2 * sigma**2)).exp()
    values = torch.linalg.eigvalsh(kernel / len(x)).clamp_min(0)
    return math.exp(-float(torch.xlogy(values, values).sum()))


class KernelEntropy(Metric):
    """Computes ``rke[<features>]`` and ``vendi[<features>]`` of the samples, and ``rke_real[<features>]`` of as many
    real examples.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples; Vendi takes the first 2000 at most.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        on = f"[{self.recipe.name(examples.spec)}]"
        return (
            MetricInfo(f"rke{on}", "", None, self.version, f"RKE{on}", rank=300),
            MetricInfo(f"vendi{on}", "", None, self.version, f"Vendi{on}", rank=300),
            MetricInfo(f"rke_real{on}", "", None, self.version, f"RKE of real{on}", rank=300),
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        sets = two_sets(examples, self.recipe, self.n_samples)
        known, made = on_gpu(sets.real, sets.fake)
        # Of the data alone: the same for all subjects.
        generator = Generator().manual_seed(derive_seed(0, "kernel entropy"))
        chosen = some(len(known), generator).to(known.device)
        median = median_distance(known[chosen])
        sigma = SHARE * median.value
        if not (0 < sigma < math.inf):
            raise BrokenError("half of the real examples are equal, or their distances overflow: there is no bandwidth")
        n = min(len(known), len(made))
        order = torch.randperm(len(known), generator=generator)[:n].to(known.device)
        value, error = rke(made[:n], sigma)
        error_of_sigma = math.sqrt(median.variance())
        of_real, slope = _measured(known[order], sigma), _slope(known[order], sigma)
        # A real example moves its own number directly and by the bandwidth.
        shares = of_real.influence.new_zeros(len(known))
        shares[order] += of_real.influence / n
        shares[chosen] += slope * median.influence / len(chosen)
        error_of_real = math.sqrt(_variance(shares, of_real.quadratic + slope**2 * median.quadratic))
        of_fake, of_vendi, real = self.infos(examples)
        within = (1.0, float(n))
        about = sets.about | {"n_fake": n}
        of_first = about | {"n_fake": min(n, MOST)}
        return [
            measured(
                of_fake,
                value,
                test=abs(_slope(made[:n], sigma)) * error_of_sigma,
                draws=error,
                within=within,
                **about,
            ),
            measured(of_vendi, vendi(made[:n][:MOST], sigma), relation=Relation.ESTIMATE, **of_first),
            measured(real, of_real.value, test=error_of_real, within=within, **about),
        ]
