"""A fixed order of variables or channels."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .base import Transform

__all__ = ["Permute", "reversal", "with_reversals"]


class Permute(Transform):
    r""":math:`z_i = x_{\pi(i)}` along dimension 1: the variables of vectors, the channels of images. Log-det 0.

    The order is stored in checkpoints: a random one comes back with the weights that were trained for it.

    Arguments:
        order: pi(0) .. pi(n-1), a permutation of 0 .. n-1.

    Raises:
        ValueError: ``order`` is no permutation.
    """

    inverse_kind = "closed form"

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        if not order or sorted(order) != list(range(len(order))):
            raise ValueError(f"{list(order)} is no permutation of 0 .. n-1")
        self.order: Tensor
        self.register_buffer("order", torch.tensor(order, dtype=torch.long))

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(len(x))

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.index_select(1, self.order.argsort()), z.new_zeros(len(z))


def reversal(n: int) -> Permute:
    """The order n-1 .. 0."""
    return Permute(range(n - 1, -1, -1))


def with_reversals(layers: Sequence[Transform], n: int) -> list[Transform]:
    """The layers with a reversal of n variables between each two of them.

    Autoregressive layers then read the variables from either end in turn (Kingma, Salimans, Jozefowicz, Chen,
    Sutskever, Welling 2016, Improving variational inference with inverse autoregressive flow, arXiv:1606.04934).
    """
    parts: list[Transform] = []
    for i, layer in enumerate(layers):
        parts += [reversal(n)] * (i > 0) + [layer]
    return parts
