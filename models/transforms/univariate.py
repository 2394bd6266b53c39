"""Monotone maps of one variable, with parameters from outside: the part that moves an entry in a coupling, in an
autoregressive or in an elementwise transform."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from models.transforms.base import InverseKind

__all__ = ["Affine", "Shift", "Univariate"]


class Univariate(ABC):
    """An increasing bijection of the reals for every entry, given P parameters for each.

    Subclasses are final and frozen: they have settings, no weights. Parameters are raw numbers, any reals a network
    gives; all of them 0 is the identity. Entries are independent, so log-derivatives are entrywise too. Everything has
    the dtype of x, float32 or float64.

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
    """z = x + t (Dinh, Krueger, Bengio 2015, NICE: Non-linear independent components estimation). P = 1."""

    inverse_kind = "closed form"

    @property
    def n_parameters(self) -> int:
        return 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return x + parameters[:, 0], x.new_zeros(x.shape)

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return z - parameters[:, 0], z.new_zeros(z.shape)


@dataclass(frozen=True)
class Affine(Univariate):
    r"""A scale and a shift. P = 2: the shift t, then the raw log-scale r.

    .. math:: z = x\,e^{s} + t, \quad s = c \tanh(r / c), \quad \log dz/dx = s

    (Dinh, Sohl-Dickstein, Bengio 2017, Density estimation using Real NVP.) The soft clamp holds the log-scale s within
    :math:`\pm c` with slope 1 at 0, so that no parameters overflow the exponential; the paper learns c, here it is
    fixed.

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
