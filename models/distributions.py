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
    "OUTPUTS",
    "Bernoulli",
    "DiagonalGaussian",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Distribution",
    "bounded_log_scale",
    "from_symmetric",
    "output_distribution",
    "parameters_per_entry",
    "gumbel",
    "log_standard_normal",
    "standard_normal",
    "to_symmetric",
    "uniform",
]

MIN_LOG_SCALE, MAX_LOG_SCALE = -7.0, 7.0

OUTPUTS = ("bernoulli", "logistic", "mixture", "gaussian")
"""Kinds of output distributions by name: one for binary data, two for more levels, one for reals."""


def standard_normal(shape: Iterable[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """N(0, 1) numbers of ``shape`` with the device and dtype of ``like``.

    They are drawn where the generator lives, so that one generator on the CPU gives every device the same numbers.
    """
    device = like.device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=like.dtype).to(like.device)


def log_standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats, ``(B, *shape) -> (B,)``."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)


def uniform(shape: Iterable[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1) of ``shape``, with the device and dtype of ``like``; drawn as ``standard_normal``."""
    device = like.device if generator is None else generator.device
    return torch.rand(tuple(shape), generator=generator, device=device, dtype=like.dtype).to(like.device)


def gumbel(like: Tensor, generator: Generator | None) -> Tensor:
    """Standard Gumbel noise: the argmax of logits plus such noise is a draw from their softmax."""
    tiny = torch.finfo(like.dtype).tiny
    return -(-uniform(like.shape, like, generator).clamp(min=tiny).log()).log()


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

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """The mean of every entry before any rounding and clipping, ``(B, *shape)`` reals in the data's own unit.

        Differentiable with respect to the parameters.
        """


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
        self.location, self.log_scale, self.levels = mean, log_scale, levels

    @property
    def mean(self) -> Tensor:
        return self.location

    def log_prob(self, x: Tensor) -> Tensor:
        """``x``: integers 0 .. L-1, of any dtype."""
        return _log_mass(x.to(self.mean.dtype), self.mean, self.log_scale, self.levels).flatten(1).sum(1)

    def sample(self, generator: Generator | None = None) -> Tensor:
        return _to_level(_logistic(self.mean, self.log_scale, generator), self.levels)

    @property
    def median(self) -> Tensor:
        # Rounding is monotone, so it takes the logistic's median to the median.
        return _to_level(self.mean, self.levels)


class DiscretizedLogisticMixture(Distribution):
    r"""Mixtures of M logistic variables rounded to the nearest of the integers 0 .. L-1; the edges take the tails.

    .. math:: P(k) = \sum_m \pi_m \Big[\sigma\!\left(\tfrac{k + 1/2 - \mu_m}{s_m}\right)
        - \sigma\!\left(\tfrac{k - 1/2 - \mu_m}{s_m}\right)\Big], \qquad \pi = \operatorname{softmax}(l)

    Each entry has a mixture of its own, and given the parameters the entries are independent: the channels of a pixel
    too, which the source makes depend on each other.

    References:
        Salimans, Karpathy, Chen, Kingma (2017): PixelCNN++: Improving the PixelCNN with discretized logistic mixture
        likelihood and other modifications, arXiv:1701.05517.

    Arguments:
        logits: l, ``(B, M, *shape)``.
        means: :math:`\mu`, ``(B, M, *shape)``, in levels.
        log_scales: :math:`\log s`, ``(B, M, *shape)``, s in levels; ranges as for one logistic.
        levels: L, from 2 to 256.

    Raises:
        ValueError: ``levels`` is out of range.
    """

    def __init__(self, logits: Tensor, means: Tensor, log_scales: Tensor, levels: int) -> None:
        if not 2 <= levels <= 256:
            raise ValueError(f"levels must be from 2 to 256, not {levels}")
        self.log_weights = logits.log_softmax(1)
        self.means, self.log_scales, self.levels = means, log_scales, levels

    def log_prob(self, x: Tensor) -> Tensor:
        """``x``: integers 0 .. L-1, of any dtype."""
        log_mass = _log_mass(x.to(self.means.dtype).unsqueeze(1), self.means, self.log_scales, self.levels)
        return (self.log_weights + log_mass).logsumexp(1).flatten(1).sum(1)

    def sample(self, generator: Generator | None = None) -> Tensor:
        # The maximum of l_m plus Gumbel noise is at m with probability pi_m.
        u = uniform(self.means.shape, self.means, generator).clamp(min=torch.finfo(self.means.dtype).tiny)
        chosen = (self.log_weights - torch.log(-torch.log(u))).argmax(1, keepdim=True)
        mean, log_scale = (each.gather(1, chosen).squeeze(1) for each in (self.means, self.log_scales))
        return _to_level(_logistic(mean, log_scale, generator), self.levels)

    @property
    def mean(self) -> Tensor:
        return (self.log_weights.exp() * self.means).sum(1)

    @property
    def median(self) -> Tensor:
        """The smallest level k with P(x <= k) >= 1/2, found by bisection over the levels."""
        low = torch.zeros_like(self.means[:, 0])
        high = torch.full_like(low, self.levels - 1)  # the CDF is 1 at the last level
        for _ in range((self.levels - 1).bit_length()):
            middle = ((low + high) / 2).floor()
            at_most = torch.sigmoid((middle.unsqueeze(1) + 0.5 - self.means) * torch.exp(-self.log_scales))
            reached = (self.log_weights.exp() * at_most).sum(1) >= 0.5
            low, high = torch.where(reached, low, middle + 1).minimum(high), torch.where(reached, middle, high)
        return high.to(torch.uint8)


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

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)


class DiagonalGaussian(Distribution):
    r"""Independent normal entries :math:`N(\mu, \sigma^2)`.

    Arguments:
        mean: :math:`\mu`, ``(B, *shape)``.
        log_scale: :math:`\log \sigma`, ``(B, *shape)``.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self.location, self.log_scale = mean, log_scale

    @property
    def mean(self) -> Tensor:
        return self.location

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


def parameters_per_entry(levels: int | None, output: str | None = None, components: int = 10) -> int:
    """How many numbers P a network must give for each entry of the data: 1 (binary data), 2, or 3 a component.

    Arguments: as for ``output_distribution``, which they are passed to as well.

    Raises:
        ValueError: ``output`` does not suit the data, or ``components`` is below 1.
    """
    kind = _kind(levels, output)
    if kind == "mixture" and components < 1:
        raise ValueError(f"components must be at least 1, not {components}")
    return {"bernoulli": 1, "logistic": 2, "mixture": 3 * components, "gaussian": 2}[kind]


def output_distribution(
    parameters: Tensor, levels: int | None, output: str | None = None, components: int = 10
) -> Distribution:
    """The distribution of data with ``levels``, from a network's output on the symmetric scale.

    ``bernoulli`` for two levels (a logit); for more ``logistic``, a discretized logistic (mean and raw log-scale on
    [-1, 1]), or ``mixture``, a mixture of them (the logits of all components, then their means, then their raw
    log-scales); for reals ``gaussian``, diagonal (mean and raw log-scale, in the data's own unit). Log-scales are
    bounded below, and those of a mixture above.

    Arguments:
        parameters: ``(B, P, *shape)`` with P from ``parameters_per_entry``.
        levels: As in the data.
        output: One of ``OUTPUTS``; None: the first that suits the data.
        components: Number M of logistics of a ``mixture``; the others do not read it.

    Raises:
        ValueError: ``output`` does not suit the data, or ``parameters`` has another P.
    """
    expected, kind = parameters_per_entry(levels, output, components), _kind(levels, output)
    if parameters.shape[1] != expected:
        raise ValueError(f"expected {expected} numbers an entry, not {parameters.shape[1]}")
    # In half precision (autocast) a sum of log-probabilities over the entries would be off by whole nats.
    parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
    if kind == "bernoulli":
        return Bernoulli(parameters[:, 0])
    if levels is None:
        return DiagonalGaussian(parameters[:, 0], bounded_log_scale(parameters[:, 1]))
    half = (levels - 1) / 2
    if kind == "logistic":
        mean, log_scale = parameters[:, 0], bounded_log_scale(parameters[:, 1])
        return DiscretizedLogistic((mean + 1) * half, log_scale + math.log(half), levels)
    logits, means, raw = parameters.chunk(3, dim=1)  # (B, M, *shape) each
    # Above as well: nothing holds the scale of a component without weight, and it would overflow.
    log_scales = bounded_log_scale(raw).clamp(max=MAX_LOG_SCALE)
    return DiscretizedLogisticMixture(logits, (means + 1) * half, log_scales + math.log(half), levels)


def _kind(levels: int | None, output: str | None) -> str:
    """The kind of output distribution for data with ``levels``: the one asked for, or the first that suits them."""
    suitable = ("gaussian",) if levels is None else ("bernoulli",) if levels == 2 else ("logistic", "mixture")
    if output is not None and output not in suitable:
        data = "real-valued data" if levels is None else f"data with {levels} levels"
        known = "" if output in OUTPUTS else f"there is no output {output!r}; "
        raise ValueError(f"output: {known}{data} take {' or '.join(suitable)}, not {output}")
    return suitable[0] if output is None else output


def _log_mass(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Log-mass of the integers x under rounded logistics whose tails belong to the edges, entry by entry."""
    width = torch.exp(-log_scale)  # of one level, in units of s
    above = (x + 0.5 - mean) * width
    below = (x - 0.5 - mean) * width
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): none of the three logarithms cancels, and
    # at an edge two of them are exactly 0. a - b is the width, exact even where a and b are large and alike.
    first, last = x <= 0, x >= levels - 1
    zero = torch.zeros_like(above)
    return (
        torch.where(last, zero, functional.logsigmoid(above))
        + torch.where(first, zero, functional.logsigmoid(-below))
        + torch.where(first | last, zero, torch.log(-torch.expm1(-width)))
    )


def _logistic(mean: Tensor, log_scale: Tensor, generator: Generator | None) -> Tensor:
    u = uniform(mean.shape, mean, generator).clamp(min=torch.finfo(mean.dtype).tiny)
    return mean + torch.exp(log_scale) * torch.logit(u)


def _to_level(y: Tensor, levels: int) -> Tensor:
    return y.round().clamp(0, levels - 1).to(torch.uint8)
