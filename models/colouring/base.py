"""What models of the colours of given graphs share: what they read of an example, and how they are sampled."""

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot
from torch.optim import Optimizer

from ..base import GenerativeModel, HasLikelihood, OptimizerFactory, SamplesGiven
from ..graphs import unpack

__all__ = ["ColouringModel", "Given"]


class Given(NamedTuple):
    """Graphs whose nodes are to be coloured.

    Attributes:
        mask: Which nodes are there, ``(B, N)`` bool.
        adjacency: Indicators of the types of edges, ``(B, N, L, N)``, floating-point.
    """

    mask: Tensor
    adjacency: Tensor

    @property
    def degrees(self) -> Tensor:
        """Number of neighbours, ``(B, N)``."""
        return self.adjacency.sum((2, 3))


class ColouringModel(GenerativeModel, HasLikelihood, SamplesGiven):
    r"""A distribution of the colours of the nodes, given which nodes there are and their edges.

    The likelihood is :math:`\log p(c \mid G)`: over all colours of one graph the masses sum to 1. A base class: a model
    is a subclass that implements ``log_weight``, ``colours`` and perhaps ``loss``.

    Arguments:
        shape, levels: Of one example.
        optimizer: Makes the optimizer from the parameters.
        nodes, node_types, edge_types: N, the number of colours K, and L.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"colourings"})

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        nodes: int,
        node_types: int,
        edge_types: int,
    ) -> None:
        super().__init__(shape, levels)
        self.make_optimizer = optimizer
        self.nodes, self.n_colours, self.edge_types = nodes, node_types, edge_types

    @abstractmethod
    def colours(self, given: Given, temperature: float, generator: Generator | None) -> Tensor:
        """Draw colours 0 .. K-1 of all places, ``(B, N)`` int64; those of absent nodes are not looked at."""

    @property
    def cannot_sample(self) -> str:
        return "it colours graphs that are given"

    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        raise NotImplementedError(self.cannot_sample)

    @torch.no_grad()
    def sample_given(self, x: Tensor, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Graphs ``(B, D)`` with new colours."""
        _, given = self.read(x)
        drawn = (self.colours(given, temperature, generator) + 1) * given.mask
        return torch.cat([drawn.to(x.dtype), x[:, self.nodes :]], 1)

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    def read(self, x: Tensor) -> tuple[Tensor, Given]:
        """Examples ``(B, D)`` as colours from 0, ``(B, N)`` int64, 0 too where there is no node, and graphs."""
        types, edges, mask = unpack(x, self.nodes)
        like = next(self.parameters())
        adjacency = one_hot(edges, self.edge_types + 1)[..., 1:].movedim(3, 2).to(like.dtype)
        return (types - 1).clamp(min=0), Given(mask, adjacency)

    @staticmethod
    def bits_a_node(nats: Tensor, given: Given) -> Tensor:
        """The mean over graphs of nats ``(B,)`` over the number of nodes, in bits."""
        return (nats / given.mask.sum(1).clamp(min=1)).mean() / math.log(2)
