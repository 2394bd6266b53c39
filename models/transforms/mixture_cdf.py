r"""Maps of one variable by the CDF of a mixture and back by the quantile function of one component.

.. math:: z = G^{-1}(F(x)), \quad F(x) = \sum_k \pi_k\, G\big((x - m_k) / s_k\big)

with G the CDF of a distribution symmetric about 0, the kernel. If x has the mixture's distribution, z has the kernel's.
It is a bijection of the whole real line, whatever the weights, means and scales: nowhere does it saturate, because
everything is computed from the logarithm of the smaller tail.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.special import erfcx, ndtri

from .roots import implicit_root, newton_step

__all__ = ["Kernel", "Logistic", "Mixture", "Normal"]

SQRT_2, LOG_SQRT_2PI = math.sqrt(2), 0.5 * math.log(2 * math.pi)
# Bisection takes a bracket of 10^5 narrowest scales to a thousandth of one; from there Newton's error squares itself.
BISECTIONS, NEWTON_STEPS = 27, 4


class Kernel(ABC):
    """A distribution on the reals symmetric about 0, with CDF G and density g. Subclasses are final."""

    @abstractmethod
    def log_cdf(self, u: Tensor) -> Tensor:
        """log G(u), accurate in both tails."""

    @abstractmethod
    def log_hazard(self, u: Tensor) -> Tensor:
        """log(g(u) / (1 - G(u))), accurate in both tails."""

    @abstractmethod
    def lower_quantile(self, log_p: Tensor) -> Tensor:
        """q <= 0 with log G(q) = log_p, for log_p <= log(1/2)."""


class Logistic(Kernel):
    """G = sigmoid."""

    def log_cdf(self, u: Tensor) -> Tensor:
        return logsigmoid(u)

    def log_hazard(self, u: Tensor) -> Tensor:
        return logsigmoid(u)

    def lower_quantile(self, log_p: Tensor) -> Tensor:
        return log_p - (-log_p.expm1()).log()


class Normal(Kernel):
    """G = Phi, the CDF of N(0, 1)."""

    # Each branch sees only the inputs it is good for: `where` would pass on the gradients of the others. The tails come
    # from erfcx(t) = exp(t^2) erfc(t); the gradient of torch's own log_ndtr is 4 % off at -1000 in float32.

    def log_cdf(self, u: Tensor) -> Tensor:
        below, above = u.clamp(max=0), u.clamp(min=0)
        tail = (0.5 * erfcx(-below / SQRT_2)).log() - 0.5 * below.square()
        return torch.where(u < 0, tail, torch.log1p(-0.5 * torch.erfc(above / SQRT_2)))

    def log_hazard(self, u: Tensor) -> Tensor:
        below, above = u.clamp(max=0), u.clamp(min=0)
        log_density = -0.5 * below.square() - LOG_SQRT_2PI
        tail = -(math.sqrt(math.pi / 2) * erfcx(above / SQRT_2)).log()  # of Mills' ratio
        return torch.where(u > 0, tail, log_density - torch.log1p(-0.5 * torch.erfc(-below / SQRT_2)))

    def lower_quantile(self, log_p: Tensor) -> Tensor:
        with torch.no_grad():
            square = -2 * log_p.clamp(max=-5) - 2 * LOG_SQRT_2PI
            far = -(square - square.log()).sqrt()  # from log Phi(q) ~ -q^2 / 2 - log(-q sqrt(2 pi))
            q = torch.where(log_p > -5, ndtri(log_p.exp()), far)
            for _ in range(3):
                q = self._newton(q, log_p)
        # The last step moves nothing; it carries the gradient of the implicit function q(log_p).
        return self._newton(q, log_p)

    def _newton(self, q: Tensor, log_p: Tensor) -> Tensor:
        """One step towards log Phi(q) = log_p; the slope there is phi / Phi, the hazard at -q."""
        return q - (self.log_cdf(q) - log_p) * (-self.log_hazard(-q)).exp()


@dataclass(frozen=True)
class Mixture:
    r"""A mixture of K components of one kernel for each entry, with CDF F and density f.

    Attributes:
        kernel: G.
        log_weights: :math:`\log \pi_k`, ``(B, K, *shape)``; the weights sum to 1 over k.
        means, log_scales: :math:`m_k` and :math:`\log s_k`, ``(B, K, *shape)``.
    """

    kernel: Kernel
    log_weights: Tensor
    means: Tensor
    log_scales: Tensor

    @classmethod
    def from_raw(cls, parameters: Tensor, kernel: Kernel, bound: float) -> "Mixture":
        r"""From any reals ``(B, 3K, *shape)``: logits of the weights, means, and raw log-scales r.

        Log-scales are held within :math:`\pm c` by a soft clamp :math:`c \tanh(r / c)` with c = ``bound``.
        """
        logits, means, raw = parameters.chunk(3, 1)
        return cls(kernel, logits.log_softmax(1), means, bound * (raw / bound).tanh())

    def to_kernel(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""``(B, *shape)`` to z = G^-1(F(x)) and its log-derivative, both ``(B, *shape)``.

        Where F(x) > 1/2, so that z > 0,

        .. math:: \log\frac{dz}{dx} = \log\frac{f(x)}{g(z)} = \log\frac{f(x)}{1 - F(x)} - \log\frac{g(z)}{1 - G(z)},

        a difference of log-hazards; elsewhere the same holds for -x and -z. Hazards vary slowly in the tails, in which
        f, g and 1 - F are far too small for a float. The mixture's hazard is that of its components averaged with the
        weights that they have among what lies beyond x.
        """
        u = (x[:, None] - self.means) * (-self.log_scales).exp()  # (B, K, *shape)
        below, above = self.log_weights + self.kernel.log_cdf(u), self.log_weights + self.kernel.log_cdf(-u)
        log_cdf, log_survival = below.logsumexp(1), above.logsumexp(1)
        upper = log_cdf > log_survival
        sign = torch.where(upper, 1.0, -1.0).to(x.dtype)
        beyond = torch.where(upper[:, None], above, below).log_softmax(1)
        log_hazard = (beyond + self.kernel.log_hazard(sign[:, None] * u) - self.log_scales).logsumexp(1)
        distance = -self.kernel.lower_quantile(torch.where(upper, log_survival, log_cdf))
        return sign * distance, log_hazard - self.kernel.log_hazard(distance)

    def from_kernel(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z to x and log dx/dz, the inverse of ``to_kernel``: bisection, then Newton's method, to the last bits of x.

        The number of steps is fixed, so that nothing waits for a device. Differentiable.
        """
        with torch.no_grad():
            low, high = self._bracket(z)
            x = (low + high) / 2
            for _ in range(NEWTON_STEPS):
                x = (x + self._newton_step(x, z)).clamp(low, high)
        if torch.is_grad_enabled():
            x = implicit_root(x, self._newton_step(x, z))
        return x, -self.to_kernel(x)[1]

    def _bracket(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Between which x lies. It starts where the components alone would put z: F is between them."""
        # Below the median F(x) = G(z) is as good as its logarithm; what is above it is reflected.
        sign = torch.where(z > 0, -1.0, 1.0).to(z.dtype)
        log_p = self.kernel.log_cdf(sign * z)
        means, precisions = sign[:, None] * self.means, (-self.log_scales).exp()
        alone = means + self.log_scales.exp() * (sign * z)[:, None]
        low, high = alone.amin(1), alone.amax(1)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            u = (middle[:, None] - means) * precisions
            too_high = (self.log_weights + self.kernel.log_cdf(u)).logsumexp(1) > log_p
            low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
        return torch.where(z > 0, -high, low), torch.where(z > 0, -low, high)

    def _newton_step(self, x: Tensor, z: Tensor) -> Tensor:
        value, log_slope = self.to_kernel(x)
        return newton_step(value, z, log_slope)
