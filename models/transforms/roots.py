r"""Roots of increasing functions, entry by entry, and the gradient of a root.

The root x of f(x; theta) = z is a function of z and theta, with the derivatives

.. math:: \frac{\partial x}{\partial z} = \frac{1}{f'(x)}, \qquad
    \frac{\partial x}{\partial \theta} = -\frac{1}{f'(x)} \frac{\partial f}{\partial \theta}

that a step of Newton's method from x, :math:`(z - f(x; \theta)) / f'(x)` with a constant :math:`f'(x)`, has too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["implicit_root", "increasing_root", "newton_step"]


@torch.no_grad()
def increasing_root(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], target: Tensor, low: Tensor, high: Tensor,
    tolerance: float = 0.0,
) -> Tensor:  # fmt: skip
    """x with f(x) = target for an increasing f, to the last bits of the dtype or to a tolerance.

    Newton's method within a bracket. A step that leaves the bracket, or is longer than half of the one before, is
    replaced by one to the bracket's middle, so that it never converges slower than bisection by more than a factor of
    two (Press, Teukolsky, Vetterling, Flannery 2007, Numerical recipes, section 9.4).

    Arguments:
        function: x to f(x) and f'(x), all of the shape of ``target``.
        target: Any shape.
        low, high: Of the same shape, with f(low) <= target <= f(high).
        tolerance: Enough where the last bits are not needed: |f(x) - target| <= tolerance max(1, |target|).
    """
    x, last = (low + high) / 2, high - low
    enough = tolerance * target.abs().clamp(min=1)
    for _ in range(2 * (64 if target.dtype == torch.float64 else 32)):
        value, slope = function(x)
        too_high = value > target
        high, low = torch.where(too_high, x, high), torch.where(too_high, low, x)
        step = (target - value) / slope
        newton = x + step
        # Written so that a NaN, from a slope of 0, is a bisection too.
        good = (newton >= low) & (newton <= high) & (2 * step.abs() <= last)
        following = torch.where(good, newton, (low + high) / 2)
        following = torch.where((value - target).abs() <= enough, x, following)
        last = (following - x).abs()
        if torch.equal(following, x):
            break
        x = following
    return x


def newton_step(value: Tensor, target: Tensor, log_slope: Tensor) -> Tensor:
    """The step of Newton's method from x towards f(x) = target, differentiable by f(x) and the target.

    The slope is taken as a constant. It is limited to exp(-60) from below: a root that is met where f is flat would
    otherwise give 0 * inf, NaN.

    Arguments:
        value: f(x).
        target: What f should be, of the same shape.
        log_slope: log f'(x), of the same shape.
    """
    return (target - value) * (-log_slope.detach()).clamp(max=60.0).exp()


def implicit_root(x: Tensor, step: Tensor) -> Tensor:
    """The root x as a function of the target and of f's parameters: x itself, with the gradient of a Newton step.

    Arguments:
        x: The root, found without gradients.
        step: Newton's step from it, with its graph. Its value is not used.
    """
    return x + (step - step.detach())
