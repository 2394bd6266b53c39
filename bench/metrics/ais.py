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
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.metrics.likelihood import bound_errors, k_draw_bound
from bench.schema import Estimate, MetricInfo, Status
from bench.seeds import derive_seed
from bench.subjects.base import Decoder
from bench.subjects.examples import Examples

__all__ = [
    "DecoderAIS", "ais_log_weights", "gaussian_log_likelihood", "on_unit_scale", "sigmoid_schedule",
]  # fmt: skip

LEAPFROG = 10
ACCEPTED = 0.65  # share of proposals at which the step size is held; optimal in high dimension (Neal 2011)
PACE = 1.02
CHUNK = 2048  # chains at once

LogLikelihood = Callable[[Tensor], Tensor]
"""Codes ``(K, N, Z)`` to log p(x|z) of the N examples, ``(K, N)``."""


def sigmoid_schedule(temperatures: int) -> list[float]:
    """Return ``temperatures`` + 1 inverse temperatures from 0 to 1 that lie denser at both ends, as in Wu et al."""
    t = torch.linspace(-4, 4, temperatures + 1, dtype=torch.float64).sigmoid()
    return ((t - t[0]) / (t[-1] - t[0])).tolist()


def ais_log_weights(
    log_likelihood: LogLikelihood,
    z: Tensor,
    betas: list[float],
    generator: Generator,
    report: Callable[[int], None] = lambda done: None,
) -> tuple[Tensor, Tensor, float]:
    r"""Return the log-weights of annealed chains, where they end, and the share of proposals that were accepted.

    Arguments:
        log_likelihood: Differentiable.
        z: Codes from the prior, ``(K, N, Z)``: K chains for each of N examples.
        betas: Increasing, from 0 to 1. Decreasing from 1 to 0, with z from the posterior, the chains run backwards, and
            minus the log-weight is an upper bound of log p(x) on average.
        generator: Of momenta and acceptances.
        report: Told the number of temperatures done.

    Returns:
        ``(K, N)`` float64, ``(K, N, Z)``, and a number.
    """
    step = z.new_full((1, z.shape[1], 1), 0.1)  # of each example, adapted to the acceptance of its chains
    log_w = torch.zeros(z.shape[:2], dtype=torch.float64)
    current, slope = _with_slope(log_likelihood, z)
    accepted = 0.0
    for number in range(1, len(betas)):
        report(number - 1)
        beta = betas[number]
        log_w += (beta - betas[number - 1]) * current.double().cpu()
        # One trajectory of the Hamiltonian -log N(z; 0, I) - beta log p(x|z) + |p|^2 / 2, in leapfrog steps.
        momentum = torch.randn(z.shape, generator=generator, dtype=z.dtype)
        end, at_end, slope_at_end, p = z, current, slope, momentum
        p = p + 0.5 * step * (beta * slope_at_end - end)
        for leap in range(LEAPFROG):
            end = end + step * p
            at_end, slope_at_end = _with_slope(log_likelihood, end)
            p = p + (1.0 if leap < LEAPFROG - 1 else 0.5) * step * (beta * slope_at_end - end)
        before = beta * current - 0.5 * (z.square() + momentum.square()).sum(2)
        after = beta * at_end - 0.5 * (end.square() + p.square()).sum(2)
        u = torch.rand(z.shape[:2], generator=generator, dtype=z.dtype)
        accept = (u.log() < after - before) & torch.isfinite(after)
        z = torch.where(accept[..., None], end, z)
        slope = torch.where(accept[..., None], slope_at_end, slope)
        current = torch.where(accept, at_end, current)
        share = accept.to(z.dtype).mean(0)[None, :, None]
        step = (step * torch.where(share > ACCEPTED, PACE, 1 / PACE)).clamp(1e-5, 1.0)
        accepted += float(share.mean())
    return log_w, z, accepted / max(1, len(betas) - 1)


def _with_slope(log_likelihood: LogLikelihood, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x|z), and its gradient by z."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_likelihood(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), slope


def on_unit_scale(x: Tensor, levels: int | None) -> Tensor:
    """Integer levels 0 .. L-1 to [0, 1], by x / (L - 1). Reals pass as they are."""
    return x.float() if levels is None else x.float() / (levels - 1)


def gaussian_log_likelihood(decoder: Decoder, x: Tensor, sigma: float, levels: int | None) -> LogLikelihood:
    r"""Return the function of codes :math:`\log N(x; G(z), \sigma^2 I)`.

    Arguments:
        decoder: G.
        x: ``(N, *shape)``, as from ``on_unit_scale``.
        sigma: Standard deviation of the noise.
        levels: Of the data.
    """
    flat = x.flatten(1)  # (N, D)
    constant = flat.shape[1] * (math.log(sigma) + 0.5 * math.log(2 * math.pi))

    def log_likelihood(z: Tensor) -> Tensor:
        mean = decoder.mean(z.flatten(0, 1)).flatten(1).unflatten(0, z.shape[:2])  # (K, N, D)
        mean = mean if levels is None else (mean + 1) / 2
        return -0.5 * ((flat - mean) / sigma).square().sum(2) - constant

    return log_likelihood


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
            before, log_w = k_draw_bound(log_w).mean(), self._run(examples, decoder, x, temperatures)
            change = abs(float(k_draw_bound(log_w).mean() - before))
        bound = k_draw_bound(log_w)
        if not bool(torch.isfinite(bound).all()) or not math.isfinite(change):
            reason = "the log-likelihood of an example is not finite"
            return [Estimate(info, status=Status.FAILED, reason=reason) for info in infos]
        total, of_draws = bound_errors(log_w)
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
