"""From integer levels to reals."""

import math

import torch
from torch import Generator, Tensor

from models.base import Relation
from models.transforms.base import Transform

__all__ = ["UniformDequantization"]

# Noise lies on the midpoints of 2^13 equal cells. With at most 256 levels x + u then needs 22 bits, which float32 holds
# exactly, and dividing by L and multiplying again errs by at most 2^-15, less than the 2^-14 to the nearest integer.
CELLS = 2**13


class UniformDequantization(Transform):
    r"""Integers 0 .. L-1 to reals in (0, 1), by adding uniform noise.

    .. math:: y = (x + u) / L, \quad u \sim U(0, 1)^D, \quad -\log q(y|x) = -D \log L

    One draw: :math:`E[p(y) / q(y|x)]` is the integral of p over the cell of x, the mass of x under the discrete model
    :math:`\lfloor L y \rfloor` (Theis, van den Oord, Bethge 2016, A note on the evaluation of generative models). The
    noise lies on a grid of spacing 2^-13 that keeps away from 0 and 1, so that the floor of L y is x, without
    exception, in float32 as in float64 and for every L.

    ``forward`` takes uint8 (giving torch's default dtype) or integers held as floats (keeping their dtype).
    ``inverse`` is the floor map, clipped to 0 .. L-1: reals outside [0, 1) go to the nearest level. Its log-term is 0.

    Arguments:
        levels: Number of integer levels L, 2 to 256.
    """

    inverse_kind = "closed form"

    def __init__(self, levels: int) -> None:
        super().__init__()
        if not 2 <= levels <= 256:
            raise ValueError(f"dequantization needs 2 to 256 levels, not {levels}")
        self.levels = levels

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        u = torch.rand(x.shape, generator=generator, device=x.device, dtype=dtype)
        u = ((u * CELLS).floor() + 0.5) / CELLS
        dim = math.prod(x.shape[1:])
        log_term = torch.full((len(x),), -dim * math.log(self.levels), device=x.device, dtype=dtype)
        return (x + u) / self.levels, log_term

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (z * self.levels).floor().clamp(0, self.levels - 1), z.new_zeros(len(z))

    @property
    def relation(self) -> Relation:
        return "lower_bound"
