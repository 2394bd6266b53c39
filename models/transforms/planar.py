"""The planar flow."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from ..nn.amortized import Amortized
from .base import Chain, Transform, vectors_of
from .roots import increasing_root

__all__ = ["Planar", "planar_layers"]

SHIFT = math.log(math.e - 1)  # softplus(SHIFT) = 1


class Planar(Transform):
    r"""Moves every point along one direction, by an amount that depends on its place along another.

    .. math:: z = x + \hat u \tanh(w^T x + b), \quad
        \log|\det| = \log(1 + \hat u^T w\, (1 - \tanh^2(w^T x + b))), \quad
        \hat u = u + (m(w^T u) - w^T u)\, w / \|w\|^2

    (Rezende, Mohamed 2015, Variational inference with normalizing flows, arXiv:1505.05770, equations 10 to 12 and
    appendix A.1.) The map is a bijection where :math:`w^T \hat u = m(w^T u) > -1`. The paper has m(a) = softplus(a) -
    1; here it is softplus(a + log(e - 1)) - 1, with the same range and m(0) = 0, so that :math:`\hat u` stays bounded
    as w goes to 0.

    ``inverse`` finds :math:`a = w^T x`, the root of the increasing :math:`a + w^T \hat u \tanh(a + b) = w^T z`, to the
    last bits.

    Arguments:
        dim: D.
        n_context: Size of a context that gives u, w and b for each example (a VAE's encoder); 0: they are learned.
    """

    inverse_kind = "iterative"

    def __init__(self, dim: int, n_context: int = 0) -> None:
        super().__init__()
        self.dim = dim
        start = torch.cat([torch.zeros(dim), torch.randn(dim) / math.sqrt(dim), torch.randn(1)])
        self.numbers = Amortized(start, n_context)

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        u, w, b, wu = self._numbers_for(x, context)
        h = ((x * w).sum(1, keepdim=True) + b).tanh()  # (B, 1)
        return x + u * h, torch.log1p(wu * (1 - h.square())).squeeze(1)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, w, b, wu = self._numbers_for(z, context)
        along = (z * w).sum(1, keepdim=True)

        def moved(a: Tensor) -> tuple[Tensor, Tensor]:
            h = (a + b).tanh()
            return a + wu * h, 1 + wu * (1 - h.square())

        reach = wu.abs() + torch.finfo(z.dtype).eps * (1 + along.abs())
        a = increasing_root(moved, along, along - reach, along + reach)
        h = (a + b).tanh()
        return z - u * h, -torch.log1p(wu * (1 - h.square())).squeeze(1)

    def _numbers_for(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r""":math:`\hat u`, w ``(B, D)``, b and :math:`w^T \hat u` ``(B, 1)``."""
        u, w, b = self.numbers(len(x), context).to(x.dtype).split([self.dim, self.dim, 1], 1)
        before = (w * u).sum(1, keepdim=True)
        after = (softplus(before + SHIFT) - 1).clamp(min=-1 + 8 * torch.finfo(x.dtype).eps)  # not rounded to -1
        norm = w.square().sum(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        return u + (after - before) * w / norm, w, b, after

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return vectors_of(self.dim, shape)


def planar_layers(dim: int, n_context: int = 0, layers: int = 16) -> Chain:
    """``layers`` planar transforms, one after another."""
    return Chain(*[Planar(dim, n_context) for _ in range(layers)])
