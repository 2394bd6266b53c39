r"""The Parzen window estimate, kept apart because papers of 2014 report it: it says little about a model.

.. math:: \log \hat p(x) = \log \frac1n \sum_{i=1}^n N(x; y_i, \sigma^2 I)

for samples y of the model. In high dimension it needs more samples than anybody draws: it ranks the training set's
k-means above the true model (Theis, van den Oord, Bethge 2016, A note on the evaluation of generative models,
arXiv:1511.01844), and gives a GAN 300 nats for which annealed importance sampling gives 627 (Wu, Burda, Salakhutdinov,
Grosse 2017, arXiv:1611.04273). It is in no default list, has no direction and is never ranked; ``ais`` measures what it
is meant to.
"""

import math

import torch
from torch import Tensor

from bench.device import on_gpu
from bench.errors import UnavailableError
from bench.metrics.annealing import on_unit_scale
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.schema import Estimate, Kind, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["MISLEADS", "Parzen", "parzen_log_densities"]

MISLEADS = "Parzen windows mislead in high dimension (arXiv:1511.01844, arXiv:1611.04273); use metric=[ais]"


def parzen_log_densities(x: Tensor, samples: Tensor, sigma: float) -> Tensor:
    """Return the log-density of examples ``(N, D)`` under windows around samples ``(n, D)``: ``(N,)`` nats, float64."""
    x, samples = x.double(), samples.double()
    constant = x.shape[1] * (math.log(sigma) + 0.5 * math.log(2 * math.pi)) + math.log(len(samples))
    parts = [torch.cdist(part, samples).square() for part in x.split(250)]
    return torch.cat([(-0.5 * squared / sigma**2).logsumexp(1) for squared in parts]) - constant


class Parzen(Metric):
    """Computes ``parzen[sigma=S]``, the mean over test examples. It misleads, and its row says why.

    Its error is over test examples, for the samples that were drawn: others would move it by as much again or more.
    Windows need distances, which categories have not.

    Arguments:
        sigma: Width of the windows, on [0, 1] for integer data, in the data's own unit for reals.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, sigma: float, n_samples: int) -> None:
        if sigma <= 0:
            raise ValueError(f"sigma must be above 0, not {sigma}")
        self.sigma, self.n_samples = sigma, n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        noise = f"[sigma={self.sigma:g}]"
        return (MetricInfo(f"parzen{noise}", "nats", None, self.version, f"Parzen{noise}", rank=300),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        if examples.spec.kind != Kind.NUMBERS:
            raise UnavailableError("the entries are categories, whose differences mean nothing")
        levels = examples.spec.levels
        samples = on_unit_scale(examples.samples(self.n_samples), levels).flatten(1)
        x = on_unit_scale(examples.real, levels).flatten(1)
        if min(len(x), len(samples)) < 2:
            return [Estimate(info, status=Status.FAILED, reason="needs at least 2 samples and 2 test examples")]
        x, samples = on_gpu(x, samples)
        each = parzen_log_densities(x, samples, self.sigma)
        error = float(each.std()) / math.sqrt(len(each))
        return [
            measured(info, float(each.mean()), test=error, n_real=len(x), n_fake=len(samples), reason=MISLEADS)
        ]  # fmt: skip
