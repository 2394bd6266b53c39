r"""Likelihood of decoder models with Gaussian noise, by annealed importance sampling.

A decoder G takes a code :math:`z \sim N(0, I)` to an example. With noise of standard deviation :math:`\sigma` on it,

.. math:: p_\sigma(x) = \int N(z; 0, I)\, N(x; G(z), \sigma^2 I)\, dz

is a density, of a GAN too (Wu, Burda, Salakhutdinov, Grosse 2017, On the quantitative analysis of decoder-based
generative models, arXiv:1611.04273). Another :math:`\sigma` is another model, so it stands in the metric's name. Images
of integer levels are x / (L - 1), in [0, 1], and the density is with respect to that scale.

Chains go from the prior to the posterior along :math:`p_t(z) \propto N(z; 0, I)\, p(x|z)^{\beta_t}` (Neal 2001,
Annealed importance sampling) by Hamiltonian Monte Carlo. The mean of their weights
:math:`w = \prod_t p(x|z_t)^{\beta_t - \beta_{t-1}}` is unbiased but for the adaptation of the step sizes, so its
logarithm is a lower bound on average. It is reported as an estimate: how far it lies below is not known. The number of
temperatures is doubled until the mean changes by less than a tolerance.
"""

import math
from typing import Any

import torch
from torch import Generator, Tensor

from bench.errors import UnavailableError
from bench.metrics.annealing import (
    ais_log_weights,
    gaussian_log_likelihood,
    on_unit_scale,
    sigmoid_schedule,
    summary,
)
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.schema import Estimate, MetricInfo, Status
from bench.seeds import derive_seed
from bench.subjects.base import Decoder
from bench.subjects.examples import Examples

__all__ = ["DecoderAIS"]

CHUNK = 2048  # chains at once


class DecoderAIS(Metric):
    """Computes ``ais[sigma=S]``, the mean log-likelihood in nats of the first test examples.

    Its error is that over test examples and chains. ``ais_temperatures[sigma=S]`` is the number at which the doubling
    ended, ``ais_change[sigma=S]`` what the last doubling changed.

    Arguments:
        sigma: Standard deviation of the noise, on [0, 1] for integer data, in the data's own unit for reals.
        n_examples: Number of test examples.
        chains: Chains for each example.
        temperatures: Number to begin with.
        most_temperatures: The doubling ends here.
        tolerance: Change of the mean, in nats, at which it ends before.
    """

    def __init__(
        self, sigma: float, n_examples: int, chains: int, temperatures: int, most_temperatures: int, tolerance: float
    ) -> None:
        if sigma <= 0 or tolerance <= 0:
            raise ValueError(f"sigma and tolerance must be above 0, not {sigma} and {tolerance}")
        if n_examples < 2 or chains < 2 or temperatures < 1 or most_temperatures < 2 * temperatures:
            raise ValueError(
                "n_examples and chains must be at least 2, temperatures at least 1 and most_temperatures twice that, "
                f"not {n_examples}, {chains}, {temperatures} and {most_temperatures}"
            )
        self.sigma, self.n_examples, self.chains = sigma, n_examples, chains
        self.temperatures, self.most_temperatures, self.tolerance = temperatures, most_temperatures, tolerance

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        noise = f"[sigma={self.sigma:g}]"
        return (
            MetricInfo(f"ais{noise}", "nats", True, self.version, f"AIS{noise}", rank=19),
            MetricInfo(f"ais_temperatures{noise}", "", None, self.version, f"AIS temperatures{noise}", rank=300),
            MetricInfo(f"ais_change{noise}", "nats", None, self.version, f"AIS change{noise}", rank=300),
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        infos = self.infos(examples)
        decoder = examples.subject.decoder()
        x = on_unit_scale(examples.real[: self.n_examples], examples.spec.levels)
        if len(x) < 2:
            raise UnavailableError(f"needs at least 2 test examples, of {len(x)}")
        temperatures, change = self.temperatures, math.inf
        log_w = self._run(examples, decoder, x, temperatures)
        while change >= self.tolerance and 2 * temperatures <= self.most_temperatures:
            temperatures *= 2
            before, log_w = summary(log_w)[0].mean(), self._run(examples, decoder, x, temperatures)
            change = abs(float(summary(log_w)[0].mean() - before))
        bound, total, of_draws = summary(log_w)
        if not bool(torch.isfinite(bound).all()) or not math.isfinite(change):
            reason = "the log-likelihood of an example is not finite"
            return [Estimate(info, status=Status.FAILED, reason=reason) for info in infos]
        reason = "" if change < self.tolerance else (
            f"not converged: the last doubling, to {temperatures} temperatures, changed it by {change:.2g} nats"
        )  # fmt: skip
        about: dict[str, Any] = {"n_real": len(x), "n_draws": self.chains}
        of_test = math.sqrt(max(0.0, total**2 - of_draws**2)) if math.isfinite(of_draws) else None
        value = measured(
            infos[0], float(bound.mean()), test=of_test, draws=of_draws if math.isfinite(of_draws) else None,
            stderr=total, reason=reason, **about,
        )  # fmt: skip
        return [value, Estimate(infos[1], float(temperatures), **about), Estimate(infos[2], change, **about)]

    def _run(self, examples: Examples, decoder: Decoder, x: Tensor, temperatures: int) -> Tensor:
        """``(chains, N)`` log-weights."""
        parts = []
        at_once = max(1, CHUNK // self.chains)
        generator = Generator().manual_seed(derive_seed(examples.seed, "ais", temperatures))
        for start in range(0, len(x), at_once):
            part = x[start : start + at_once]
            z = torch.randn(self.chains, len(part), decoder.latent_dim, generator=generator)
            done = start * temperatures

            def report(t: int, done: int = done, size: int = len(part)) -> None:
                examples.report(f"AIS, {temperatures} temperatures", done + t * size, len(x) * temperatures)

            likelihood = gaussian_log_likelihood(decoder, part, self.sigma, examples.spec.levels)
            parts.append(ais_log_weights(likelihood, z, sigmoid_schedule(temperatures), generator, report)[0])
        return torch.cat(parts, 1)
