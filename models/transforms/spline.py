"""The rational-quadratic spline: a flexible monotone map of one variable whose inverse is closed form."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .univariate import Univariate

__all__ = ["RationalQuadraticSpline"]


@dataclass(frozen=True)
class RationalQuadraticSpline(Univariate):
    r"""Through K + 1 knots :math:`(x_k, y_k)` with slopes :math:`d_k` in the box [-b, b]; the identity outside.

    In bin k, with :math:`w = x_{k+1} - x_k`, :math:`h = y_{k+1} - y_k`, :math:`s = h / w` and
    :math:`\theta = (x - x_k) / w`,

    .. math::
        z = y_k + \frac{h\,[s\theta^2 + d_k\,\theta(1-\theta)]}{s + (d_k + d_{k+1} - 2s)\,\theta(1-\theta)}, \qquad
        \frac{dz}{dx} = \frac{s^2\,[d_{k+1}\theta^2 + 2s\,\theta(1-\theta) + d_k(1-\theta)^2]}
                             {[s + (d_k + d_{k+1} - 2s)\,\theta(1-\theta)]^2}

    (Durkan, Bekasov, Murray, Papamakarios 2019, Neural spline flows, arXiv:1906.04032; Gregory, Delbourgo 1982,
    Piecewise rational quadratic interpolation to monotonic data.) P = 3K - 1, raw: the widths of the bins, their
    heights (each through a softmax), and the slopes at the K - 1 inner knots (through a softplus, displaced so that 0
    gives slope 1). The outer knots are the corners of the box, with slope 1, so the map has a continuous derivative
    everywhere.

    Slopes reach about :math:`2 / m` in a bin of the least width, and x is a float32 number: seen through ``forward``,
    ``inverse`` errs by the rounding of x, up to :math:`10^{-7} b`, times the slope, and 1e-5 at most beyond that, for
    raw parameters as large as 40. No other float32 number would do better.

    Attributes:
        bins: K, at least 2.
        bound: b. The spline is the identity outside [-b, b]; standardize data so that nearly all of it lies inside.
        min_bin: m, least width and height of a bin as a part of the box, below 1/K.
        min_derivative: Least slope at a knot, in (0, 1).

    Raises:
        ValueError: A number is out of range.
    """

    bins: int = 8
    bound: float = 3.0
    min_bin: float = 1e-3
    min_derivative: float = 1e-3
    inverse_kind = "closed form"

    def __post_init__(self) -> None:
        if self.bins < 2 or self.bound <= 0:
            raise ValueError(f"a spline needs 2 bins in a box of positive size, not {self.bins} and {self.bound}")
        if not 0 < self.min_bin < 1 / self.bins or not 0 < self.min_derivative < 1:
            raise ValueError(
                f"least bins must be between 0 and 1/{self.bins} and least slopes between 0 and 1, "
                f"not {self.min_bin} and {self.min_derivative}"
            )

    @property
    def n_parameters(self) -> int:
        return 3 * self.bins - 1

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        inside = x.abs() < self.bound
        # Clamped before the maths: where() would turn the infinite gradient of a branch not taken into NaN.
        clamped = x.clamp(-self.bound, self.bound)
        xs, ys = self._knots(parameters)
        z, slope = _curve(clamped, self._bin(clamped, xs, xs, ys, parameters))
        return torch.where(inside, z, x), torch.where(inside, slope.log(), 0.0)

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        inside = z.abs() < self.bound
        clamped = z.clamp(-self.bound, self.bound)
        xs, ys = self._knots(parameters)
        bin = self._bin(clamped, ys, xs, ys, parameters)
        with torch.no_grad():
            x = _root(clamped, bin)
        # One of Newton's steps, for the last digit and for the gradient: the square root has none at 0.
        value, slope = _curve(x, bin)
        x = x - (value - clamped) / slope
        _, slope = _curve(x, bin)
        return torch.where(inside, x, z), torch.where(inside, -slope.log(), 0.0)

    def _knots(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Abscissas and ordinates of all knots, each ``(B, K + 1, *shape)``."""
        parts = parameters[:, : 2 * self.bins].unflatten(1, (2, self.bins)).softmax(2)
        number = torch.arange(1, self.bins, dtype=parts.dtype, device=parts.device)
        least = (2 * self.bound * self.min_bin * number - self.bound).view(-1, *[1] * (parts.dim() - 3))
        free = 2 * self.bound * (1 - self.bins * self.min_bin)
        inner = torch.add(least, parts[:, :, :-1].cumsum(2), alpha=free)
        corner = inner.new_full((1,), self.bound).expand_as(inner[:, :, :1])
        xs, ys = torch.cat([-corner, inner, corner], 2).unbind(1)
        return xs, ys

    def _bin(self, t: Tensor, knots: Tensor, xs: Tensor, ys: Tensor, parameters: Tensor) -> "_Bin":
        """The bin of each entry of t among ``knots``, which are the abscissas or the ordinates."""
        left = (t[:, None] >= knots[:, 1:-1]).sum(1, keepdim=True)
        ends = torch.cat([left, left + 1], 1)  # (B, 2, *shape)
        (x0, x1), (y0, y1) = xs.gather(1, ends).unbind(1), ys.gather(1, ends).unbind(1)
        raw = parameters[:, 2 * self.bins :]
        zero = torch.zeros_like(raw[:, :1])
        raw = torch.cat([zero, raw, zero], 1).gather(1, ends)
        slope_0, slope_1 = (self.min_derivative + softplus(raw + self._slope_1)).unbind(1)
        return _Bin(x0, x1 - x0, y0, y1 - y0, slope_0, slope_1)

    @property
    def _slope_1(self) -> float:
        """What softplus takes to 1 - min_derivative."""
        return math.log(math.expm1(1 - self.min_derivative))


class _Bin(NamedTuple):
    """Where the left end is, how wide and high the bin is, and the slopes at both ends; each ``(B, *shape)``."""

    x: Tensor
    width: Tensor
    y: Tensor
    height: Tensor
    slope_0: Tensor
    slope_1: Tensor


def _curve(x: Tensor, bin: _Bin) -> tuple[Tensor, Tensor]:
    """Value and derivative of the rational-quadratic curve of a bin."""
    s = bin.height / bin.width
    t = (x - bin.x) / bin.width
    u = 1 - t
    tu = t * u
    denominator = s + (bin.slope_0 + bin.slope_1 - 2 * s) * tu
    z = bin.y + bin.height * (s * t * t + bin.slope_0 * tu) / denominator
    derivative = s * s * (bin.slope_1 * t * t + 2 * s * tu + bin.slope_0 * u * u) / (denominator * denominator)
    return z, derivative


def _root(z: Tensor, bin: _Bin) -> Tensor:
    """Where the curve of a bin takes the value z: the root in [0, 1] of a quadratic (paper, equations 6 to 8)."""
    s = bin.height / bin.width
    y = z - bin.y
    bend = y * (bin.slope_0 + bin.slope_1 - 2 * s)
    a = bin.height * (s - bin.slope_0) + bend
    b = bin.height * bin.slope_0 - bend
    c = -s * y
    # Rounding can make a vanishing discriminant negative, and carry the root beyond the bin.
    root = (b * b - 4 * a * c).clamp(min=0).sqrt()
    # The form of the root in which b and the square root do not cancel: without it three digits are left in float32.
    # Where b is negative, a is at least as large, because a + b + c = s (height - y) is not negative.
    t = torch.where(b < 0, (root - b) / (2 * a), 2 * c / (-b - root)).clamp(0, 1)
    return bin.x + t * bin.width
