r"""Encodings of categories as vectors of reals, for flows.

An encoding draws a vector z for every category from :math:`q(z|x)` and has a decoder :math:`p(x|z)`. With a flow's
density :math:`p(z)` of all vectors together,

.. math:: w = \frac{p(z)\, p(x|z)}{q(z|x)}, \quad z \sim q(z|x), \quad E[w] = \int p(z)\, p(x|z)\, dz = p(x).

Both terms are products over the entries of x, but for the variational encoding, whose q is a flow over all of them.
(Lippe, Gavves 2021, Categorical normalizing flows via continuous transformations, arXiv:2006.09790.)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid, one_hot

from ..distributions import gumbel, log_standard_normal, standard_normal, uniform
from ..nn.mlp import MLP
from .base import Chain, Transform
from .coupling import halves, vector_coupling
from .linear import LULinear
from .univariate import Affine

__all__ = ["ENCODINGS", "Encoding", "LinearFlows", "LogisticMixture", "Variational", "encoding"]

ENCODINGS = ("mixture", "linear_flows", "variational")
"""Names of encodings."""


class Encoding(nn.Module, ABC):
    """Categories 0 .. L-1 ``(B, n)`` as vectors ``(B, d, n, 1)``, and back. Subclasses are final."""

    @abstractmethod
    def encode(self, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw z from q(z|x), ``(B, d, n, 1)``, and return log q(z|x) besides, ``(B,)`` nats."""

    @abstractmethod
    def logits(self, z: Tensor) -> Tensor:
        """Logits of p(x|z), ``(B, d, n, 1) -> (B, L, n)``."""

    def decode(self, z: Tensor, temperature: float, generator: Generator | None) -> Tensor:
        """Draw x from p(x|z), ``(B, n)`` int64; at temperature 0 its most probable categories."""
        logits = self.logits(z)
        return (logits + temperature * gumbel(logits, generator)).argmax(1)


class _OfEach(Encoding):
    r"""Every category has a density of its own over z, and the decoder is the posterior over categories:

    .. math:: p(x|z) = \frac{\pi_x\, q(z|x)}{\sum_k \pi_k\, q(z|k)}
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.prior = nn.Parameter(torch.zeros(levels))

    @abstractmethod
    def log_densities(self, z: Tensor) -> Tensor:
        """log q(z|k) for every k: ``(N, d) -> (N, L)``."""

    def logits(self, z: Tensor) -> Tensor:
        each = z.squeeze(3).mT.flatten(0, 1)  # (B n, d)
        joint = self.log_densities(each) + self.prior.log_softmax(0)
        return joint.unflatten(0, (len(z), -1)).mT


class LogisticMixture(_OfEach):
    """A logistic with a mean and a scale of its own for each category and each of the d numbers.

    Means start spread like a standard normal, with scales of 1: broad enough for the weights w to have small variance.

    Arguments:
        levels: L.
        dim: d.
    """

    def __init__(self, levels: int, dim: int) -> None:
        super().__init__(levels)
        self.means = nn.Parameter(torch.randn(levels, dim))
        self.log_scales = nn.Parameter(torch.zeros(levels, dim))

    def encode(self, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.means[x], self.log_scales[x]  # (B, n, d)
        tiny = torch.finfo(mean.dtype).eps
        u = uniform(mean.shape, mean, generator).clamp(tiny, 1 - tiny)
        noise = u.log() - (-u).log1p()
        log_q = _log_logistic(noise) - log_scale
        return (mean + log_scale.exp() * noise).mT.unsqueeze(3), log_q.flatten(1).sum(1)

    def log_densities(self, z: Tensor) -> Tensor:
        u = (z[:, None] - self.means) * (-self.log_scales).exp()  # (N, L, d)
        return (_log_logistic(u) - self.log_scales).sum(2)


class LinearFlows(_OfEach):
    """A normal bent by affine couplings that know the category.

    Arguments:
        levels: L.
        dim: d, at least 2.
        couplings: Number of couplings.
        hidden: Units of their networks.
    """

    def __init__(self, levels: int, dim: int, *, couplings: int = 4, hidden: int = 64) -> None:
        super().__init__(levels)
        parts: list[Transform] = []
        for i in range(couplings):
            kept, moved = halves(dim, i % 2)
            parts += [
                LULinear(dim),
                vector_coupling(kept, moved, Affine(), hidden=hidden, depth=1, n_context=levels, zero_last=False),
            ]
        self.dim = dim
        self.flow = Chain(*parts)  # from z to noise
        # A shift for each category, from the start: what tells categories apart from the first step on.
        self.means = nn.Parameter(0.5 * torch.randn(levels, dim))

    def encode(self, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        category = x.flatten()
        noise = standard_normal((len(category), self.dim), self.means, generator)
        z, log_det = self.flow.inverse(noise, context=self._context(category))
        log_q = log_standard_normal(noise) - log_det
        z = (z + self.means[category]).unflatten(0, x.shape)
        return z.mT.unsqueeze(3), log_q.unflatten(0, x.shape).sum(1)

    def log_densities(self, z: Tensor) -> Tensor:
        category = torch.arange(self.levels, device=z.device).repeat(len(z))
        moved = z.repeat_interleave(self.levels, 0) - self.means[category]
        noise, log_det = self.flow(moved, context=self._context(category))
        return (log_standard_normal(noise) + log_det).unflatten(0, (len(z), self.levels))

    def _context(self, category: Tensor) -> Tensor:
        return one_hot(category, self.levels).to(self.means.dtype)


class Variational(Encoding):
    """A flow over all vectors together that knows all categories; a network decodes each vector by itself.

    Arguments:
        levels: L.
        dim: d.
        flow: From z to noise, vectors ``(B, d, n, 1)``, with the indicators ``(B, L, n, 1)`` as context.
        hidden: Units of the decoder.
    """

    def __init__(self, levels: int, dim: int, flow: Transform, *, hidden: int = 64) -> None:
        super().__init__()
        self.levels = levels
        self.dim = dim
        self.flow = flow
        self.means = nn.Parameter(0.5 * torch.randn(levels, dim))
        self.decoder = MLP(dim, levels, hidden=hidden, depth=1)

    def encode(self, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        context = one_hot(x, self.levels).to(self.means.dtype).mT.unsqueeze(3)  # (B, L, n, 1)
        noise = standard_normal((len(x), self.dim, x.shape[1], 1), self.means, generator)
        z, log_det = self.flow.inverse(noise, context=context)
        log_q = log_standard_normal(noise) - log_det
        return z + self.means[x].mT.unsqueeze(3), log_q

    def logits(self, z: Tensor) -> Tensor:
        each = self.decoder(z.squeeze(3).mT.flatten(0, 1))
        made: Tensor = each.unflatten(0, (len(z), -1)).mT
        return made


def encoding(name: str, levels: int, dim: int, flow: Callable[[int], Transform]) -> Encoding:
    """The encoding of this name.

    Arguments:
        levels: L.
        dim: d.
        flow: Makes a flow over sets of vectors with so many numbers of context for each, for the variational encoding.

    Raises:
        ValueError: There is no encoding of this name.
    """
    if name == "mixture":
        return LogisticMixture(levels, dim)
    if name == "linear_flows":
        return LinearFlows(levels, dim)
    if name == "variational":
        return Variational(levels, dim, flow(levels))
    raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, not {name!r}")


def _log_logistic(u: Tensor) -> Tensor:
    return logsigmoid(u) + logsigmoid(-u)
