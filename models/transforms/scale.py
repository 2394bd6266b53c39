"""A fixed change of units."""

import math

from torch import Generator, Tensor

from .base import Transform

__all__ = ["Scale"]


class Scale(Transform):
    r"""Elementwise :math:`z = a x + b` with constants a and b; the log-det is :math:`D \log|a|`.

    After dequantization, which gives numbers in (0, 1), a = 1 and b = -1/2 is the input of Glow's code, x / 256 - 1/2
    (Kingma, Dhariwal 2018, Glow: Generative flow with invertible 1x1 convolutions, arXiv:1807.03039), and a = 2, b = -1
    the interval (-1, 1).

    Unlike a logit it does not take that interval to the whole line: what mass a density on z has outside is missing
    from the masses of the integers, whose sum is then below 1, never above.

    Arguments:
        factor: a, not 0.
        offset: b.

    Raises:
        ValueError: ``factor`` is 0.
    """

    inverse_kind = "closed form"

    def __init__(self, factor: float, offset: float) -> None:
        super().__init__()
        if factor == 0:
            raise ValueError("a scale of 0 has no inverse")
        self.factor = factor
        self.offset = offset

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self.factor * x + self.offset, self._log_det(x)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (z - self.offset) / self.factor, -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), math.prod(x.shape[1:]) * math.log(abs(self.factor)))
