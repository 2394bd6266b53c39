"""The transformer of neural autoregressive flows: a monotone network of one variable."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .roots import implicit_root, increasing_root, newton_step
from .univariate import Univariate

__all__ = ["DeepSigmoid"]


@dataclass(frozen=True)
class DeepSigmoid(Univariate):
    r"""A network of one layer of sigmoid units whose output goes back through the logit. P = 3K.

    .. math:: z = \operatorname{logit}\Big(\sum_k w_k\, \sigma(a_k x + b_k)\Big), \quad a_k > 0, \quad w_k > 0, \quad
        \sum_k w_k = 1

    (Huang, Krueger, Lacoste, Courville 2018, Neural autoregressive flows, arXiv:1804.00779, equation 8: the deep
    sigmoidal flow, DSF.) The raw parameters are, in this order, K log-slopes r with :math:`\log a = c \tanh(r / c)`, K
    shifts b, and K logits of the weights; the paper has a = softplus(r).

    With P the sum above and Q = 1 - P, the derivative is

    .. math:: \frac{dz}{dx} = \sum_k \frac{w_k \sigma(p_k)}{P}\, a_k\, \sigma(-p_k)
            + \sum_k \frac{w_k \sigma(-p_k)}{Q}\, a_k\, \sigma(p_k), \quad p_k = a_k x + b_k.

    It is a bijection of the whole real line: as x grows, :math:`-\log Q \ge \min_k p_k` grows with it, without bound,
    and to the left likewise. So that rounding keeps it one, log P and log Q are computed each by itself, from
    log-sigmoids by log-sum-exp; P itself is 1 from :math:`p_k = 17` on in float32, and the paper's code clips it, which
    makes the image an interval and loses the mass that the base has outside.

    ``inverse`` is Newton's method in a bracket, until :math:`|f(x) - z| \le 4 \epsilon \max(1, |z|)` or x is known to
    its last bits, with the dtype's rounding unit :math:`\epsilon`: 4 epsilon is 5e-7 in float32 and 9e-16 in float64.
    In float32 :math:`|f(f^{-1}(z)) - z|` is within 1e-5 for raw parameters as large as 40.

    Units with equal parameters have equal gradients and stay equal: a network that gives the parameters must not start
    as the constant 0, or K is 1 for good.

    Attributes:
        units: K.
        bound: c above, in nats.

    Raises:
        ValueError: There is no unit.
    """

    units: int = 16
    bound: float = 3.0
    inverse_kind = "iterative"

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ValueError(f"a network needs at least one unit, not {self.units}")

    @property
    def n_parameters(self) -> int:
        return 3 * self.units

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return _curve(x, self._units(parameters))

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        units = self._units(parameters)

        def value_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
            value, log_slope = _curve(x, units)
            return value, log_slope.exp()

        with torch.no_grad():
            # The output is between the least and the greatest of the p_k.
            alone = (z[:, None] - units.shift) * (-units.log_slope).exp()
            tolerance = 4 * torch.finfo(z.dtype).eps
            x = increasing_root(value_and_slope, z, alone.amin(1), alone.amax(1), tolerance)
        if torch.is_grad_enabled():
            value, log_slope = _curve(x, units)
            x = implicit_root(x, newton_step(value, z, log_slope))
        return x, -_curve(x, units)[1]

    def _units(self, parameters: Tensor) -> "_Units":
        raw_slope, shift, raw_weight = parameters.unflatten(1, (3, self.units)).unbind(1)
        return _Units(self.bound * (raw_slope / self.bound).tanh(), shift, raw_weight.log_softmax(1))


class _Units(NamedTuple):
    """log a, b and log w of all units; each ``(B, K, *shape)``."""

    log_slope: Tensor
    shift: Tensor
    log_weight: Tensor


def _curve(x: Tensor, units: _Units) -> tuple[Tensor, Tensor]:
    """z and log dz/dx."""
    p = units.log_slope.exp() * x[:, None] + units.shift
    log_on, log_off = logsigmoid(p), logsigmoid(-p)
    on, off = units.log_weight + log_on, units.log_weight + log_off
    log_p, log_q = on.logsumexp(1), off.logsumexp(1)
    # In either tail the one sum is the slope and the other vanishes; in neither do large numbers cancel.
    left = on - log_p[:, None] + units.log_slope + log_off
    right = off - log_q[:, None] + units.log_slope + log_on
    return log_p - log_q, torch.cat([left, right], 1).logsumexp(1)
