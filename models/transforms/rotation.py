"""A learned rotation of vectors."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from .base import Transform, full_precision, vectors_of

__all__ = ["Rotation"]


class Rotation(Transform):
    r"""z = x Q for vectors ``(B, D)``, with Q a product of Householder reflections. Log-det 0.

    .. math:: Q = H_1 \cdots H_R, \quad H_i = I - 2 v_i v_i^T, \quad \|v_i\| = 1

    (Tomczak, Welling 2016, Improving variational auto-encoders using Householder flow, arXiv:1611.09630.) With R = D
    every orthogonal matrix can be had, with determinant 1 where R is even. The product is not formed one reflection
    after another:

    .. math:: Q = I - V^T T^{-1} V, \quad T = \tfrac12 I + \text{the strict upper triangle of } V V^T

    where the rows of V are the :math:`v_i` (Joffrain, Low, Quintana-Orti, van de Geijn, Van Zee 2006, Accumulating
    Householder transformations, revisited), so that it costs three matrix products and a triangular solve. Starts with
    random reflections.

    Arguments:
        dim: D.
        reflections: R.

    Raises:
        ValueError: There is no reflection.
    """

    inverse_kind = "closed form"

    def __init__(self, dim: int, reflections: int) -> None:
        super().__init__()
        if reflections < 1:
            raise ValueError(f"a rotation needs at least one reflection, not {reflections}")
        self.vectors = nn.Parameter(torch.randn(reflections, dim))

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._turned(x, transposed=False), x.new_zeros(len(x))

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._turned(z, transposed=True), z.new_zeros(len(z))

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return vectors_of(self.vectors.shape[1], shape)

    def _turned(self, x: Tensor, transposed: bool) -> Tensor:
        with full_precision(x):
            v = self.vectors / self.vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
            t = (v @ v.T).triu(1) + 0.5 * torch.eye(len(v), dtype=x.dtype, device=x.device)
            t = t.T if transposed else t
            return x - torch.linalg.solve_triangular(t, x @ v.T, upper=not transposed, left=False) @ v
