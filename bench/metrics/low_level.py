r"""Low-level statistics of pictures: brightness, contrast, sharpness, and the slope of the power spectrum.

Of each picture, channels averaged, with levels scaled to [0, 1]:

* *brightness*: the mean of its pixels;
* *contrast*: their standard deviation;
* *sharpness*: the logarithm of the variance of its Laplacian (Pech-Pacheco et al. 2000, "Diatom autofocusing in
  brightfield microscopy");
* *spectrum slope*: the least-squares slope of log power against log frequency, over rings of whole frequencies up to
  half the sampling rate, each weighted by its size: about -2 in photographs (Torralba, Oliva 2003, "Statistics of
  natural image categories").

Each number is the difference of the means of samples and of real test pictures, in standard deviations of the real
pictures:

.. math:: d = \frac{\bar s_{\text{samples}} - \bar s_{\text{real}}}{\operatorname{sd} s_{\text{real}}}.

0 is ideal. (Borji 2019, "Pros and cons of GAN evaluation measures", arXiv 1802.03446, lists such statistics.) They say
what is wrong where they differ, and nothing where they do not: none is ranked. The power that rounding to levels adds
is added once more, so that a picture of one colour has a flat spectrum and a finite sharpness.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from bench.errors import BrokenError, UnavailableError
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

__all__ = ["STATISTICS", "LowLevel", "low_level_statistics", "standardized_difference"]

STATISTICS = ("brightness", "contrast", "sharpness", "spectrum_slope")
SMALLEST = 8
CHUNK = 1000


def low_level_statistics(x: Tensor, levels: int) -> Tensor:
    """The four statistics of pictures ``(N, C, H, W)`` of levels 0 .. L-1, ``(N, 4)`` float64 in order of their names.

    Arguments:
        x: At least 8 x 8 pixels.
    """
    return torch.cat([_of_chunk(part, levels) for part in x.split(CHUNK)])


def standardized_difference(of_fake: Tensor, of_real: Tensor) -> tuple[float, float, float]:
    r"""Return d of statistics ``(M,)`` and ``(N,)``, and its standard errors due to real and to fake.

    By the delta method a real example of standardized value z has the influence :math:`-z - d (z^2 - 1) / 2`.
    """
    spread = of_real.std()
    d = (of_fake.mean() - of_real.mean()) / spread
    z = (of_real - of_real.mean()) / spread
    influence = -z - d * (z.square() - 1) / 2
    return (
        d.item(),
        influence.std().item() / math.sqrt(len(z)),
        (of_fake.std() / spread).item() / math.sqrt(len(of_fake)),
    )


def _of_chunk(x: Tensor, levels: int) -> Tensor:
    grey = x.double().mean(1) / (levels - 1)  # (N, H, W)
    rounding = 1 / (12 * (levels - 1) ** 2)  # variance of a number rounded to levels
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)
    laplacian = functional.conv2d(grey[:, None], kernel[None, None]).flatten(1)
    sharpness = (laplacian.var(1) + 20 * rounding).log()  # 20: the sum of the kernel's squares
    flat = grey.flatten(1)
    return torch.stack([flat.mean(1), flat.std(1), sharpness, _slopes(grey, rounding)], dim=1)


def _slopes(grey: Tensor, rounding: float) -> Tensor:
    """The slope of log power of each picture ``(N, H, W)``, ``(N,)``."""
    n, height, width = grey.shape
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    square = grey[:, top : top + size, left : left + size]
    power = torch.fft.fft2(square - square.mean((1, 2), keepdim=True)).abs().square() / size**2 + rounding
    axis = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    radius = (axis[:, None].square() + axis[None].square()).sqrt().flatten()  # (size^2,)
    ring, rings = radius.round().long(), size // 2
    inside = (ring >= 1) & (ring <= rings)
    ring, radius, power = ring[inside] - 1, radius[inside], power.flatten(1)[:, inside]
    counts = torch.bincount(ring, minlength=rings).double()
    y = (torch.zeros(n, rings, dtype=torch.float64).index_add_(1, ring, power) / counts).log()
    t = torch.zeros(rings, dtype=torch.float64).index_add_(0, ring, radius.log()) / counts
    weight = counts * (t - counts @ t / counts.sum())  # a ring counts as often as it has frequencies
    return (y @ weight) / (t @ weight)


class LowLevel(Metric):
    """Computes ``brightness``, ``contrast``, ``sharpness`` and ``spectrum_slope``, as differences from the test split.

    They apply to pictures of at least 8 x 8 pixels with integer levels.

    Arguments:
        n_samples: Number of the subject's samples.
    """

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return tuple(
            MetricInfo(name, "sd", None, self.version, name.replace("_", " "), rank=320 + place)
            for place, name in enumerate(STATISTICS)
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        spec = examples.spec
        if not spec.is_image or spec.levels is None or min(spec.shape[1:]) < SMALLEST:
            raise UnavailableError(
                f"{spec.name} has no pictures of at least {SMALLEST} x {SMALLEST} with integer levels"
            )
        samples = examples.samples(self.n_samples)
        if min(len(samples), len(examples.real)) < 2:
            raise BrokenError("needs at least 2 samples and 2 test examples")
        of_real, of_fake = (low_level_statistics(x, spec.levels) for x in (examples.real, samples))
        estimates = []
        for info, real, fake in zip(self.infos(examples), of_real.T, of_fake.T, strict=True):
            if float(real.std()) == 0:
                raise BrokenError(f"all test pictures have the same {info.title}")
            value, test, draws = standardized_difference(fake, real)
            estimates.append(measured(info, value, test=test, draws=draws, n_real=len(real), n_fake=len(fake)))
        return estimates
