"""Space to depth."""

from collections.abc import Sequence

from torch import Generator, Tensor

from .base import Transform

__all__ = ["Squeeze", "halvings"]


class Squeeze(Transform):
    """Each 2x2 block of pixels becomes one pixel with four times the channels: ``(C, H, W) -> (4C, H/2, W/2)``.

    Channel ``(2 dy + dx) C + c`` holds channel c of the pixel at offset (dy, dx): the first half of the channels is the
    even rows in all colours, so that a channel mask after it is no checkerboard again. A permutation: log-det 0.
    H and W must be even. (Dinh, Sohl-Dickstein, Bengio 2017, Density estimation using Real NVP, arXiv:1605.08803.)
    """

    inverse_kind = "closed form"

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        b, c, h, w = x.shape
        blocks = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)  # (B, 2, 2, C, H/2, W/2)
        return blocks.reshape(b, 4 * c, h // 2, w // 2), x.new_zeros(b)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        b, c, h, w = z.shape
        blocks = z.reshape(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)  # (B, C/4, H, 2, W, 2)
        return blocks.reshape(b, c // 4, 2 * h, 2 * w), z.new_zeros(b)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        c, h, w = shape
        if h % 2 or w % 2:
            raise ValueError(f"squeeze needs an even height and width, not {h} x {w}")
        return (4 * c, h // 2, w // 2)


def halvings(shape: Sequence[int], *, above: int = 1) -> int:
    """How often images ``(C, H, W)`` can be squeezed while height and width are even and greater than ``above``."""
    _, height, width = shape
    times = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) > above:
        height, width, times = height // 2, width // 2, times + 1
    return times
