"""Learned linear maps: of whole vectors, and of the channels of images, the same at every position."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from .base import Transform, full_precision, vectors_of

__all__ = ["Conv1x1", "FullLinear", "LULinear"]


class FullLinear(Transform):
    r"""z = W x + b for vectors ``(B, D)``, with any invertible matrix W; the log-det is :math:`\log|\det W|`.

    It starts as a random rotation. Forward and inverse each factorize W, at a cost of :math:`O(D^3)`. Should training
    make W singular, the log-det is :math:`-\infty`.

    Arguments:
        dim: D.
    """

    inverse_kind = "closed form"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_rotation(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            return functional.linear(x, self.weight, self.bias), self._log_det(x)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with full_precision(z):
            return torch.linalg.solve(self.weight, (z - self.bias).mT).mT, -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        # In float64: with a condition number of 1e8 the log-det of a float32 factorization is off by tenths of a nat.
        return torch.linalg.slogdet(self.weight.double()).logabsdet.to(x.dtype).expand(len(x))

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return vectors_of(len(self.bias), shape)


class LULinear(Transform):
    r"""z = W x + b for vectors ``(B, D)``, with W in the form P L (U + diag(s)); see :class:`_LU`.

    (Oliva, Dubey, Zaheer, Poczos, Salakhutdinov, Xing, Schneider 2018, Transformation autoregressive networks,
    arXiv:1801.09819; Kingma, Dhariwal 2018, Glow: Generative flow with invertible 1x1 convolutions, arXiv:1807.03039.)
    The log-det costs O(D); the inverse is two triangular solves, without the inverse of a matrix. Starts as a random
    rotation.

    Arguments:
        dim: D.
    """

    inverse_kind = "closed form"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.matrix = _LU(dim)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            if len(x) > len(self.bias):  # composing W is cheaper than a second product with all of x
                z = functional.linear(x, self.matrix.composed(), self.bias)
            else:
                lower, upper = self.matrix.factors()
                z = functional.linear(functional.linear(x, upper), lower[self.matrix.rows], self.bias)
        return z, self.matrix.log_abs_det().expand(len(x))

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.matrix.solve((z - self.bias).mT).mT
        return x, -self.matrix.log_abs_det().expand(len(z))

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return vectors_of(len(self.bias), shape)


class Conv1x1(Transform):
    r"""z = W x for the channels of images ``(B, C, H, W)`` at every position, with W in the form P L (U + diag(s)).

    .. math:: \log|\det| = HW \sum_c \log|s_c|

    (Kingma, Dhariwal 2018, Glow: Generative flow with invertible 1x1 convolutions, arXiv:1807.03039, section 3.2.) See
    :class:`_LU`. W is composed at each call of ``forward`` and solved at each call of ``inverse``. This costs little,
    because there are far more positions than channels, and no stored matrix can be out of date. Starts as a random
    rotation.

    Arguments:
        channels: C.
    """

    inverse_kind = "closed form"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.matrix = _LU(channels)

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        with full_precision(x):
            z = functional.conv2d(x, self.matrix.composed()[:, :, None, None])
        return z, self._log_det(x)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        inverse = self.matrix.solve(torch.eye(z.shape[1], dtype=z.dtype, device=z.device))
        with full_precision(z):
            return functional.conv2d(z, inverse[:, :, None, None]), -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return (math.prod(x.shape[2:]) * self.matrix.log_abs_det()).expand(len(x))


class _LU(nn.Module):
    r"""A matrix in the form of its LU decomposition with partial pivoting.

    .. math:: W = P L (U + \operatorname{diag}(s)), \quad \log|\det W| = \sum_i \log|s_i|

    P is a permutation and the signs of s are fixed, drawn with the first W, a random rotation; they are part of the
    state. Learned are the entries of L below its unit diagonal, of U above its zero diagonal, and log|s|: together one
    matrix, with log|s| on its diagonal. No such matrix is singular.

    Arguments:
        n: Rows and columns.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        pivots, lower, upper = torch.linalg.lu(_rotation(n))
        self.entries = nn.Parameter(lower.tril(-1) + upper.triu(1) + upper.diagonal().abs().log().diag())
        self.rows: Tensor  # row i of W is row rows[i] of L (U + diag(s))
        self.signs: Tensor
        self.register_buffer("rows", pivots.argmax(1))
        self.register_buffer("signs", upper.diagonal().sign())

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U + diag(s)."""
        diagonal = self.signs * self.entries.diagonal().exp()
        ones = torch.ones_like(diagonal)
        return self.entries.tril(-1) + ones.diag(), self.entries.triu(1) + diagonal.diag()

    def composed(self) -> Tensor:
        """W, in the precision of the entries where autocast is off."""
        lower, upper = self.factors()
        return lower[self.rows] @ upper

    def solve(self, y: Tensor) -> Tensor:
        """x in W x = y, for ``(n, B)``."""
        lower, upper = self.factors()
        y = y[self.rows.argsort()]
        y = torch.linalg.solve_triangular(lower, y, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, y, upper=True)

    def log_abs_det(self) -> Tensor:
        return self.entries.diagonal().sum()


def _rotation(n: int) -> Tensor:
    """A random orthogonal matrix."""
    return nn.init.orthogonal_(torch.empty(n, n))
