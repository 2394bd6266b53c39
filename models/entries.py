r"""What a network's outputs say of one entry of the data, given the entries before it.

Autoregressive models choose among these by name. Each makes a :class:`~models.distributions.Distribution` from
parameters ``(B, P, *shape)``; its entries are independent given the parameters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from .distributions import (
    DiscretizedLogistic,
    Distribution,
    bounded_log_scale,
    output_distribution,
    parameters_per_entry,
    uniform,
)

__all__ = ["OUTPUTS", "Categorical", "Entries", "LogisticMixture", "entries"]

OUTPUTS = ("logistic", "categorical", "mixture")
"""Names of output distributions for integers of more than two levels."""


@dataclass(frozen=True)
class Entries:
    """How outputs of a network are read.

    Attributes:
        n_parameters: P, numbers for each entry.
        distribution: Parameters ``(B, P, *shape)`` to the distribution of ``(B, *shape)``.
    """

    n_parameters: int
    distribution: Callable[[Tensor], Distribution]


def entries(output: str, levels: int | None, components: int = 1) -> Entries:
    """How outputs are read for data with ``levels``.

    Two levels are Bernoulli and reals are normal, whatever the name says.

    Arguments:
        output: ``logistic``, a discretized logistic; ``categorical``, a softmax over all levels; ``mixture``, a mixture
            of discretized logistics.
        levels: Number of integer levels, or None for real-valued data.
        components: Of the mixture.

    Raises:
        ValueError: There is no such output, or a mixture without components.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, not {output!r}")
    if components < 1:
        raise ValueError(f"components must be at least 1, not {components}")
    if levels is None or levels == 2 or output == "logistic":
        return Entries(parameters_per_entry(levels), lambda raw: output_distribution(raw, levels))
    if output == "categorical":
        return Entries(levels, lambda raw: Categorical(_in_float(raw)))
    return Entries(3 * components, lambda raw: LogisticMixture.from_symmetric(_in_float(raw), levels))


class Categorical(Distribution):
    r"""Integers 0 .. L-1 with :math:`P(k) = \mathrm{softmax}(\text{logits})_k`.

    Arguments:
        logits: ``(B, L, *shape)``.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, x: Tensor) -> Tensor:
        """``x``: integers 0 .. L-1, of any dtype."""
        return -cross_entropy(self.logits, x.long(), reduction="none").flatten(1).sum(1)

    def sample(self, generator: Generator | None = None) -> Tensor:
        return _drawn(self.logits, generator).to(torch.uint8)

    @property
    def median(self) -> Tensor:
        return (self.logits.softmax(1).cumsum(1)[:, :-1] < 0.5).sum(1).to(torch.uint8)


class LogisticMixture(Distribution):
    r"""A mixture of K discretized logistics for every entry, :math:`P(k) = \sum_j \pi_j P_j(k)`.

    (Salimans, Karpathy, Chen, Kingma 2017, PixelCNN++: Improving the PixelCNN with discretized logistic mixture
    likelihood and other modifications, arXiv:1701.05517, equations 1 and 2.)

    Arguments:
        logits: Of the weights :math:`\pi`, ``(B, K, *shape)``.
        components: With parameters ``(B, K, *shape)``.
    """

    def __init__(self, logits: Tensor, components: DiscretizedLogistic) -> None:
        self.logits, self.components = logits, components

    @classmethod
    def from_symmetric(cls, raw: Tensor, levels: int) -> "LogisticMixture":
        """From a network's output on the symmetric scale, ``(B, 3K, *shape)``: logits, means, raw log-scales.

        Outputs of zero put the means evenly over [-1, 1], so that the components differ from the start.
        """
        logits, means, scales = raw.unflatten(1, (3, -1)).unbind(1)
        k = logits.shape[1]
        spread = (2 * torch.arange(k, dtype=raw.dtype, device=raw.device) + 1) / k - 1
        half = (levels - 1) / 2
        means = (means + spread.view(-1, *[1] * (raw.dim() - 2)) + 1) * half
        return cls(logits, DiscretizedLogistic(means, bounded_log_scale(scales) + math.log(half), levels))

    def log_prob(self, x: Tensor) -> Tensor:
        """``x``: integers 0 .. L-1, of any dtype."""
        joint = self.logits.log_softmax(1) + self.components.log_masses(x[:, None])
        return joint.logsumexp(1).flatten(1).sum(1)

    def sample(self, generator: Generator | None = None) -> Tensor:
        chosen = _drawn(self.logits, generator)[:, None]
        mean = self.components.mean.gather(1, chosen)[:, 0]
        log_scale = self.components.log_scale.gather(1, chosen)[:, 0]
        return DiscretizedLogistic(mean, log_scale, self.components.levels).sample(generator)

    @property
    def median(self) -> Tensor:
        below, log_weights = torch.zeros_like(self.logits[:, 0]), self.logits.log_softmax(1)
        median = torch.zeros_like(below)
        for level in range(self.components.levels - 1):
            at = torch.full_like(below, level)[:, None]
            below = below + (log_weights + self.components.log_masses(at)).logsumexp(1).exp()
            median += below < 0.5
        return median.to(torch.uint8)


def _drawn(logits: Tensor, generator: Generator | None) -> Tensor:
    """Indices drawn from ``(B, K, *shape)`` logits, ``(B, *shape)`` int64, by inverting the cumulative weights."""
    weights = logits.softmax(1).cumsum(1)
    u = uniform(weights[:, 0].shape, weights, generator)
    # Weights that are rounded do not sum to 1 exactly; relative to their own sum, no index without weight is drawn.
    return (weights[:, :-1] <= (u * weights[:, -1])[:, None]).sum(1)


def _in_float(raw: Tensor) -> Tensor:
    # In half precision (autocast) a sum of log-probabilities over the entries would be off by whole nats.
    return raw.to(torch.promote_types(raw.dtype, torch.float32))
