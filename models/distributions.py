r"""Output distributions of decoders, over the data's own space, and the noise they are sampled with.

Every distribution has independent entries and a leading batch dimension: its parameters are ``(B, *shape)``, its
``log_prob`` sums over the entries to ``(B,)`` nats, and its ``sample`` draws one example for each row.

Networks do not work in levels 0 .. L-1 but on the symmetric scale [-1, 1] (``to_symmetric``);
``output_distribution`` takes their output on that scale back to the data.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Generator, Tensor
from torch.nn import functional

__all__ = [
    "Bernoulli",
    "DiagonalGaussian",
    "DiscretizedLogistic",
    "Distribution",
    "bounded_log_scale",
    "from_symmetric",
    "output_distribution",
    "parameters_per_entry",
    "standard_normal",
    "to_symmetric",
    "uniform",
]

MIN_LOG_SCALE = -7.0


def standard_normal(shape: Iterable[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """N(0, 1) numbers of ``shape`` with the device and dtype of ``like``.

    They are drawn where the generator lives, so that one generator on the CPU gives every device the same numbers.
    """
    device = like.device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=like.dtype).to(like.device)


def uniform(shape: Iterable[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1) of ``shape``, with the device and dtype of ``like``; drawn as ``standard_normal``."""
    device = like.device if generator is None else generator.device
    return torch.rand(tuple(shape), generator=generator, device=device, dtype=like.dtype).to(like.device)


def to_symmetric(x: Tensor, levels: int | None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Integer levels 0 .. L-1 to [-1, 1], by 2x / (L-1) - 1. Reals pass as they are."""
    x = x.to(dtype)
    return x if levels is None else 2 * x / (levels - 1) - 1


def from_symmetric(y: Tensor, levels: int | None) -> Tensor:
    """The inverse of ``to_symmetric``, rounded to the nearest level (uint8). Reals pass as float32."""
    if levels is None:
        return y.to(torch.float32)
    return ((y + 1) / 2 * (levels - 1)).round().clamp(0, levels - 1).to(torch.uint8)


class Distribution(ABC):
    """A distribution over ``(B, *shape)`` with independent entries."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-mass or log-density in nats, summed over the entries: ``(B, *shape) -> (B,)``."""

    @abstractmethod
    def sample(self, generator: Generator | None = None) -> Tensor:
        """One draw for each row, ``(B, *shape)``, in the data's dtype."""

    @property
    @abstractmethod
    def median(self) -> Tensor:
        """The median of every entry, ``(B, *shape)``, in the data's dtype: a typical value that is itself data."""


class DiscretizedLogistic(Distribution):
    r"""Logistic variables rounded to the nearest of the integers 0 .. L-1; the edges take the tails.

    .. math:: P(k) = \sigma\!\left(\tfrac{k + 1/2 - \mu}{s}\right) - \sigma\!\left(\tfrac{k - 1/2 - \mu}{s}\right)

    with the first term 1 at k = L-1 and the second 0 at k = 0, so that the masses of an entry sum to 1.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling (2016): Improving variational inference with inverse
        autoregressive flow, arXiv:1606.04934.
        Salimans, Karpathy, Chen, Kingma (2017): PixelCNN++: Improving the PixelCNN with discretized logistic mixture
        likelihood and other modifications, arXiv:1701.05517.

    Arguments:
        mean: :math:`\mu`, ``(B, *shape)``, in levels.
        log_scale: :math:`\log s`, ``(B, *shape)``, s in levels. In float32 values and gradients are finite for
            -80 <= log_scale <= 80 and abs(mean) <= 1e3.
        levels: L, from 2 to 256.

    Raises:
        ValueError: ``levels`` is out of range.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor, levels: int) -> None:
        if not 2 <= levels <= 256:
            raise ValueError(f"levels must be from 2 to 256, not {levels}")
        self.mean, self.log_scale, self.levels = mean, log_scale, levels

    def log_prob(self, x: Tensor) -> Tensor:
        """``x``: integers 0 .. L-1, of any dtype."""
        return self.log_masses(x).flatten(1).sum(1)

    def log_masses(self, x: Tensor) -> Tensor:
        """Log-mass of every entry in nats, of the shape that x and the parameters have together."""
        x = x.to(self.mean.dtype)
        width = torch.exp(-self.log_scale)  # of one level, in units of s
        above = (x + 0.5 - self.mean) * width
        below = (x - 0.5 - self.mean) * width
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): none of the three logarithms cancels, and
        # at an edge two of them are exactly 0. a - b is the width, exact even where a and b are large and alike.
        first, last = x <= 0, x >= self.levels - 1
        zero = torch.zeros_like(above)
        return (
            torch.where(last, zero, functional.logsigmoid(above))
            + torch.where(first, zero, functional.logsigmoid(-below))
            + torch.where(first | last, zero, torch.log(-torch.expm1(-width)))
        )

    def sample(self, generator: Generator | None = None) -> Tensor:
        u = uniform(self.mean.shape, self.mean, generator).clamp(min=torch.finfo(self.mean.dtype).tiny)
        return self._to_level(self.mean + torch.exp(self.log_scale) * torch.logit(u))

    @property
    def median(self) -> Tensor:
        # Rounding is monotone, so it takes the logistic's median to the median.
        return self._to_level(self.mean)

    def _to_level(self, y: Tensor) -> Tensor:
        return y.round().clamp(0, self.levels - 1).to(torch.uint8)


class Bernoulli(Distribution):
    r"""Binary entries, :math:`P(1) = \sigma(\text{logit})`.

    Arguments:
        logits: ``(B, *shape)``.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, x: Tensor) -> Tensor:
        """``x``: zeros and ones, of any dtype."""
        return functional.logsigmoid((2 * x.to(self.logits.dtype) - 1) * self.logits).flatten(1).sum(1)

    def sample(self, generator: Generator | None = None) -> Tensor:
        u = uniform(self.logits.shape, self.logits, generator)
        return (u < torch.sigmoid(self.logits)).to(torch.uint8)

    @property
    def median(self) -> Tensor:
        return (self.logits > 0).to(torch.uint8)


class DiagonalGaussian(Distribution):
    r"""Independent normal entries :math:`N(\mu, \sigma^2)`.

    Arguments:
        mean: :math:`\mu`, ``(B, *shape)``.
        log_scale: :math:`\log \sigma`, ``(B, *shape)``.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self.mean, self.log_scale = mean, log_scale

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x - self.mean) * torch.exp(-self.log_scale)
        return (-0.5 * z**2 - self.log_scale - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def sample(self, generator: Generator | None = None) -> Tensor:
        """Differentiable with respect to the parameters (reparameterized)."""
        return self.mean + torch.exp(self.log_scale) * standard_normal(self.mean.shape, self.mean, generator)

    @property
    def median(self) -> Tensor:
        return self.mean

    def kl_to_standard(self) -> Tensor:
        r"""KL divergence from N(0, 1), :math:`\sum \tfrac12 (\mu^2 + \sigma^2 - 1) - \log \sigma`, ``(B,)`` nats."""
        kl = 0.5 * (self.mean**2 + torch.expm1(2 * self.log_scale)) - self.log_scale
        return kl.flatten(1).sum(1)


def bounded_log_scale(raw: Tensor) -> Tensor:
    """A log-scale above -7 (a scale above 0.0009), smooth, and equal to ``raw`` to 0.001 where that is above 0.

    The likelihood of real data has no upper bound where a scale may go to 0; the bound is soft so that its gradient
    never dies.
    """
    return MIN_LOG_SCALE + functional.softplus(raw - MIN_LOG_SCALE)


def parameters_per_entry(levels: int | None) -> int:
    """How many numbers P a network must give for each entry of the data: 1 (binary data) or 2."""
    return 1 if levels == 2 else 2


def output_distribution(parameters: Tensor, levels: int | None) -> Distribution:
    """The distribution of data with ``levels``, from a network's output on the symmetric scale.

    Bernoulli for two levels (a logit), a discretized logistic for more (mean and raw log-scale on [-1, 1]), a
    diagonal Gaussian for reals (mean and raw log-scale, in the data's own unit). Log-scales are bounded below.

    Arguments:
        parameters: ``(B, P, *shape)`` with P from ``parameters_per_entry``.
        levels: As in the data.

    Raises:
        ValueError: ``parameters`` has another P.
    """
    if parameters.shape[1] != parameters_per_entry(levels):
        raise ValueError(f"expected {parameters_per_entry(levels)} numbers an entry, not {parameters.shape[1]}")
    # In half precision (autocast) a sum of log-probabilities over the entries would be off by whole nats.
    parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
    if levels == 2:
        return Bernoulli(parameters[:, 0])
    mean, log_scale = parameters[:, 0], bounded_log_scale(parameters[:, 1])
    if levels is None:
        return DiagonalGaussian(mean, log_scale)
    half = (levels - 1) / 2
    return DiscretizedLogistic((mean + 1) * half, log_scale + math.log(half), levels)
