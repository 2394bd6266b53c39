"""A baseline for models of graphs: nodes and edges by themselves."""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor

from .base import ClosedForm, GenerativeModel, HasLikelihood, Relation
from .graphs import SMOOTHING, NumberOfNodes, is_graph, pairs

__all__ = ["GraphIndependent"]


class GraphIndependent(GenerativeModel, HasLikelihood, ClosedForm):
    r"""Number of nodes, types of nodes and types of edges, counted in the training set; nothing depends on anything.

    .. math:: \log p(x) = \log p(n) + \sum_{i \le n} \log p(v_i) + \sum_{i < j \le n} \log p(e_{ij})

    With one type of nodes and edges it is the random graph of Erdős and Rényi (1959, On random graphs I) for every n.

    Arguments:
        shape, levels: Of one example.
        nodes: N, the largest number of nodes.
        node_types, edge_types: K and L.
        smoothing: alpha > 0, added to the counts of types: one that never occurred still has some mass. To the counts
            of numbers of nodes from 1 a hundredth is added, as in all models of graphs.

    Raises:
        ValueError: The smoothing is not positive.
    """

    family: ClassVar[str] = "baseline"
    kinds: ClassVar[frozenset[str]] = frozenset({"graphs"})
    likelihood_of: ClassVar[str] = "any-order"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        *,
        nodes: int,
        node_types: int,
        edge_types: int,
        smoothing: float = 0.5,
    ) -> None:
        super().__init__(shape, levels)
        if not smoothing > 0:
            raise ValueError(f"smoothing must be positive, not {smoothing}")
        self.nodes, self.smoothing = nodes, smoothing
        self.number = NumberOfNodes(nodes, SMOOTHING)
        self.log_nodes: Tensor  # of the types 1 .. K
        self.log_edges: Tensor  # of no edge and the types 1 .. L
        self.register_buffer("log_nodes", torch.full((node_types,), -math.log(node_types), dtype=torch.float64))
        self.register_buffer("log_edges", torch.full((edge_types + 1,), -math.log(edge_types + 1), dtype=torch.float64))

    @property
    def relation(self) -> Relation:
        return "exact"

    @property
    def n_parameters(self) -> int:
        """The free frequencies: N of the number of nodes from 0, K - 1 and L."""
        return self.nodes + len(self.log_nodes) - 1 + len(self.log_edges) - 1

    def fit(self, batches: Iterable[Tensor]) -> None:
        examples = list(batches)
        self.number.count(examples)
        nodes, edges = (self.smoothing + torch.zeros_like(p, device="cpu") for p in (self.log_nodes, self.log_edges))
        for x in examples:
            mask, both = self._present(x)
            nodes += torch.bincount(x[:, : self.nodes][mask].long().cpu() - 1, minlength=len(nodes))
            edges += torch.bincount(x[:, self.nodes :][both].long().cpu(), minlength=len(edges))
        self.log_nodes.copy_((nodes / nodes.sum()).log())
        self.log_edges.copy_((edges / edges.sum()).log())

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        graph = is_graph(x, self.nodes, len(self.log_nodes), len(self.log_edges) - 1)
        x = torch.where(graph[:, None], x, 0)
        mask, both = self._present(x)
        of_nodes = (self.log_nodes[x[:, : self.nodes].long().clamp(min=1) - 1] * mask).sum(1)
        of_edges = (self.log_edges[x[:, self.nodes :].long()] * both).sum(1)
        return torch.where(graph, self.number.log_prob(mask.sum(1)) + of_nodes + of_edges, -math.inf)

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Temperature changes nothing: what is drawn is types themselves, not latent noise."""
        size = self.number.sample(n, generator)
        mask = torch.arange(self.nodes, device=size.device) < size[:, None]

        def drawn(log_p: Tensor, entries: int) -> Tensor:
            return torch.multinomial(log_p.exp(), n * entries, replacement=True, generator=generator).view(n, entries)

        types = (drawn(self.log_nodes, self.nodes) + 1) * mask
        i, j = pairs(self.nodes, size.device)
        if len(i) == 0:
            return types.to(self.data_dtype)
        edges = drawn(self.log_edges, len(i)) * (mask[:, i] & mask[:, j])
        return torch.cat([types, edges], 1).to(self.data_dtype)

    def _present(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Which nodes are there, ``(B, N)`` bool, and at which pairs both are, ``(B, N(N-1)/2)`` bool."""
        mask = x[:, : self.nodes] > 0
        i, j = pairs(self.nodes, x.device)
        return mask, mask[:, i] & mask[:, j]
