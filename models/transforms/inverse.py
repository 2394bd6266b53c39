"""A transform the other way round."""

from collections.abc import Sequence

from torch import Generator, Tensor

from .base import Transform

__all__ = ["Inverse"]


class Inverse(Transform):
    """Swaps the two directions of a bijection: data to latents is the given transform's ``inverse``.

    Its ``inverse`` is one pass of the given transform. Its ``forward`` is the given ``inverse``: repeated passes where
    that is iterative, to the tolerance that it states.

    Arguments:
        transform: A bijection that has an inverse and keeps the shape of examples.

    Raises:
        ValueError: The transform draws or estimates, in training or always, has no inverse, or is swapped already.
    """

    inverse_kind = "closed form"

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        if transform.relation != "exact" or transform.inverse_kind == "one-way":
            raise ValueError("only a bijection with an inverse and an exact log-determinant can be swapped")
        inside = [part for part in transform.modules() if isinstance(part, Transform)]
        if any(isinstance(part, Inverse) or not part.repeatable for part in inside):
            raise ValueError("what is swapped already, or draws in training, cannot be swapped")
        self.transform = transform

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.transform.inverse(x, context=context)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform(z, context=context)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return self.transform.output_shape(shape)
