"""What models of graphs share: sizes, masks, and the number of nodes, whose frequencies are counted."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from ..base import CountsTraining, GenerativeModel, HasLikelihood, ReportsCost
from ..graphs import SMOOTHING, NumberOfNodes, is_graph
from ..nn.graph_networks import Ends

__all__ = ["GraphModel", "Graphs", "indicators"]


class Graphs:
    """A batch of graphs, ready for networks.

    Attributes:
        types: Types of the nodes from 0, ``(B, N)`` int64; 0 too where there is no node.
        edges: Types of the edges of all pairs, ``(B, P)`` int64; 0 where there is none.
        mask: Which nodes are there, ``(B, N)`` bool.
        both: At which pairs both nodes are there, ``(B, P)`` bool.
    """

    def __init__(self, types: Tensor, edges: Tensor, mask: Tensor, both: Tensor) -> None:
        self.types, self.edges, self.mask, self.both = types, edges, mask, both


class GraphModel(GenerativeModel, HasLikelihood, CountsTraining, ReportsCost):
    """A distribution over graphs: how many nodes, as often as in the training examples, and the graph given that.

    To the count of each number of nodes from 1 a hundredth of an example is added.

    A base class: a model is a subclass.

    Arguments:
        shape, levels: Of one example.
        nodes: N, the largest number of nodes.
        node_types, edge_types: K and L.

    Attributes:
        ends: Which nodes the pairs join.
        number: p(n).
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"graphs"})
    cost_names: ClassVar[tuple[str, ...]] = ("passes_sample",)

    def __init__(self, shape: Iterable[int], levels: int | None, nodes: int, node_types: int, edge_types: int) -> None:
        super().__init__(shape, levels)
        self.nodes, self.node_types, self.edge_types = nodes, node_types, edge_types
        self.n_pairs = nodes * (nodes - 1) // 2
        self.ends = Ends(nodes)
        self.number = NumberOfNodes(nodes, SMOOTHING)

    def count(self, batches: Iterable[Tensor]) -> None:
        self.number.count(batches)

    @abstractmethod
    def passes(self) -> list[nn.Module]:
        """The networks whose calls in ``sample`` are counted."""

    def cost_report(self, x: Tensor, *, generator: Generator | None = None) -> dict[str, float]:
        """Calls of the networks, one after another, in one ``sample`` of as many examples."""
        count = 0

        def called(*_: object) -> None:
            nonlocal count
            count += 1

        hooks = [network.register_forward_hook(called) for network in self.passes()]
        try:
            self.sample(len(x), generator=generator)
        finally:
            for hook in hooks:
                hook.remove()
        return {"passes_sample": float(count)}

    def read(self, x: Tensor) -> Graphs:
        """Vectors ``(B, N + P)`` as types and masks. What is no graph is read as one of its places without nodes."""
        x = x.long() * self.are_graphs(x)[:, None]
        mask = x[:, : self.nodes] > 0
        return Graphs((x[:, : self.nodes] - 1).clamp(min=0), x[:, self.nodes :], mask, self.ends.both(mask))

    def write(self, types: Tensor, edges: Tensor, mask: Tensor) -> Tensor:
        """Types of nodes from 0 and of edges, and which nodes are there, as vectors ``(B, N + P)`` uint8."""
        return torch.cat([(types + 1) * mask, edges * self.ends.both(mask)], 1).to(torch.uint8)

    def are_graphs(self, x: Tensor) -> Tensor:
        return is_graph(x, self.nodes, self.node_types, self.edge_types)

    def log_number(self, x: Tensor, like: Tensor) -> Tensor:
        """log p(n), ``(B,)`` nats; minus infinity for vectors that are no graphs."""
        n = (x[:, : self.nodes] > 0).sum(1)
        return self.number.log_prob(n).masked_fill(~self.are_graphs(x), -torch.inf).to(like.dtype)

    def drawn_masks(self, n: int, generator: Generator | None) -> Tensor:
        """Which nodes are there in n graphs, drawn from p(n), ``(n, N)`` bool."""
        number = self.number.sample(n, generator)
        return torch.arange(self.nodes, device=number.device) < number[:, None]


def indicators(types: Tensor, n: int, like: Tensor) -> Tensor:
    """Types 0 .. n-1 of any shape to ``(..., n)`` zeros and ones in the dtype of ``like``.

    A comparison, because ``one_hot`` reads its argument's values, for which a device would have to wait.
    """
    return (types.unsqueeze(-1) == torch.arange(n, device=types.device)).to(like.dtype)
