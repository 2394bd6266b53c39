r"""Mode counting: how many of the data's modes a model hits, how well, and in which proportions.

It applies to distributions with known modes. For Gaussians on a ring or a grid, a sample within three standard
deviations of the nearest mean is of high quality and belongs to that mode (Srivastava et al. 2017, "VEEGAN: Reducing
mode collapse in GANs using implicit variational learning", arXiv 1705.07761; Lin et al. 2018, "PacGAN: The power of two
samples in generative adversarial networks", arXiv 1712.04086, with 2,500 samples). For stacked digits, a classifier
assigns each sample to one of 1000 modes (Metz et al. 2017, "Unrolled generative adversarial networks", arXiv
1611.02163, with 26,000 samples). All three numbers depend on the number of samples, so only values with equal numbers
of samples can be compared.
"""

import math
from typing import Any

import torch
from torch import Tensor

from bench.data.base import ClassifiedModes
from bench.errors import UnavailableError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured, wilson_interval
from bench.metrics.support_size import different_error
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["ModeCounts", "mode_divergence", "modes_hit"]


class ModeCounts(Metric):
    """Computes ``modes``, ``mode_kl`` and ``high_quality``.

    ``modes`` is the number of modes hit by at least one sample. ``high_quality`` is the share of samples that belong to
    a mode. ``mode_kl`` is the divergence of those samples' distribution over the modes from the true one.

    If a classifier assigns the modes, its name is part of the metrics' names, as in ``modes[mnist-cnn]``. Every sample
    then belongs to a mode, so there is no ``high_quality``.

    Arguments:
        features: Recipe of the classifier, for data whose modes a classifier assigns.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        modes = examples.data.modes
        on = f"[{self.recipe.name(modes.labelled.spec)}]" if isinstance(modes, ClassifiedModes) else ""
        hit = MetricInfo(f"modes{on}", "", True, self.version, f"modes{on}")
        quality = MetricInfo("high_quality", "", True, self.version, "high quality")
        # Where samples may lie outside every mode, the divergence is that of those inside, however few: its order says
        # nothing alone.
        better = False if on else None
        divergence = MetricInfo(f"mode_kl{on}", "nats", better, self.version, f"KL of modes{on}")
        return (hit, divergence) if on else (hit, divergence, quality)

    def compute(self, examples: Examples) -> list[Estimate]:
        hit_info, divergence_info, *quality_info = self.infos(examples)
        modes = examples.data.modes
        if modes is None:
            raise UnavailableError(f"the modes of {examples.spec.name} are not known")
        samples = examples.samples(self.n_samples)
        about: dict[str, Any] = {}
        if isinstance(modes, ClassifiedModes):
            classifier = examples.classifier(self.recipe, modes.labelled)
            if classifier.accuracy is None:
                raise UnavailableError(f"the classes of {classifier.name} are not the modes of the data")
            about = {"extractor": classifier.name, "extractor_hash": classifier.hash}
            modes = modes.read(classifier.classes)
        mode = modes.assign(samples)  # (N,)
        n, counts = len(mode), torch.bincount(mode[mode >= 0], minlength=modes.n)  # (modes.n,)
        about |= {"n_fake": n}
        hit, error = modes_hit(counts, n)
        estimates = [measured(hit_info, float(hit), draws=error, within=(0.0, float(modes.n)), **about)]
        if int(counts.sum()) > 0:
            value, error = mode_divergence(counts, modes.probabilities)
            estimates.append(measured(divergence_info, value, draws=error, within=(0.0, math.inf), **about))
        else:
            estimates.append(Estimate(divergence_info, status=Status.SKIPPED, reason="no sample belongs to a mode"))
        for info in quality_info:
            p = int(counts.sum()) / n
            low, high = wilson_interval(p, n)
            estimates.append(measured(info, p, draws=math.sqrt(p * (1 - p) / n), ci_low=low, ci_high=high, **about))
        return estimates


def modes_hit(counts: Tensor, n: int) -> tuple[int, float]:
    """Return the number of modes hit by n samples, and its standard error (``support_size.different_error``).

    Arguments:
        counts: Number of samples in each mode, ``(modes,)`` int64.
        n: Number of samples, including those that belong to no mode.
    """
    return int((counts > 0).sum()), different_error(counts, n)


def mode_divergence(counts: Tensor, probabilities: Tensor | None = None) -> tuple[float, float]:
    r"""Return the KL divergence of the observed distribution over modes from the true one, and its standard error.

    .. math:: \mathrm{KL}(q \,\|\, p) = \sum_k q_k \log \frac{q_k}{p_k}, \qquad q_k = \text{counts}_k / n.

    This is the *reverse* Kullback-Leibler divergence in nats. It is finite for a model that misses modes, and 0 at the
    true proportions. As a plug-in estimate it is biased upwards by about (modes hit - 1) / 2n.

    The variance is the jackknife estimate J minus :math:`(\text{modes hit} - 1) / 2n^2`. That is the variance of the
    quadratic part of the statistic, which the jackknife counts twice (Efron, Stein 1981, "The jackknife estimate of
    variance"). The result is at least J/2, which is correct at the true proportions, where only the quadratic part
    remains.

    Arguments:
        counts: Number of samples in each mode, ``(modes,)``; their sum n is at least 1.
        probabilities: p, ``(modes,)``, positive for every mode with samples; None: all equal.
    """
    uniform = torch.full((len(counts),), 1 / len(counts), dtype=torch.float64)
    hit = counts > 0
    c, p = counts[hit].double(), (uniform if probabilities is None else probabilities.double())[hit]
    n = c.sum()
    part = c * (c / p).log()  # (hit,): the sum is n (KL + log n)
    value = part.sum() / n - n.log()
    if n == 1:
        return value.item(), 0.0
    fewer = torch.special.xlogy(c - 1, (c - 1) / p)  # (hit,): the part with one sample fewer in its mode
    without = (part.sum() - part + fewer) / (n - 1) - (n - 1).log()  # (hit,): the divergence without that sample
    mean = (c * without).sum() / n
    jackknife = (n - 1) / n * (c * (without - mean).square()).sum()
    variance = torch.maximum(jackknife - (len(c) - 1) / (2 * n**2), jackknife / 2)
    return max(0.0, value.item()), variance.sqrt().item()
