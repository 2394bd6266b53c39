"""Examples as vectors."""

import math
from collections.abc import Sequence

from torch import Generator, Tensor

from .base import Transform, only_shape

__all__ = ["Flatten"]


class Flatten(Transform):
    """Examples of any shape to vectors, row after row of the first channel and so on: ``(*shape) -> (D,)``. Log-det 0.

    Arguments:
        shape: Of one example.
    """

    inverse_kind = "closed form"

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.unflatten(1, self.shape), z.new_zeros(len(z))

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        only_shape(self.shape, shape)
        return (math.prod(self.shape),)
