"""The kernel layer of Gaussianization flows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.special import erfcx, ndtri

from models.transforms.logistic_mixture import LogisticMixture
from models.transforms.univariate import Univariate

__all__ = ["Gaussianize", "logistic_to_normal", "normal_to_logistic"]


@dataclass(frozen=True)
class Gaussianize(Univariate):
    r"""The CDF of a mixture of K logistics, then the quantile function of N(0, 1). P = 3K.

    .. math:: z = \Phi^{-1}\Big(\sum_k \pi_k\, \sigma\big((x - m_k) e^{-r_k}\big)\Big)

    It makes a variable that has the mixture's distribution standard normal (Meng, Song, Song, Ermon 2020,
    Gaussianization flows, section 4.1; their weights are equal). The raw parameters are, in this order, K logits of the
    weights, K means and K log-scales r, which a soft clamp :math:`c \tanh(r / c)` holds within :math:`\pm c`. All-zero
    parameters are not the identity but :math:`\Phi^{-1}(\sigma(x))`. Far out z grows like the square root of x, without
    an end.

    ``inverse`` is found by bisection and Newton's method to the last bits of x, see
    :class:`~models.transforms.logistic_mixture.LogisticMixtureCDF`.

    Components with equal parameters have equal gradients and stay equal: start them apart, as ``spread`` does.

    Attributes:
        components: K.
        bound: c above, in nats.
    """

    components: int
    bound: float = 4.0
    inverse_kind = "iterative"

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"a mixture needs at least one component, not {self.components}")

    @property
    def n_parameters(self) -> int:
        return 3 * self.components

    def spread(self) -> Tensor:
        """Parameters ``(P,)`` of a mixture with mean 0 and variance 1: nearly the identity, no two components alike.

        Means are half the quantiles of N(0, 1). At the quantiles themselves components would be so narrow that each
        layer takes outliers farther out.
        """
        k = self.components
        means = 0.5 * torch.special.ndtri((torch.arange(k) + 0.5) / k)
        # A logistic of scale s has the variance (pi s)^2 / 3.
        log_scale = 0.5 * (3 * (1 - means.var(correction=0)) / math.pi**2).log()
        raw = self.bound * (log_scale / self.bound).atanh()
        return torch.cat([torch.zeros(k), means, raw.expand(k)])

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_odds, to_logistic = LogisticMixture.from_raw(parameters, self.bound).log_odds(x)
        z, to_normal = logistic_to_normal(log_odds)
        return z, to_logistic + to_normal

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_odds, to_logistic = normal_to_logistic(z)
        x, to_data = LogisticMixture.from_raw(parameters, self.bound).quantile(log_odds)
        return x, to_logistic + to_data


def logistic_to_normal(u: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`z = \Phi^{-1}(\sigma(u))` and log dz/du, entry by entry, accurate as far as floats go.

    With the tail :math:`T = \sigma(-|u|) = \Phi(-|z|)`, dz/du is :math:`(1 - T)\, T / \varphi(z)`; the second factor is
    Mills' ratio.
    """
    sign = torch.where(u > 0, 1.0, -1.0).to(u.dtype)
    distance = -_lower_quantile(logsigmoid(-sign * u))
    return sign * distance, logsigmoid(sign * u) + _log_mills(distance)


def normal_to_logistic(z: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`u = \operatorname{logit} \Phi(z)` and log du/dz, the inverse of ``logistic_to_normal``."""
    sign = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
    log_tail = _log_tail(sign * z)
    distance = (-log_tail.expm1()).log() - log_tail
    return sign * distance, -logsigmoid(distance) - _log_mills(sign * z)


def _log_mills(t: Tensor) -> Tensor:
    r"""Of Mills' ratio :math:`\Phi(-t) / \varphi(t)`, for t >= 0."""
    return (math.sqrt(math.pi / 2) * erfcx(t / math.sqrt(2))).log()


def _log_tail(t: Tensor) -> Tensor:
    """log Phi(-t), for t >= 0. (The gradient of torch's own log_ndtr is 4 % off at -1000 in float32.)"""
    return (erfcx(t / math.sqrt(2)) / 2).log() - 0.5 * t.square()


def _lower_quantile(log_p: Tensor) -> Tensor:
    """q <= 0 with log Phi(q) = log_p <= log(1/2): a first guess and Newton's method."""

    def newton(q: Tensor) -> Tensor:
        return q - (_log_tail(-q) - log_p) * _log_mills(-q).exp()  # the slope of log Phi is 1 / Mills' ratio at -q

    with torch.no_grad():
        square = -2 * log_p.clamp(max=-5) - math.log(2 * math.pi)
        far = -(square - square.log()).sqrt()  # from log Phi(q) ~ -q^2 / 2 - log(-q sqrt(2 pi))
        q = torch.where(log_p > -5, ndtri(log_p.exp()), far)
        for _ in range(3):
            q = newton(q)
    # The last step moves nothing; it carries the gradient of the implicit function q(log_p).
    return newton(q)
