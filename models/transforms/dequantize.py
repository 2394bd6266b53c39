"""From integer levels to reals."""

import math
from abc import ABC
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid
from torch.special import log_ndtr

from ..base import Relation
from ..distributions import standard_normal, uniform
from .base import Transform

__all__ = ["Dequantization", "UniformDequantization", "VariationalDequantization"]

# Noise lies on the midpoints of 2^13 equal cells. With at most 256 levels x + u then needs 22 bits, which float32 holds
# exactly, and dividing by L and multiplying again errs by at most 2^-15, less than the 2^-14 to the nearest integer.
CELLS = 2**13


class Dequantization(Transform, ABC):
    r"""Integers 0 .. L-1 to reals in (0, 1), by adding noise u in (0, 1).

    .. math:: y = (x + u) / L, \quad -\log q(y|x) = -D \log L - \log q(u|x)

    One draw: :math:`E[p(y) / q(y|x)]` is the integral of p over the cell of x, the mass of x under the discrete model
    :math:`\lfloor L y \rfloor` (Theis, van den Oord, Bethge 2016, A note on the evaluation of generative models,
    arXiv:1511.01844). The noise lies on a grid of spacing 2^-13 that keeps away from 0 and 1, so that the floor of L y
    is x, without exception, in float32 as in float64 and for every L.

    ``forward`` takes uint8 (giving torch's default dtype) or integers held as floats (keeping their dtype).
    ``inverse`` is the floor map, clipped to 0 .. L-1: reals outside [0, 1) go to the nearest level. Its log-term is 0.

    A base class: a dequantization is a subclass that draws the noise.

    Arguments:
        levels: Number of integer levels L, 2 to 256.

    Raises:
        ValueError: ``levels`` is out of range.
    """

    inverse_kind = "closed form"

    def __init__(self, levels: int) -> None:
        super().__init__()
        if not 2 <= levels <= 256:
            raise ValueError(f"dequantization needs 2 to 256 levels, not {levels}")
        self.levels = levels

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (z * self.levels).floor().clamp(0, self.levels - 1), z.new_zeros(len(z))

    def outside(self, z: Tensor) -> Tensor:
        """Whether ``inverse`` clips any entry of an example: ``(B, *shape) -> (B,)`` bool."""
        level = (z * self.levels).floor()
        return ((level < 0) | (level > self.levels - 1)).flatten(1).any(1)

    @property
    def relation(self) -> Relation:
        return "lower_bound"


class UniformDequantization(Dequantization):
    r"""Uniform noise: :math:`u \sim U(0, 1)^D`, log q(u|x) = 0."""

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        dtype = _float_dtype(x)
        u = _on_grid(uniform(x.shape, x.to(dtype), generator))
        dim = math.prod(x.shape[1:])
        log_term = torch.full((len(x),), -dim * math.log(self.levels), device=x.device, dtype=dtype)
        return (x + u) / self.levels, log_term


class VariationalDequantization(Dequantization):
    r"""Noise from a flow conditioned on x, trained together with the density it dequantizes for.

    .. math:: u = \sigma(v), \quad v = g_x(\epsilon), \quad \epsilon_d \sim \mathrm{Logistic}(0, 1), \qquad
        \log q(u|x) = \sum_d \log \sigma'(\epsilon_d)
        - \log\Big|\det \frac{\partial g_x}{\partial \epsilon}\Big| - \sum_d \log \sigma'(v_d)

    (Ho, Chen, Srinivas, Duan, Abbeel 2019, Flow++: Improving flow-based generative models with variational
    dequantization and architecture design, arXiv:1902.00275, section 3.1.) The paper's :math:`\epsilon` is normal. With
    logistic noise u is uniform where g is the identity, and the weights p / q keep a finite variance where g is near
    it: normal tails are so thin that with an affine g the variance is infinite.

    Moving u to the grid of ``Dequantization`` after log q has been taken costs nothing: the expectation of
    :math:`p(y)/q(u|x)` with y from the grid point and q at u itself is the sum of p over grid points times the volume
    of a grid cell, whatever q is. So is that of uniform noise on the grid: the same midpoint rule for the mass of x.
    Gradients pass as if u had not been moved.

    Arguments:
        levels: Number of integer levels L, 2 to 256.
        flow: The bijection :math:`g_x`, from noise of the shape of x to v of the same shape.
        features: Network ``(B, *shape)``, levels scaled to [-1, 1], and the context of this transform to the context of
            ``flow``: vectors or pictures.

    Raises:
        ValueError: The flow draws or estimates: the log-term would be no draw of -log q(z|x).
    """

    def __init__(self, levels: int, flow: Transform, features: nn.Module) -> None:
        super().__init__(levels)
        if flow.relation != "exact":
            raise ValueError("the flow of the noise must be a bijection with an exact log-determinant")
        self.flow = flow
        self.features = features

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x = x.to(_float_dtype(x))
        features = self.features(2 * x / (self.levels - 1) - 1, context).to(x.dtype)  # autocast may have lowered it
        normal = standard_normal(x.shape, x, generator)
        noise = log_ndtr(normal) - log_ndtr(-normal)  # the log-odds of a uniform number, accurate near 0 and 1
        v, log_det = self.flow(noise, context=features)
        u = v.sigmoid()
        on_grid = _on_grid(u.detach()) + (u - u.detach())
        dim = math.prod(x.shape[1:])
        log_term = log_det + _log_slope(v) - _log_slope(noise) - dim * math.log(self.levels)
        return (x + on_grid) / self.levels, log_term

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        if self.flow.output_shape(shape) != tuple(shape):
            raise ValueError(f"noise of shape {tuple(shape)} becomes {self.flow.output_shape(shape)}; it must keep it")
        return tuple(shape)


def _float_dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def _log_slope(v: Tensor) -> Tensor:
    """Of the sigmoid, also the log-density of the standard logistic distribution: ``(B, ...)`` to the sums ``(B,)``."""
    return (logsigmoid(v) + logsigmoid(-v)).flatten(1).sum(1)


def _on_grid(u: Tensor) -> Tensor:
    """[0, 1] to the midpoints of the grid's cells; 1, which a sigmoid rounds to, is of the last cell."""
    return ((u * CELLS).floor().clamp(max=CELLS - 1) + 0.5) / CELLS
