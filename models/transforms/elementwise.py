"""Each entry moved on its own, by learned amounts."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from .base import Transform, only_shape
from .univariate import Univariate

__all__ = ["Elementwise"]


class Elementwise(Transform):
    r"""A monotone map of one variable for each entry, with parameters of its own.

    .. math:: z_i = g(x_i;\, \theta_i), \quad \log|\det| = \sum_i \log g'(x_i;\, \theta_i)

    The Jacobian is diagonal: entries that are independent stay so. Parameters start at zero, for most g the identity.

    Arguments:
        univariate: g, with P parameters.
        shape: Of one example.
    """

    def __init__(self, univariate: Univariate, shape: Sequence[int]) -> None:
        super().__init__()
        self.univariate = univariate
        self.shape = tuple(shape)
        self.raw = nn.Parameter(torch.zeros(univariate.n_parameters, *shape))
        self.inverse_kind = univariate.inverse_kind

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        z, log_derivative = self.univariate.forward(x, self.raw.expand(len(x), *self.raw.shape))
        return z, log_derivative.flatten(1).sum(1)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_derivative = self.univariate.inverse(z, self.raw.expand(len(z), *self.raw.shape))
        return x, log_derivative.flatten(1).sum(1)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        only_shape(self.shape, shape)
        return self.shape
