r"""Encodings of categories as vectors of reals, for flows.

An encoding draws a vector z for every category from :math:`q(z|x)` and has a decoder :math:`p(x|z)`. With a flow's
density :math:`p(z)` of all vectors together,

.. math:: w = \frac{p(z)\, p(x|z)}{q(z|x)}, \quad z \sim q(z|x), \quad E[w] = \int p(z)\, p(x|z)\, dz = p(x).

Both terms are products over the entries of x, but for q of the variational encoding and of variational dequantization,
which are flows over all of them. Every q is made from logistic noise, whose tails are thicker than those of p(z), which
comes from normal noise: the variance of w is finite only if far out q is not much smaller than p.
(Lippe, Gavves 2021, Categorical normalizing flows via continuous transformations, arXiv:2006.09790.)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, one_hot

from ..distributions import gumbel, uniform
from ..nn.mlp import MLP
from .base import Chain, Transform
from .coupling import halves, vector_coupling
from .dequantize import Dequantization, UniformDequantization, VariationalDequantization
from .linear import LULinear
from .univariate import Affine

__all__ = [
    "DEQUANTIZATIONS", "ENCODINGS", "OF_EACH", "Dequantized", "Encoding", "LinearFlows", "LogisticMixture",
    "Variational", "encoding",
]  # fmt: skip

ENCODINGS = ("mixture", "linear_flows", "variational")
"""Names of encodings as vectors."""

DEQUANTIZATIONS = ("uniform_dequantization", "variational_dequantization")
"""Names of encodings as one number for each entry."""


class Encoding(nn.Module, ABC):
    """Categories 0 .. L-1 ``(B, n)`` as vectors ``(B, d, n, 1)``, and back. Subclasses are final."""

    @abstractmethod
    def encode(self, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draw z from q(z|x), ``(B, d, n, 1)``, and return log q(z|x) besides, ``(B,)`` nats."""

    @abstractmethod
    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) for z drawn from q(z|x), ``(B,)`` nats."""

    @abstractmethod
    def decode(self, z: Tensor, temperature: float, generator: Generator | None) -> Tensor:
        """Draw x from p(x|z), ``(B, n)`` int64; at temperature 0 its most probable categories."""


class _Decoded(Encoding):
    """Each vector is decoded by itself, to a distribution over the categories."""

    @abstractmethod
    def logits(self, z: Tensor) -> Tensor:
        """Logits of p(x|z), ``(B, d, n, 1) -> (B, L, n)``."""

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        return -cross_entropy(self.logits(z), x, reduction="none").sum(1)

    def decode(self, z: Tensor, temperature: float, generator: Generator | None) -> Tensor:
        logits = self.logits(z)
        return (logits if temperature == 0 else logits + temperature * gumbel(logits, generator)).argmax(1)


class _OfEach(_Decoded):
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
        noise = _logistic(mean.shape, mean, generator)
        log_q = _log_logistic(noise) - log_scale
        return (mean + log_scale.exp() * noise).mT.unsqueeze(3), log_q.flatten(1).sum(1)

    def log_densities(self, z: Tensor) -> Tensor:
        u = (z[:, None] - self.means) * (-self.log_scales).exp()  # (N, L, d)
        return (_log_logistic(u) - self.log_scales).sum(2)


class LinearFlows(_OfEach):
    """A logistic bent by affine couplings that know the category.

    Arguments:
        levels: L.
        dim: d, at least 2.
        couplings: Number of couplings.
        hidden: Units of their networks.
    """

    def __init__(self, levels: int, dim: int, *, couplings: int = 4, hidden: int = 32) -> None:
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
        noise = _logistic((len(category), self.dim), self.means, generator)
        z, log_det = self.flow.inverse(noise, context=self._context(category))
        log_q = _log_logistic(noise).sum(1) - log_det
        z = (z + self.means[category]).unflatten(0, x.shape)
        return z.mT.unsqueeze(3), log_q.unflatten(0, x.shape).sum(1)

    def log_densities(self, z: Tensor) -> Tensor:
        category = torch.arange(self.levels, device=z.device).repeat(len(z))
        moved = z.repeat_interleave(self.levels, 0) - self.means[category]
        noise, log_det = self.flow(moved, context=self._context(category))
        return (_log_logistic(noise).sum(1) + log_det).unflatten(0, (len(z), self.levels))

    def _context(self, category: Tensor) -> Tensor:
        return one_hot(category, self.levels).to(self.means.dtype)


OF_EACH: dict[str, Callable[[int, int], Encoding]] = {"mixture": LogisticMixture, "linear_flows": LinearFlows}
"""Encodings that need nothing but the entry itself, so that they also serve nodes and edges of graphs."""


class Variational(_Decoded):
    """A flow over all vectors together that knows all categories; a network decodes each vector by itself.

    Arguments:
        levels: L.
        dim: d.
        flow: From noise to z, vectors ``(B, d, n, 1)``, with the indicators ``(B, L, n, 1)`` as context. Its inverse is
            not needed.
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
        noise = _logistic((len(x), self.dim, x.shape[1], 1), self.means, generator)
        z, log_det = self.flow(noise, context=_indicators(x, self.levels, noise))
        log_q = _log_logistic(noise).flatten(1).sum(1) - log_det
        return z + self.means[x].mT.unsqueeze(3), log_q

    def logits(self, z: Tensor) -> Tensor:
        each = self.decoder(z.squeeze(3).mT.flatten(0, 1))
        made: Tensor = each.unflatten(0, (len(z), -1)).mT
        return made


class Dequantized(Encoding):
    r"""Categories as numbers with noise, :math:`z = \operatorname{logit}((x + u) / L)`, d = 1: they get an order.

    Cells of different categories do not overlap, so that z has one x and log p(x|z) = 0.

    Arguments:
        dequantization: Draws the noise, for ``(B, 1, n, 1)``.
    """

    def __init__(self, dequantization: Dequantization) -> None:
        super().__init__()
        self.dequantization = dequantization
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)  # has the model's dtype

    def encode(self, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        y, log_term = self.dequantization(x[:, None, :, None].to(self.like.dtype), generator=generator)
        log_y, log_rest = y.log(), (1 - y).log()  # y is on a grid on which 1 - y is exact
        return log_y - log_rest, (log_y + log_rest).flatten(1).sum(1) - log_term

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        return z.new_zeros(len(z))

    def decode(self, z: Tensor, temperature: float, generator: Generator | None) -> Tensor:
        level: Tensor = self.dequantization.decode(z.sigmoid())
        return level.flatten(1).long()


class _Indicators(nn.Module):
    """Levels as the variational dequantization scales them, ``(B, 1, n, 1)``, to their indicators ``(B, L, n, 1)``."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        level = ((x + 1) / 2 * (self.levels - 1)).round().long()
        return _indicators(level.flatten(1), self.levels, x)


def encoding(name: str, levels: int, dim: int, flow: Callable[[int], Transform]) -> Encoding:
    """The encoding of this name.

    Arguments:
        levels: L.
        dim: d; of a dequantization 1.
        flow: Makes a flow over sets of vectors with so many numbers of context for each, for those with a flow of their
            own.

    Raises:
        ValueError: There is no encoding of this name, or ``dim`` does not suit it.
    """
    if name not in (*ENCODINGS, *DEQUANTIZATIONS):
        raise ValueError(f"encoding must be one of {', '.join((*ENCODINGS, *DEQUANTIZATIONS))}, not {name!r}")
    if name in DEQUANTIZATIONS:
        if dim != 1:
            raise ValueError(f"encoding_dim must be 1 where the encoding is {name}, not {dim}")
        uniform_noise = name == "uniform_dequantization"
        return Dequantized(
            UniformDequantization(levels)
            if uniform_noise
            else VariationalDequantization(levels, flow(levels), _Indicators(levels))
        )
    if dim < 2:
        raise ValueError(f"encoding_dim must be at least 2, not {dim}")
    return OF_EACH[name](levels, dim) if name in OF_EACH else Variational(levels, dim, flow(levels))


def _indicators(x: Tensor, levels: int, like: Tensor) -> Tensor:
    """``(B, n) -> (B, L, n, 1)``."""
    return one_hot(x, levels).to(like.dtype).mT.unsqueeze(3)


def _logistic(shape: Iterable[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Standard logistic noise."""
    tiny = torch.finfo(like.dtype).eps
    u = uniform(shape, like, generator).clamp(tiny, 1 - tiny)
    return u.log() - (-u).log1p()


def _log_logistic(u: Tensor) -> Tensor:
    return logsigmoid(u) + logsigmoid(-u)
