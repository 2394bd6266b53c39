"""Categories as vectors whose largest number is at the category."""

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid, softplus

from ..distributions import uniform

__all__ = ["argmax_dequantized", "log_argmax_density"]


def argmax_dequantized(indicators: Tensor, scale: float, generator: Generator | None) -> Tensor:
    r"""Draw v from q(v|c), with the largest of its C numbers at c: ``(B, n, C)``.

    Noise of the logistic distribution is added to indicators, and what would exceed the category's number is brought
    below it, smoothly:

    .. math:: u = 1_c + s\,\epsilon, \quad v_c = u_c, \quad v_k = u_c - \mathrm{softplus}(u_c - u_k)

    Every v whose largest number is at c can be drawn, so p(v) / q(v|c) has the mean :math:`P(\arg\max v = c)` under any
    density p. (Hoogeboom, Nielsen, Jaini, Forré, Welling 2021, Argmax flows and multinomial diffusion: learning
    categorical distributions, arXiv:2102.05379, section 3.)

    Arguments:
        indicators: Of c, ``(B, n, C)`` zeros and ones.
        scale: s.
    """
    tiny = torch.finfo(indicators.dtype).eps
    share = uniform(indicators.shape, indicators, generator).clamp(tiny, 1 - tiny)
    u = indicators + scale * (share.log() - (-share).log1p())
    largest = (indicators * u).sum(2, keepdim=True)
    return torch.where(indicators > 0, u, largest - softplus(largest - u))


def log_argmax_density(v: Tensor, indicators: Tensor, scale: float) -> Tensor:
    r"""log q(v|c) of each vector whose largest number is at c, ``(B, n, C)`` to ``(B, n)`` nats.

    .. math:: \log q(v|c) = \sum_k \log\frac{\sigma'(\epsilon_k)}{s} - \sum_{k \ne c} \log \sigma(u_c - u_k), \quad
        u_c - u_k = \log(e^{v_c - v_k} - 1)
    """
    largest = (indicators * v).sum(2, keepdim=True)
    gap = (largest - v).clamp(min=torch.finfo(v.dtype).tiny)
    difference = gap + (-(-gap).expm1()).log()
    u = torch.where(indicators > 0, v, largest - difference)
    noise = (u - indicators) / scale
    log_slope = torch.where(indicators > 0, 0.0, logsigmoid(difference))
    return (logsigmoid(noise) + logsigmoid(-noise) - math.log(scale) - log_slope).sum(2)
