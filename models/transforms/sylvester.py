"""The Sylvester flow."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ..nn.amortized import Amortized
from .base import Chain, Transform, full_precision, vectors_of
from .roots import increasing_root

__all__ = ["Sylvester", "sylvester_layers"]


class Sylvester(Transform):
    r"""A planar flow with M directions at once.

    .. math:: z = x + Q R \tanh(\tilde R Q^T x + b), \quad
        \log|\det| = \sum_{i=1}^{M} \log\big(1 + r_{ii} \tilde r_{ii} (1 - \tanh^2(\tilde R Q^T x + b)_i)\big)

    with R and :math:`\tilde R` upper triangular ``(M, M)`` and the M columns of Q orthonormal ``(D, M)``. By
    Sylvester's identity the determinant is that of an M x M triangular matrix; it is positive where
    :math:`r_{ii} \tilde r_{ii} > -1`, which the diagonals have as hyperbolic tangents. Q is the first M columns of a
    product of Householder reflections, H of them (van den Berg, Hasenclever, Tomczak, Welling 2018, Sylvester
    normalizing flows for variational inference, arXiv:1803.05649, H-SNF). Differs from the paper: there the variant
    with reflections has M = D, and only the one with an iterative orthogonalization fewer directions.

    ``inverse`` solves :math:`s + R \tanh(\tilde R s + b) = Q^T z` for :math:`s = Q^T x` from its last entry to its
    first, each an increasing function's root to the last bits; outside the span of Q nothing moves.

    Arguments:
        dim: D.
        n_context: Size of a context that gives everything for each example (a VAE's encoder); 0: it is learned.
        width: M, at most D.
        reflections: H.

    Raises:
        ValueError: ``width`` or ``reflections`` is below 1.
    """

    inverse_kind = "iterative"

    def __init__(self, dim: int, n_context: int = 0, width: int = 8, reflections: int = 4) -> None:
        super().__init__()
        self.dim, self.width, self.reflections = dim, min(width, dim), reflections
        if min(width, reflections) < 1:
            raise ValueError(f"width and reflections must be at least 1, not {width} and {reflections}")
        m = self.width
        # Two strict upper triangles, two diagonals, b, and the Householder vectors.
        self.sizes = [m * (m - 1) // 2] * 2 + [m] * 3 + [reflections * dim]
        # R starts near 0 and with it the whole map near the identity; R~ not, or no gradient would move either.
        start = torch.zeros(sum(self.sizes))
        start[sum(self.sizes[:3]) : sum(self.sizes[:4])] = 0.5
        start[-reflections * dim :] = torch.randn(reflections * dim)
        self.numbers = Amortized(start, n_context)
        self.rows: Tensor
        self.columns: Tensor
        rows, columns = torch.triu_indices(m, m, 1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        numbers = self.numbers(len(x), context).to(x.dtype)
        with full_precision(x):
            q, r, r_tilde, b = self._matrices(numbers)
            h = (torch.einsum("bmn,bdn,bd->bm", r_tilde, q, x) + b).tanh()
            return x + torch.einsum("bdm,bmn,bn->bd", q, r, h), self._log_det(r, r_tilde, h)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        numbers = self.numbers(len(z), context).to(z.dtype)
        with full_precision(z):
            return self._solved(z, *self._matrices(numbers))

    def _solved(self, z: Tensor, q: Tensor, r: Tensor, r_tilde: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.einsum("bdm,bd->bm", q, z)
        s, h = torch.zeros_like(y), torch.zeros_like(y)  # filled from the last entry on
        for i in reversed(range(self.width)):
            given = (r_tilde[:, i] * s).sum(1) + b[:, i]  # entries up to i are still 0
            target = y[:, i] - (r[:, i] * h).sum(1)
            outer, inner = r[:, i, i], r_tilde[:, i, i]

            def moved(
                a: Tensor, outer: Tensor = outer, inner: Tensor = inner, given: Tensor = given
            ) -> tuple[Tensor, Tensor]:
                t = (inner * a + given).tanh()
                return a + outer * t, 1 + outer * inner * (1 - t.square())

            reach = outer.abs() + torch.finfo(z.dtype).eps * (1 + target.abs())
            s_i = increasing_root(moved, target, target - reach, target + reach)
            s = torch.cat([s[:, :i], s_i[:, None], s[:, i + 1 :]], 1)
            h = torch.cat([h[:, :i], (inner * s_i + given).tanh()[:, None], h[:, i + 1 :]], 1)
        return z - torch.einsum("bdm,bmn,bn->bd", q, r, h), -self._log_det(r, r_tilde, h)

    def _log_det(self, r: Tensor, r_tilde: Tensor, h: Tensor) -> Tensor:
        diagonals = r.diagonal(dim1=1, dim2=2) * r_tilde.diagonal(dim1=1, dim2=2)
        return torch.log1p(diagonals * (1 - h.square())).sum(1)

    def _matrices(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q ``(B, D, M)``, R and R~ ``(B, M, M)`` and b ``(B, M)``."""
        above, above_tilde, raw, raw_tilde, b, vectors = numbers.split(self.sizes, 1)
        limit = 1 - 8 * torch.finfo(numbers.dtype).eps  # tanh rounds to 1 at large arguments
        triangles = []
        for strict, diagonal in ((above, raw), (above_tilde, raw_tilde)):
            matrix = torch.diag_embed(limit * diagonal.tanh())
            triangles.append(matrix.index_put((self._batch(len(numbers)), self.rows, self.columns), strict))
        q = torch.eye(self.dim, self.width, dtype=numbers.dtype, device=numbers.device).expand(len(numbers), -1, -1)
        for v in vectors.unflatten(1, (self.reflections, self.dim)).unbind(1):
            unit = torch.nn.functional.normalize(v, dim=1)
            q = q - 2 * unit[:, :, None] * (unit[:, None] @ q)
        return q, triangles[0], triangles[1], b

    def _batch(self, n: int) -> Tensor:
        return torch.arange(n, device=self.rows.device)[:, None]

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return vectors_of(self.dim, shape)


def sylvester_layers(dim: int, n_context: int = 0, layers: int = 4, width: int = 8, reflections: int = 4) -> Chain:
    """``layers`` Sylvester transforms, one after another."""
    return Chain(*[Sylvester(dim, n_context, width, reflections) for _ in range(layers)])
