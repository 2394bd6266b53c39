r"""Contractive residual blocks, z = x + g(x), and ways to their log-determinant.

.. math:: \log\det(I + J) = \sum_{k=1}^\infty \frac{(-1)^{k+1}}{k} \operatorname{tr}(J^k), \qquad
    J = \partial g / \partial x

converges where g is a contraction (Behrmann, Grathwohl, Chen, Duvenaud, Jacobsen 2019, Invertible residual networks,
arXiv:1811.00995).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from ..base import Relation
from ..distributions import standard_normal, uniform
from ..nn.lipschitz import tighten
from .base import Transform, full_precision
from .jacobian import EXACT_DIM, jacobian

__all__ = ["Residual", "Roulette", "Series", "Truncated"]

MAX_ITERATIONS = 1000


class Series(ABC):
    """A choice of the power series' terms. Subclasses are final and frozen."""

    @abstractmethod
    def weights(self, generator: Generator | None, like: Tensor) -> list[float]:
        """Factors a_1 .. a_n of the first n terms; later terms have the factor 0. Random numbers as for ``like``."""


@dataclass(frozen=True)
class Truncated(Series):
    r"""The first n terms (Behrmann et al. 2019). With a probe's estimate of each trace the bias is at most

    .. math:: D \sum_{k>n} \frac{L^k}{k} \le \frac{D\,L^{n+1}}{(n+1)(1-L)}

    nats, L being the Lipschitz constant of g.
    """

    terms: int

    def weights(self, generator: Generator | None, like: Tensor) -> list[float]:
        return [1.0] * self.terms


@dataclass(frozen=True)
class Roulette(Series):
    r"""The first m terms, and N more; a further term k has the factor 1 / P(N >= k - m), its mean 1: no bias.

    N is geometric on 1, 2, .., :math:`P(N \ge j) = (1-p)^{j-1}` (Chen, Behrmann, Duvenaud, Jacobsen 2019, Residual
    flows for invertible generative modeling, arXiv:1906.02735: p = 1/2, m = 2 in training and 20 in evaluation). One N
    is drawn for a whole batch. The variance is finite for certain where :math:`L^2 < 1 - p`, L being the Lipschitz
    constant of g.

    Attributes:
        exact_terms: m.
        stop: p.
    """

    exact_terms: int
    stop: float = 0.5

    def weights(self, generator: Generator | None, like: Tensor) -> list[float]:
        go_on = 1 - self.stop
        u = uniform((), like.new_empty((), dtype=torch.float64), generator).item()
        further = 1 + math.floor(math.log1p(-u) / math.log(go_on))
        return [1.0] * self.exact_terms + [go_on**-j for j in range(further)]


class Residual(Transform):
    r"""z = x + g(x) with a contraction g.

    In training and where examples have more than ``exact_dim`` entries, the log-determinant is estimated from the terms
    of a series with one Gaussian probe v an example (Hutchinson 1990):

    .. math:: \sum_k \frac{(-1)^{k+1}}{k} a_k\, v^\top J^k v, \qquad E[v v^\top] = I

    In evaluation with at most ``exact_dim`` entries it is the log-determinant of the whole Jacobian, and the relation
    is ``exact``.

    The gradient in training is not that of the sum above, for which all n powers would have to be kept: it is that of

    .. math:: \operatorname{sg}\Big(\sum_k (-1)^{k+1} a_k\, v^\top J^{k-1}\Big) J v

    (Chen et al. 2019, eq. 8, the Neumann series), of the same mean, by one differentiable product instead of n. Its
    value would be no log-determinant; the value returned is that of the first sum, so that a training loss is an
    unbiased estimate where the series is.

    ``inverse`` repeats x = z - g(x), from x = z, until a step moves no example further than 16 eps (1 + |x|), in
    the 2-norm, eps being the relative rounding error: 1.9e-6 in float32, 3.6e-15 in float64. The distance to the fixed
    point is then at most L / (1 - L) as much. No gradient flows through it, and with more than ``exact_dim``
    entries its log-determinant is NaN: an estimate needs random numbers, which an inverse does not draw.

    Everything is computed in the dtype of x, also under autocast. Layers with a Lipschitz bound are tightened before
    each training step (see :class:`models.nn.lipschitz.LipschitzLayer`).

    Arguments:
        branch: g, ``(B, *shape)`` to the same. It must treat examples independently.
        dim: Number D of entries of one example.
        train_series, eval_series: Terms of the log-determinant in training and in evaluation.
        exact_dim: Largest D for which evaluation takes the whole Jacobian.

    Attributes:
        terms: Terms of the series in the last forward pass; 0 where it was exact.
        iterations: Evaluations of g in the last inverse.

    Raises:
        ArithmeticError: ``inverse`` found no fixed point, because g is no contraction.
    """

    inverse_kind = "iterative"

    def __init__(
        self, branch: nn.Module, dim: int, *, train_series: Series, eval_series: Series, exact_dim: int = EXACT_DIM
    ) -> None:
        super().__init__()
        self.branch = branch
        self.train_series = train_series
        self.eval_series = eval_series
        self.exact = dim <= exact_dim
        self.terms = 0
        self.iterations = 0

    @property
    def relation(self) -> Relation:
        return "exact" if self.exact else "estimate"

    @property
    def repeatable(self) -> bool:
        return False  # training draws probes, whatever evaluation does

    @torch.compiler.disable  # compiled code cannot be differentiated twice
    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        differentiable = torch.is_grad_enabled()
        if self.training and differentiable:
            tighten(self.branch)
        with full_precision(x), torch.enable_grad():
            x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
            g = self.branch(x)
            if self.exact and not self.training:
                self.terms = 0
                log_det = _log_det(g, x, create_graph=differentiable)
            else:
                series = self.train_series if self.training else self.eval_series
                weights = series.weights(generator, x)
                self.terms = len(weights)
                probe = standard_normal(x.shape, x, generator)
                estimate = _neumann if self.training and differentiable else _power_series
                log_det = estimate(g, x, probe, weights, create_graph=differentiable)
            z = x + g
        return (z, log_det) if differentiable else (z.detach(), log_det.detach())

    @torch.no_grad()
    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.decode(z)
        if not self.exact:
            return x, x.new_full((len(x),), math.nan)
        with full_precision(z), torch.enable_grad():
            inner = x.detach().requires_grad_()
            log_det = _log_det(self.branch(inner), inner, create_graph=False)
        return x, -log_det.detach()

    @torch.no_grad()
    def decode(self, z: Tensor, *, context: Tensor | None = None) -> Tensor:
        with full_precision(z):
            return self._fixed_point(z)

    def _fixed_point(self, z: Tensor) -> Tensor:
        tolerance = 16 * torch.finfo(z.dtype).eps
        x, settled = z, torch.zeros(len(z), dtype=torch.bool, device=z.device)
        for iteration in range(1, MAX_ITERATIONS + 1):
            moved = z - self.branch(x)
            step = (moved - x).flatten(1).norm(dim=1)
            # An example that has settled stays where it is, whatever the others in its batch still need.
            x = torch.where(settled.view(-1, *[1] * (z.dim() - 1)), x, moved)
            settled = settled | (step.isfinite() & (step <= tolerance * (1 + x.flatten(1).norm(dim=1))))
            if settled.all():
                self.iterations = iteration
                return x
        raise ArithmeticError(f"no fixed point in {MAX_ITERATIONS} iterations: the residual branch is no contraction")


def _log_det(g: Tensor, x: Tensor, *, create_graph: bool) -> Tensor:
    j = jacobian(g, x, create_graph=create_graph)
    return torch.linalg.slogdet(torch.eye(j.shape[1], dtype=j.dtype, device=j.device) + j).logabsdet


def _power_series(g: Tensor, x: Tensor, probe: Tensor, weights: Sequence[float], *, create_graph: bool) -> Tensor:
    """The estimate of the log-determinant, ``(B,)``, differentiable on demand."""
    power, total = probe, x.new_zeros(len(x))
    for k, weight in enumerate(weights, start=1):
        (power,) = torch.autograd.grad(g, x, power, create_graph=create_graph, retain_graph=True)  # v^T J^k
        total = total + (-1) ** (k + 1) / k * weight * _dot(power, probe)
    return total


def _neumann(g: Tensor, x: Tensor, probe: Tensor, weights: Sequence[float], *, create_graph: bool) -> Tensor:
    r"""The same value, with the gradient of the Neumann series.

    The differentiable product with v is the sum of all :math:`s_k = (-1)^{k+1} a_k v^\top J^k v`, so

    .. math:: \sum_{k=1}^n \frac{s_k}{k} = \frac1n \sum_{k=1}^n s_k + \sum_{k=1}^{n-1} \Big(\frac1k - \frac1n\Big) s_k

    and the n-th power needs no product of its own.
    """
    n = len(weights)
    power, neumann, rest = probe, weights[0] * probe, torch.zeros_like(probe)
    for k in range(1, n):
        (power,) = torch.autograd.grad(g, x, power, retain_graph=True)  # v^T J^k
        sign = (-1) ** k
        neumann = neumann.add(power, alpha=sign * weights[k])
        rest = rest.add(power, alpha=-sign * weights[k - 1] * (1 / k - 1 / n))
    (product,) = torch.autograd.grad(g, x, neumann, create_graph=create_graph)
    surrogate = _dot(product, probe)
    return surrogate + (_dot(rest, probe) - (1 - 1 / n) * surrogate.detach())


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
