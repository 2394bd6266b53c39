r"""What a network's outputs say of one entry of the data, given the entries before it.

Autoregressive models choose among these by name. Each makes a :class:`~models.distributions.Distribution` from
parameters ``(B, P, *shape)``; its entries are independent given the parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from .distributions import (
    Distribution,
    output_distribution,
    parameters_per_entry,
    uniform,
)

__all__ = ["OUTPUTS", "Categorical", "Entries", "entries"]

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
    return Entries(3 * components, lambda raw: output_distribution(_spread(raw), levels, "mixture", components))


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
    def mean(self) -> Tensor:
        levels = torch.arange(self.logits.shape[1], dtype=self.logits.dtype, device=self.logits.device)
        return torch.einsum("bl...,l->b...", self.logits.softmax(1), levels)

    @property
    def median(self) -> Tensor:
        return (self.logits.softmax(1).cumsum(1)[:, :-1] < 0.5).sum(1).to(torch.uint8)


def _drawn(logits: Tensor, generator: Generator | None) -> Tensor:
    """Indices drawn from ``(B, K, *shape)`` logits, ``(B, *shape)`` int64, by inverting the cumulative weights."""
    weights = logits.softmax(1).cumsum(1)
    u = uniform(weights[:, 0].shape, weights, generator)
    # Weights that are rounded do not sum to 1 exactly; relative to their own sum, no index without weight is drawn.
    return (weights[:, :-1] <= (u * weights[:, -1])[:, None]).sum(1)


def _spread(raw: Tensor) -> Tensor:
    """Parameters of a mixture ``(B, 3K, *shape)`` with means that lie evenly over [-1, 1] where the network gives 0.

    So the components differ from the start.
    """
    logits, means, scales = raw.chunk(3, dim=1)
    k = means.shape[1]
    spread = (2 * torch.arange(k, dtype=raw.dtype, device=raw.device) + 1) / k - 1
    return torch.cat([logits, means + spread.view(-1, *[1] * (raw.dim() - 2)), scales], 1)


def _in_float(raw: Tensor) -> Tensor:
    # In half precision (autocast) a sum of log-probabilities over the entries would be off by whole nats.
    return raw.to(torch.promote_types(raw.dtype, torch.float32))
