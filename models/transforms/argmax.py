"""Categories as vectors whose largest number is at the category."""

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid, softplus

from ..distributions import uniform

__all__ = ["argmax_dequantized"]


def argmax_dequantized(
    categories: Tensor, indicators: Tensor, scale: float, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    r"""Draw v from q(v|c), with the largest of its C numbers at c, and log q besides: ``(B, n, C)`` and ``(B, n)``.

    Noise of the logistic distribution is added to indicators, and what would exceed the category's number is brought
    below it, smoothly:

    .. math:: u = 1_c + s\,\epsilon, \quad v_c = u_c, \quad v_k = u_c - \mathrm{softplus}(u_c - u_k), \qquad
        \log q(v|c) = \sum_k \log\frac{\sigma'(\epsilon_k)}{s} - \sum_{k \ne c} \log \sigma(u_c - u_k)

    Every v whose largest number is at c can be drawn, so p(v) / q(v|c) has the mean :math:`P(\arg\max v = c)` under any
    density p. (Hoogeboom, Nielsen, Jaini, Forré, Welling 2021, Argmax flows and multinomial diffusion: learning
    categorical distributions, arXiv:2102.05379, section 3.)

    Arguments:
        categories: c, ``(B, n)`` int64.
        indicators: Of c, ``(B, n, C)`` zeros and ones.
        scale: s.
    """
    tiny = torch.finfo(indicators.dtype).eps
    share = uniform(indicators.shape, indicators, generator).clamp(tiny, 1 - tiny)
    noise = share.log() - (-share).log1p()
    u = indicators + scale * noise
    largest = u.gather(2, categories.unsqueeze(2))
    others = 1 - indicators
    v = indicators * u + others * (largest - softplus(largest - u))
    log_base = logsigmoid(noise) + logsigmoid(-noise) - math.log(scale)
    return v, (log_base - others * logsigmoid(largest - u)).sum(2)
