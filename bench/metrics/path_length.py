r"""Interpolation smoothness: the perceptual path length of a decoder, in the features that are chosen.

Two codes :math:`z_1, z_2 \sim \mathcal N(0, I)` are joined by a quarter of a circle, every point of which is a standard
normal code again,

.. math:: z(t) = \cos(\tfrac\pi2 t)\, z_1 + \sin(\tfrac\pi2 t)\, z_2, \qquad 0 \le t \le 1

and the path length is the mean squared speed at which features f of the decoded examples change along it:

.. math:: E\left[\frac{|f(G(z(t + \varepsilon))) - f(G(z(t)))|^2}{\varepsilon^2}\right], \qquad t \sim U(0, 1 -
    \varepsilon)

(Karras, Laine, Aila 2019, "A style-based generator architecture for generative adversarial networks", arXiv 1812.04948,
section 4.1, with LPIPS as the squared distance and normalized codes.) It is small where the decoder changes evenly, and
large where examples jump between modes. For :math:`G(z) = A z + b` and entries as features it is

.. math:: \|A\|_F^2\, (2 - 2 \cos(\pi \varepsilon / 2)) / \varepsilon^2

which is about 2.47 times the total variance of the samples.
"""

import math

import torch
from torch import Generator, Tensor

from bench.chunks import CHUNK
from bench.errors import BrokenError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.schema import Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["PathLength", "on_circle", "squared_speeds"]


def on_circle(first: Tensor, second: Tensor, t: Tensor) -> Tensor:
    """Return the codes at t ``(N,)`` on the quarter circles from ``first`` to ``second``, ``(N, Z)`` each."""
    angle = (math.pi / 2) * t[:, None]
    return angle.cos() * first + angle.sin() * second


def squared_speeds(before: Tensor, after: Tensor, step: float) -> Tensor:
    """Return the squared speed of features ``(N, F)`` that a step of the path moves: ``(N,)`` float64."""
    return ((after.double() - before.double()) / step).square().sum(1)


class PathLength(Metric):
    """Computes ``path_length[<features>]``, of models with a decoder of standard normal codes.

    It is in squared units of the features, and has no direction: a decoder that ignores its codes has 0. Decoded
    pictures are not rounded to levels; features that round them (``sscd``) need a step in which levels change. The
    error is that of the mean over independent paths.

    Arguments:
        features: Recipe of the features.
        n_paths: Number of paths, at least 2.
        step: The step along a path, above 0 and below 1.
    """

    def __init__(self, features: Recipe, n_paths: int, step: float) -> None:
        if n_paths < 2 or not 0 < step < 1:
            raise ValueError(f"n_paths must be at least 2 and step between 0 and 1, not {n_paths} and {step}")
        self.recipe, self.n_paths, self.step = features, n_paths, step

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        on = f"[{self.recipe.name(examples.spec)}]"
        return (MetricInfo(f"path_length{on}", "", None, self.version, f"path length{on}", rank=304),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        decoder = examples.subject.decoder()
        examples.need(self.recipe)
        extractor = examples.extractor(self.recipe)
        generator = Generator().manual_seed(derive_seed(examples.seed, "path length"))
        levels, speeds = examples.spec.levels, []
        for done in range(0, self.n_paths, CHUNK):
            n = min(CHUNK, self.n_paths - done)
            first, second = torch.randn(2, n, decoder.latent_dim, generator=generator)
            t = (1 - self.step) * torch.rand(n, generator=generator)
            ends = []
            for at in (t, t + self.step):
                with torch.no_grad():
                    x = decoder.mean(on_circle(first, second, at))
                ends.append(extractor.features(x if levels is None else (x + 1) / 2 * (levels - 1)))
            speeds.append(squared_speeds(ends[0], ends[1], self.step))
            examples.report("path length", done + n, self.n_paths)
        squared = torch.cat(speeds)
        if not bool(torch.isfinite(squared).all()):
            raise BrokenError("features of decoded codes are not finite")
        error = squared.std().item() / math.sqrt(self.n_paths)
        return [
            measured(
                info, squared.mean().item(), draws=error, within=(0.0, math.inf), n_draws=self.n_paths,
                extractor=extractor.name, extractor_hash=extractor.hash,
            )
        ]  # fmt: skip
