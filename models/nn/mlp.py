"""Multi-layer perceptron."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .context import needed

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected layers with SiLU in between: ``(B, n_in)`` and context ``(B, n_context)`` to ``(B, n_out)``.

    A smooth function, and so are densities made of it.

    Arguments:
        n_in, n_out: Numbers of inputs and outputs. Without inputs and context the output is a learned constant.
        hidden: Units of each hidden layer.
        depth: Number of hidden layers; 0 is a linear map.
        n_context: Numbers of the context; 0: none is read.
        zero_last: Start the last layer at zero, as conditioners of flows want it.
    """

    def __init__(
        self, n_in: int, n_out: int, *, hidden: int, depth: int, n_context: int = 0, zero_last: bool = False
    ) -> None:
        super().__init__()
        self.n_context = n_context
        # Something to multiply the first weights with, where there is nothing to depend on.
        self.constant_input = n_in + n_context == 0
        widths = [max(1, n_in + n_context), *[hidden] * depth]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.SiLU()]
        last = nn.Linear(widths[-1], n_out)
        if zero_last:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.n_context > 0:
            x = torch.cat([x, needed(context, self.n_context).to(x.dtype)], 1)
        if self.constant_input:
            x = x.new_ones(len(x), 1)
        return self.layers(x)
