"""Annealed importance sampling of a decoder's codes: pure functions."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from bench.metrics.likelihood import bound_errors, k_draw_bound
from bench.subjects.base import Decoder

__all__ = ["ais_log_weights", "gaussian_log_likelihood", "on_unit_scale", "sigmoid_schedule", "summary"]

LEAPFROG = 10
ACCEPTED = 0.65  # share of proposals at which the step size is held; optimal in high dimension (Neal 2011)
PACE = 1.02

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


def summary(log_w: Tensor) -> tuple[Tensor, float, float]:
    """Return the estimate of each example, ``(N,)``, and the errors of their mean as ``bound_errors`` gives them.

    Arguments:
        log_w: ``(K, N)`` log-weights of K chains.
    """
    return (k_draw_bound(log_w), *bound_errors(log_w))
