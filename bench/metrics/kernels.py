r"""Kernels of all pairs of examples, their means, and the part of their variance that belongs to pairs alone.

The part is :math:`\zeta = E[\tilde k^2]` of the doubly centred kernel (Hoeffding 1948, "A class of statistics with
asymptotically normal distribution").
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bench.metrics.pairs import blocks, squared_distances

__all__ = ["STEP", "Between", "Kernel", "Within", "between", "cubic", "gaussian", "within"]

STEP = 0.02
"""Of the logarithm of a kernel's width, for derivatives."""

Kernel = Callable[[Tensor, Tensor], Tensor]
"""All pairs, ``(N, D), (M, D) -> (N, M)``, of a tensor's own."""


def cubic(x: Tensor, y: Tensor) -> Tensor:
    r"""The kernel :math:`(x \cdot y / D + 1)^3` of all pairs, ``(N, D), (M, D) -> (N, M)``."""
    return (x @ y.T / x.shape[1]).add_(1).pow_(3)


def gaussian(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    r"""The kernel :math:`\exp(-|x - y|^2 / 2\sigma^2)` of all pairs, ``(N, D), (M, D) -> (N, M)``."""
    return squared_distances(x, y).mul_(-0.5 / sigma**2).exp_()


@dataclass(frozen=True)
class Within:
    """Kernels of all pairs of different examples of one set: mean, mean of each example ``(N,)``, and zeta, the
    mean square of the doubly centred kernel."""

    mean: float
    means: Tensor
    zeta: float


@dataclass(frozen=True)
class Between:
    """Kernels of all pairs of two sets: mean, means of each example of either, and zeta."""

    mean: float
    of_x: Tensor
    of_y: Tensor
    zeta: float


def within(x: Tensor, k: Kernel) -> Within:
    """Return what the pairs of different examples of x ``(N, D)``, N >= 2, come to, in x's dtype."""
    n = len(x)
    sums, squares = x.new_zeros(n), 0.0
    for rows, part in blocks(x, n):
        # Each pair once: with the rows before it the block is the mirror image of one that was seen.
        kernel = k(part, x[rows.start :])  # (b, n - start)
        kernel.diagonal().zero_()
        size = len(part)
        sums[rows] += kernel.sum(1)
        sums[rows.stop :] += kernel[:, size:].sum(0)
        squares += kernel[:, :size].square().sum().item() + 2 * kernel[:, size:].square().sum().item()
    mean = sums.sum().item() / (n * (n - 1))
    means = sums / (n - 1)
    zeta = squares / (n * (n - 1)) - mean * mean - 2 * means.var(correction=0).item()
    return Within(mean, means, max(0.0, zeta))


def between(x: Tensor, y: Tensor, k: Kernel) -> Between:
    """Return what the pairs of x ``(N, D)`` and y ``(M, D)`` come to, in their dtype."""
    of_x, of_y, squares = x.new_zeros(len(x)), x.new_zeros(len(y)), 0.0
    for rows, part in blocks(x, len(y)):
        kernel = k(part, y)
        of_x[rows] = kernel.mean(1)
        of_y += kernel.sum(0)
        squares += kernel.square().sum().item()
    of_y /= len(x)
    mean = of_x.mean().item()
    zeta = squares / (len(x) * len(y)) - mean * mean - of_x.var(correction=0).item() - of_y.var(correction=0).item()
    return Between(mean, of_x, of_y, max(0.0, zeta))
