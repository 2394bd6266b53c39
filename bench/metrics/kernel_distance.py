r"""Kernel distance: the squared maximum mean discrepancy between features, without bias, and its standard error.

.. math:: \mathrm{MMD}^2 = E[k(x, x')] + E[k(y, y')] - 2 E[k(x, y)]

With the cubic kernel :math:`k(a, b) = (a \cdot b / D + 1)^3` it is the kernel Inception distance (Binkowski,
Sutherland, Arbel, Gretton 2018, "Demystifying MMD GANs", arXiv 1801.01401). All pairs are used: the U-statistic

.. math:: \widehat{\mathrm{MMD}}{}^2 = \frac{1}{N(N-1)} \sum_{i \ne j} k(x_i, x_j)
    + \frac{1}{M(M-1)} \sum_{i \ne j} k(y_i, y_j) - \frac{2}{NM} \sum_{i, j} k(x_i, y_j)

is unbiased at any number of examples, so that values of different numbers of examples estimate the same quantity. The
usual mean over a hundred random subsets of 1000 has the same expectation, costs more, and its spread is no standard
error. The estimate of two equal distributions is negative about every second time. It is not clipped, because that
would bias it.
"""

import math
from dataclasses import dataclass
from functools import partial

from torch import Generator, Tensor

from bench.device import on_gpu
from bench.errors import BrokenError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.metrics.kernels import STEP, Kernel, between, cubic, gaussian, within
from bench.metrics.two_sets import two_sets
from bench.metrics.width import MOST, median_distance, some
from bench.schema import Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["KID", "MMD", "KernelDistance", "kernel_distance"]


@dataclass(frozen=True)
class KernelDistance:
    """An unbiased squared maximum mean discrepancy, and the standard errors that come from x and from y."""

    value: float
    stderr_x: float
    stderr_y: float


def kernel_distance(x: Tensor, y: Tensor, kernel: Kernel = cubic, on_x: Tensor | float = 0.0) -> KernelDistance:
    r"""Return the distance of features x ``(N, D)`` and y ``(M, D)``, N, M >= 2, with its standard errors. Float64.

    By Hoeffding's decomposition the variance has a part that is linear in single examples and one that is quadratic.
    With the mean kernels :math:`g_i = 2 (\tfrac1{N-1} \sum_{j \ne i} k(x_i, x_j) - \tfrac1M \sum_j k(x_i, y_j))`, their
    sample variance :math:`s_g^2 / N` is the linear part of x and twice the quadratic one. So the quadratic part,

    .. math:: \frac{2 \zeta_x}{N^2} + \frac{2 \zeta_{xy}}{NM}, \qquad \zeta = E[\tilde k^2]

    of the doubly centred kernels :math:`\tilde k`, is subtracted, but no more than half of the whole, which is right
    where the distributions are equal and the linear part vanishes. For y the two sides are exchanged. (As the jackknife
    counts quadratic parts twice: Efron, Stein 1981, "The jackknife estimate of variance".)

    Arguments:
        on_x: What each of x moves the distance by its part in the kernel, ``(N,)``, as of a mean; 0 for a given kernel.
    """
    x, y = x.double(), y.double()
    n, m = len(x), len(y)
    xx, yy, xy = within(x, kernel), within(y, kernel), between(x, y, kernel)
    value = xx.mean + yy.mean - 2 * xy.mean
    errors = []
    for size, own, others, across, further in ((n, xx, m, xy.of_x, on_x), (m, yy, n, xy.of_y, 0.0)):
        linear_and_twice = (2 * (own.means - across) + further).var().item() / size
        quadratic = 2 * own.zeta / size**2 + 2 * xy.zeta / (size * others)
        errors.append(math.sqrt(max(linear_and_twice - quadratic, linear_and_twice / 2)))
    return KernelDistance(value, *errors)


def _slope(x: Tensor, y: Tensor, sigma: float) -> float:
    """The derivative of the distance with a Gaussian kernel by the logarithm of its width."""
    kernels = (partial(gaussian, sigma=sigma * factor) for factor in (1 + STEP, 1 - STEP))
    wider, narrower = (within(x, k).mean + within(y, k).mean - 2 * between(x, y, k).mean for k in kernels)
    return (wider - narrower) / (2 * STEP)


class KID(Metric):
    """Computes ``kid[<features>]`` between the test split and the subject's samples.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"kid[{name}]", "", False, self.version, f"KID[{name}]", rank=32),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        sets = two_sets(examples, self.recipe, self.n_samples)
        real, fake = on_gpu(sets.real, sets.fake)
        found = kernel_distance(real, fake)
        if not math.isfinite(found.value + found.stderr_x + found.stderr_y):
            raise BrokenError("features are too large: their kernel overflows")
        return [measured(info, found.value, test=found.stderr_x, draws=found.stderr_y, **sets.about)]


class MMD(Metric):
    """Computes ``mmd[<features>]``: the same distance with a Gaussian kernel, times 1000.

    The kernel's width is the median distance between real examples (Gretton et al. 2012, "A kernel two-sample test"),
    so that it depends on the data and not on the model. Unlike KID it sees more than three moments, and it is bounded
    by 2000; it sees little of what is much smaller or much larger than its width. Its error holds what other real
    examples would change by the width.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"mmd[{name}]", "", False, self.version, f"1000 MMD²[{name}]", rank=34),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        sets = two_sets(examples, self.recipe, self.n_samples)
        generator = Generator().manual_seed(derive_seed(0, "mmd", "width"))
        real, fake = on_gpu(sets.real, sets.fake)
        chosen = some(len(real), generator).to(real.device)
        median = median_distance(real[chosen])
        sigma = median.value
        if not 0 < sigma < math.inf:
            raise BrokenError("half of the real examples are equal, or their distances overflow: there is no width")
        centre = real.double().mean(0)  # squared distances would cancel far from the origin
        real, fake = real.double() - centre, fake.double() - centre
        on_real = real.new_zeros(len(real))
        # Some of the examples tell the slope well enough.
        slope = _slope(real[chosen], fake[:MOST], sigma)
        on_real[chosen] = slope * median.influence * len(real) / len(chosen)
        found = kernel_distance(real, fake, partial(gaussian, sigma=sigma), on_real)
        if not math.isfinite(found.value):
            raise BrokenError("features are too large: their squares overflow")
        value, test, draws = (1000 * part for part in (found.value, found.stderr_x, found.stderr_y))
        return [measured(info, value, test=test, draws=draws, **sets.about)]
