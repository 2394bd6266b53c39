"""Mixtures of logistics as maps of one variable, and the coupling law of Flow++ made of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from models.transforms.univariate import Affine, Univariate

__all__ = ["LogisticMixture", "LogisticMixtureCDF"]

# Bisection takes a bracket of 10^5 narrowest scales to a thousandth of one; from there Newton's error squares itself.
BISECTIONS, NEWTON_STEPS = 27, 4


@dataclass(frozen=True)
class LogisticMixture:
    r"""A mixture of K logistics for each entry: weights, means, scales.

    .. math:: F(x) = \sum_k \pi_k\, \sigma\big((x - m_k) / s_k\big)

    The log-odds of F are a bijection of the whole line, whatever the parameters: nowhere do they saturate, because
    everything is computed from the logarithm of the smaller tail.

    Attributes:
        log_weights: :math:`\log \pi_k`, ``(B, K, *shape)``; the weights sum to 1 over k.
        means, log_scales: :math:`m_k` and :math:`\log s_k`, ``(B, K, *shape)``.
    """

    log_weights: Tensor
    means: Tensor
    log_scales: Tensor

    @classmethod
    def from_raw(cls, parameters: Tensor, bound: float) -> "LogisticMixture":
        r"""From any reals ``(B, 3K, *shape)``: logits of the weights, means, and raw log-scales r.

        Log-scales are held within :math:`\pm c` by a soft clamp :math:`c \tanh(r / c)` with c = ``bound``.
        """
        logits, means, raw = parameters.chunk(3, 1)
        return cls(logits.log_softmax(1), means, bound * (raw / bound).tanh())

    def log_odds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""z = logit F(x) and log dz/dx, both of the shape of x, ``(B, *shape)``.

        With the density f = F', and where F(x) > 1/2,

        .. math:: \log\frac{dz}{dx} = \log\frac{f}{F (1 - F)} = \log\frac{f}{1 - F} - \log F;

        elsewhere the same holds for -x and -z. The hazard f / (1 - F) varies slowly in the tail, in which f and 1 - F
        are far too small for a float: it is that of the components, :math:`\sigma((x - m_k)/s_k) / s_k`, averaged with
        the weights that they have among what lies beyond x.
        """
        u = (x[:, None] - self.means) * (-self.log_scales).exp()  # (B, K, *shape)
        log_below, log_above = logsigmoid(u), logsigmoid(-u)
        below, above = self.log_weights + log_below, self.log_weights + log_above
        log_cdf, log_survival = below.logsumexp(1), above.logsumexp(1)
        upper = log_cdf > log_survival
        beyond = torch.where(upper[:, None], above, below).log_softmax(1)
        log_hazards = torch.where(upper[:, None], log_below, log_above) - self.log_scales
        log_hazard = (beyond + log_hazards).logsumexp(1)
        return log_cdf - log_survival, log_hazard - torch.where(upper, log_cdf, log_survival)

    def quantile(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x with log-odds z, and log dx/dz: bisection, then Newton's method, to the last bits of x.

        The number of steps is fixed, so that nothing waits for a device. Differentiable.
        """
        with torch.no_grad():
            low, high = self._bracket(z)
            x = (low + high) / 2
            for _ in range(NEWTON_STEPS):
                x = self._newton(x, z).clamp(low, high)
        if torch.is_grad_enabled():
            # A step that moves nothing carries the gradient of the implicit function x(z, parameters).
            step = self._newton(x, z)
            x = x + (step - step.detach())
        return x, -self.log_odds(x)[1]

    def _bracket(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Between which x lies. It starts where the components alone would put z: F is between them."""
        # Below the median F(x) = sigmoid(z) is as good as its logarithm; what is above it is reflected.
        sign = torch.where(z > 0, -1.0, 1.0).to(z.dtype)
        log_p = logsigmoid(sign * z)
        means, precisions = sign[:, None] * self.means, (-self.log_scales).exp()
        alone = means + self.log_scales.exp() * (sign * z)[:, None]
        low, high = alone.amin(1), alone.amax(1)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            log_cdf = (self.log_weights + logsigmoid((middle[:, None] - means) * precisions)).logsumexp(1)
            too_high = log_cdf > log_p
            low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
        return torch.where(z > 0, -high, low), torch.where(z > 0, -low, high)

    def _newton(self, x: Tensor, z: Tensor) -> Tensor:
        value, log_slope = self.log_odds(x)
        # The limit keeps 0 * inf, a root met where F is flat, from being NaN.
        return x - (value - z) * (-log_slope.detach()).clamp(max=60.0).exp()


@dataclass(frozen=True)
class LogisticMixtureCDF(Univariate):
    r"""The CDF of a mixture of K logistics, a logit, a scale and a shift. P = 3K + 2.

    .. math:: z = e^a \operatorname{logit}\Big(\sum_k \pi_k\, \sigma\big((x - m_k) e^{-r_k}\big)\Big) + b

    (Ho, Chen, Srinivas, Duan, Abbeel 2019, Flow++: Improving flow-based generative models with variational
    dequantization and architecture design, section 3.2.) The raw parameters are, in this order, K logits of the
    weights, K means, K log-scales r, then b and a. Log-scales are held within :math:`\pm c` by a soft clamp
    :math:`c \tanh(r / c)` and a as in :class:`Affine`; the paper clamps r at -7 from below and a at :math:`\pm 1`.

    ``inverse`` is found by bisection and Newton's method to the last bits of x, so that in float32
    :math:`|f(f^{-1}(z)) - z|` is within 1e-5, or a few units in the last place of x times the slope dz/dx where that
    is more: the slope can reach 400.

    Components with equal parameters have equal gradients and stay equal: a network that gives the parameters must not
    start as the constant 0, or K is 1 for good.

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
        return 3 * self.components + 2

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mixture, affine = self._mixture_and_affine(parameters)
        z, log_derivative = mixture.log_odds(x)
        z, log_scale = Affine().forward(z, affine)
        return z, log_derivative + log_scale

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mixture, affine = self._mixture_and_affine(parameters)
        z, log_scale = Affine().inverse(z, affine)
        x, log_derivative = mixture.quantile(z)
        return x, log_derivative + log_scale

    def _mixture_and_affine(self, parameters: Tensor) -> tuple[LogisticMixture, Tensor]:
        raw, affine = parameters.split([3 * self.components, 2], 1)
        return LogisticMixture.from_raw(raw, self.bound), affine
