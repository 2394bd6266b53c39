"""Learned numbers, either constant or computed from a context."""

import torch
from torch import Tensor, nn

from .context import needed

__all__ = ["Amortized"]


class Amortized(nn.Module):
    r"""n numbers for each example, ``(B, n)``: :math:`b + W c` with the context c, or b alone.

    They start near ``start``: b with a spread of 0.01, which tells equal numbers apart, and W with small weights.

    Arguments:
        start: The n numbers to start from, ``(n,)``.
        n_context: Size of the context; 0: there is none, and all examples have the same numbers.
    """

    def __init__(self, start: Tensor, n_context: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(start + 0.01 * torch.randn(start.shape))
        self.n_context = n_context
        if n_context > 0:
            self.weight = nn.Parameter(0.01 * torch.randn(len(start), n_context))

    def forward(self, batch: int, context: Tensor | None) -> Tensor:
        if self.n_context == 0:
            return self.bias.expand(batch, -1)
        return self.bias + (needed(context, self.n_context).to(self.weight.dtype) @ self.weight.T).to(self.bias.dtype)
