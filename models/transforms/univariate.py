"""Monotone maps of one variable, with parameters from outside: the part that moves an entry in a coupling, in an
autoregressive or in an elementwise transform."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import InverseKind

__all__ = ["Affine", "Scaling", "Shift", "SigmoidAffine", "Univariate"]


class Univariate(ABC):
    """An increasing bijection of the reals for every entry, given P parameters for each.

    Subclasses are final and frozen: they have settings, no weights. Parameters are raw numbers, any reals a network
    gives; all of them 0 is the identity, or a map near it where a subclass says so. Entries are independent, so
    log-derivatives are entrywise too. Everything has the dtype of x, float32 or float64.

    Attributes:
        inverse_kind: How ``inverse`` works, see :data:`InverseKind`.
    """

    inverse_kind: ClassVar[InverseKind]

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """P."""

    @abstractmethod
    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, *shape)`` and ``(B, P, *shape)`` to z and log dz/dx, both ``(B, *shape)``."""

    @abstractmethod
    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, *shape)`` and ``(B, P, *shape)`` to x and log dx/dz, both ``(B, *shape)``."""


@dataclass(frozen=True)
class Shift(Univariate):
    """z = x + t (Dinh, Krueger, Bengio 2015, NICE: Non-linear independent components estimation, arXiv:1410.8516). P =
    1."""

    inverse_kind = "closed form"

    @property
    def n_parameters(self) -> int:
        return 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return x + parameters[:, 0], x.new_zeros(x.shape)

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return z - parameters[:, 0], z.new_zeros(z.shape)


@dataclass(frozen=True)
class Scaling(Univariate):
    r"""z = x exp(s) (Dinh, Krueger, Bengio 2015, NICE, arXiv:1410.8516, section 3.3). P = 1: the log-scale s, as it is.

    s is not bounded: it is meant to be a learned parameter. Use :class:`Affine` for the output of a network.
    """

    inverse_kind = "closed form"

    @property
    def n_parameters(self) -> int:
        return 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = parameters[:, 0]
        return x * log_scale.exp(), log_scale

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = parameters[:, 0]
        return z * (-log_scale).exp(), -log_scale


@dataclass(frozen=True)
class Affine(Univariate):
    r"""A scale and a shift. P = 2: the shift t, then the raw log-scale r.

    .. math:: z = x\,e^{s} + t, \quad s = c \tanh(r / c), \quad \log dz/dx = s

    (Dinh, Sohl-Dickstein, Bengio 2017, Density estimation using Real NVP, arXiv:1605.08803.) The soft clamp holds the
    log-scale s within :math:`\pm c` with slope 1 at 0, so that no parameters overflow the exponential; the paper learns
    c, here it is fixed.

    Attributes:
        bound: c above, in nats for each entry.
    """

    bound: float = 2.0
    inverse_kind = "closed form"

    @property
    def n_parameters(self) -> int:
        return 2

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(parameters)
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(parameters)
        return (z - shift) * (-log_scale).exp(), -log_scale

    def _shift_and_log_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = parameters.unbind(1)
        return shift, self.bound * (raw / self.bound).tanh()


@dataclass(frozen=True)
class SigmoidAffine(Univariate):
    r"""A shift and a scale below 1. P = 2: the shift t, then the raw scale r.

    .. math:: z = (x + t)\,\sigma, \quad \sigma = \epsilon + (1 - \epsilon) \operatorname{sigmoid}(r + 2), \quad
        \log dz/dx = \log\sigma

    (The released code of Kingma, Dhariwal 2018, Glow: Generative flow with invertible 1x1 convolutions,
    arXiv:1807.03039.) All-zero parameters are not the identity but z = 0.88 x. That the scale cannot grow steadies
    training; the normalization after it grows instead. The code has :math:`\epsilon = 0`, with which a scale can round
    to 0 and has no inverse.

    Attributes:
        floor: Epsilon, the smallest scale, in [0, 1).
    """

    floor: float = 1e-3
    inverse_kind = "closed form"

    @property
    def n_parameters(self) -> int:
        return 2

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = self._shift_and_scale(parameters)
        return (x + shift) * scale, scale.log()

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = self._shift_and_scale(parameters)
        return z / scale - shift, -scale.log()

    def _shift_and_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = parameters.unbind(1)
        return shift, self.floor + (1 - self.floor) * (raw + 2).sigmoid()
