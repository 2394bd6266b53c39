"""The radial flow."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from ..nn.amortized import Amortized
from .base import Chain, Transform, vectors_of

__all__ = ["Radial", "radial_layers"]

SHIFT = math.log(math.e - 1)  # softplus(SHIFT) = 1


class Radial(Transform):
    r"""Moves every point towards a centre or away from it, by an amount that depends on its distance r = |x - x_0|.

    .. math:: z = x + \beta\, h(r)\, (x - x_0), \quad h(r) = \frac{1}{\alpha + r}, \quad
        \log|\det| = (D - 1) \log(1 + \beta h) + \log(1 + \beta \alpha h^2)

    with :math:`\alpha > 0` and :math:`\beta > -\alpha`, for which it is a bijection (Rezende, Mohamed 2015, Variational
    inference with normalizing flows, arXiv:1505.05770, equation 14 and appendix A.2; the last term is their
    :math:`1 + \beta h + \beta h' r`). :math:`\alpha = \mathrm{softplus}(a)` and
    :math:`\beta = \alpha\,(\mathrm{softplus}(b + \log(e - 1)) - 1)`, so that b = 0 is the identity.

    The inverse is in closed form: the distance r of x is the positive root of
    :math:`r^2 + (\alpha + \beta - \rho) r - \alpha \rho = 0` with :math:`\rho = |z - x_0|`.

    Arguments:
        dim: D.
        n_context: Size of a context that gives x_0, a and b for each example (a VAE's encoder); 0: they are learned.
    """

    inverse_kind = "closed form"

    def __init__(self, dim: int, n_context: int = 0) -> None:
        super().__init__()
        self.dim = dim
        start = torch.cat([torch.randn(dim), torch.tensor([SHIFT, 0.0])])
        self.numbers = Amortized(start, n_context)

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        centre, alpha, ratio = self._numbers_for(x, context)
        away = x - centre
        factor, log_det = self._factor_and_log_det(distance(away), alpha, ratio)
        return centre + factor * away, log_det

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        centre, alpha, ratio = self._numbers_for(z, context)
        away = z - centre
        rho = distance(away)
        half = (alpha * (1 + ratio) - rho) / 2
        root = (half.square() + alpha * rho).sqrt()
        # Of the two equal forms of the root, the one that does not cancel.
        r = torch.where(half > 0, alpha * rho / (root + half.clamp(min=0)), root - half)
        factor, log_det = self._factor_and_log_det(r, alpha, ratio)
        return centre + away / factor, -log_det

    def _numbers_for(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        r""":math:`x_0` ``(B, D)``, :math:`\alpha` and :math:`\beta / \alpha > -1` ``(B, 1)``."""
        centre, a, b = self.numbers(len(x), context).to(x.dtype).split([self.dim, 1, 1], 1)
        eps = torch.finfo(x.dtype).eps
        return centre, softplus(a) + eps, (softplus(b + SHIFT) - 1).clamp(min=-1 + 8 * eps)

    def _factor_and_log_det(self, r: Tensor, alpha: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`1 + \beta h(r)` ``(B, 1)`` and the log-determinant ``(B,)``."""
        share = alpha / (alpha + r)  # alpha h
        log_det = (self.dim - 1) * torch.log1p(ratio * share) + torch.log1p(ratio * share.square())
        return 1 + ratio * share, log_det.squeeze(1)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return vectors_of(self.dim, shape)


def distance(away: Tensor) -> Tensor:
    """``(B, D)`` to ``(B, 1)``; the tiny summand keeps the gradient finite at the centre itself."""
    return (away.square().sum(1, keepdim=True) + torch.finfo(away.dtype).tiny).sqrt()


def radial_layers(dim: int, n_context: int = 0, layers: int = 16) -> Chain:
    """``layers`` radial transforms, one after another."""
    return Chain(*[Radial(dim, n_context) for _ in range(layers)])
