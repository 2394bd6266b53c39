"""Coupling between the two colours of a checkerboard, each a picture of half the width."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from .base import Transform
from .univariate import Univariate

__all__ = ["CheckerboardCoupling"]


class CheckerboardCoupling(Transform):
    """Keeps the positions of one colour of a checkerboard and moves those of the other.

    The map of :class:`~models.transforms.coupling.MaskedCoupling` with a checkerboard mask, at half of the cost: the
    conditioner sees the kept positions alone, ``(C, H, W/2)``, not a picture with holes, and parameters are computed
    for the moved ones alone. W must be even. (Ho, Chen, Srinivas, Duan, Abbeel 2019, Flow++: Improving flow-based
    generative models with variational dequantization and architecture design, arXiv:1902.00275, split images in this
    way, by columns in their code.)

    Arguments:
        parity: Of row + column (0 or 1), where positions are kept.
        conditioner: Network ``(B, C, H, W/2)`` and context to ``(B, P C, H, W/2)``, along dimension 1 as in
            :class:`~models.transforms.coupling.Coupling`. Of a context of K pictures it gets the positions of parity 0
            and those of parity 1 as 2K.
        univariate: What moves an entry, with P parameters.
    """

    def __init__(self, parity: int, conditioner: nn.Module, univariate: Univariate) -> None:
        super().__init__()
        self.parity = parity
        self.conditioner = conditioner
        self.univariate = univariate
        self.inverse_kind = univariate.inverse_kind

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        kept, moved = self._split(x)
        moved, log_derivative = self.univariate.forward(moved, self._parameters_for(kept, context))
        return self._join(kept, moved), log_derivative.flatten(1).sum(1)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self._split(z)
        moved, log_derivative = self.univariate.inverse(moved, self._parameters_for(kept, context))
        return self._join(kept, moved), log_derivative.flatten(1).sum(1)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        if shape[2] % 2:
            raise ValueError(f"the colours of a checkerboard are halves of an even width, not of {shape[2]}")
        return tuple(shape)

    def _parameters_for(self, kept: Tensor, context: Tensor | None) -> Tensor:
        if context is not None and context.dim() == 4:
            context = torch.cat(_colours(context), 1)
        output = self.conditioner(kept, context).to(kept.dtype)  # autocast may have made it bfloat16
        return output.unflatten(1, (self.univariate.n_parameters, kept.shape[1]))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        even, odd = _colours(x)
        return (even, odd) if self.parity == 0 else (odd, even)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        even, odd = (kept, moved) if self.parity == 0 else (moved, kept)
        in_even_rows = _even_rows(even)
        left, right = torch.where(in_even_rows, even, odd), torch.where(in_even_rows, odd, even)
        return torch.stack([left, right], 4).flatten(3)


def _colours(x: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, C, H, W)`` to the positions of parity 0 and those of parity 1, both ``(B, C, H, W/2)``."""
    left, right = x.unflatten(3, (-1, 2)).unbind(4)
    in_even_rows = _even_rows(left)
    return torch.where(in_even_rows, left, right), torch.where(in_even_rows, right, left)


def _even_rows(x: Tensor) -> Tensor:
    return (torch.arange(x.shape[2], device=x.device) % 2 == 0)[:, None]
