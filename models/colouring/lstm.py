r"""Graph colouring one node after another, those with the most neighbours first.

.. math:: \log p(c \mid G) = \sum_{t \le n} \log p(c_{v_t} \mid G, c_{v_1}, \dots, c_{v_{t-1}})

The order is that of the greedy algorithm of Welsh and Powell (1967, An upper bound for the chromatic number of a graph
and its application to timetabling problems, The Computer Journal 10(1)); of nodes with as many neighbours the one that
is listed first is coloured first. It is the baseline "RNN, largest first" of Lippe and Gavves (2021), Categorical
normalizing flows via continuous transformations, arXiv:2006.09790.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import one_hot, pad

from ..base import Batch, OptimizerFactory, Relation
from ..distributions import gumbel
from ..nn.graph_networks import RelationalGNN
from ..options import at_least
from .base import ColouringModel, Given

__all__ = ["ColouringLSTM", "largest_first"]


class ColouringLSTM(ColouringModel):
    """A graph network looks at the graph, and an LSTM colours its nodes.

    The LSTM is told at each step what the network says of the node, how many of its neighbours have each colour so far,
    and the last colour.

    Arguments:
        shape, levels: Of one example.
        optimizer: Makes the optimizer from the parameters.
        nodes, node_types, edge_types: N, the number of colours K, and L.
        hidden: Units of the LSTM.
        channels, layers: Of the graph network.

    Raises:
        ValueError: An option is out of range.
    """

    family: ClassVar[str] = "autoregressive"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        nodes: int,
        node_types: int,
        edge_types: int,
        hidden: int = 128,
        channels: int = 64,
        layers: int = 3,
    ) -> None:
        super().__init__(shape, levels, optimizer, nodes, node_types, edge_types)
        at_least(1, hidden=hidden, channels=channels, layers=layers)
        self.network = RelationalGNN(1, channels, edge_types, channels=channels, layers=layers, small_last=False)
        self.recurrent = nn.LSTM(channels + (1 + edge_types) * node_types, hidden, batch_first=True)
        self.last = nn.Linear(hidden, node_types)

    @property
    def relation(self) -> Relation:
        return "exact"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """log p(colours | graph), ``(B, D) -> (B,)`` nats."""
        return self._log_prob(*self.read(x))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """-log p(colours | graph) in bits a node."""
        colours, given = self.read(batch[0])
        return self.bits_a_node(-self._log_prob(colours, given), given)

    def colours(self, given: Given, temperature: float, generator: Generator | None) -> Tensor:
        """Node after node. ``temperature`` multiplies the Gumbel noise by which a colour is drawn."""
        order, mask, adjacency, seen = self._ordered(given)
        colours = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
        coloured = seen.new_zeros(*mask.shape, self.n_colours)  # indicators of those drawn so far
        last, state = coloured[:, 0], None
        for t in range(self.nodes):
            beside = (adjacency[:, t] @ coloured).flatten(1)
            hidden, state = self.recurrent(torch.cat([seen[:, t], beside, last], 1)[:, None], state)
            logits = self.last(hidden[:, 0])
            colours[:, t] = (logits + temperature * gumbel(logits, generator)).argmax(1)
            last = one_hot(colours[:, t], self.n_colours).to(seen.dtype) * mask[:, t, None]
            coloured[:, t] = last
        return torch.zeros_like(colours).scatter(1, order, colours)

    def _log_prob(self, colours: Tensor, given: Given) -> Tensor:
        order, mask, adjacency, seen = self._ordered(given)
        colours = colours.gather(1, order)
        coloured = one_hot(colours, self.n_colours).to(seen.dtype) * mask.unsqueeze(2)  # (B, N, K)
        beside = (adjacency.transpose(1, 2).tril(-1) @ coloured.unsqueeze(1)).transpose(1, 2).flatten(2)
        told = torch.cat([seen, beside, pad(coloured[:, :-1], (0, 0, 1, 0))], 2)
        log_probs = self.last(self.recurrent(told)[0]).log_softmax(2)
        return (log_probs.gather(2, colours.unsqueeze(2)).squeeze(2) * mask).sum(1)

    def _ordered(self, given: Given) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The order of the nodes ``(B, N)``, and in it the mask, the adjacency, and what the network says of each."""
        order = largest_first(given)
        constant = given.adjacency.new_ones(*order.shape, 1)
        seen = self.network(constant, given.adjacency)  # (B, N, channels)
        seen = seen.gather(1, order[:, :, None].expand_as(seen))
        rows = given.adjacency.gather(1, order[:, :, None, None].expand_as(given.adjacency))
        adjacency = rows.gather(3, order[:, None, None, :].expand_as(rows))
        return order, given.mask.gather(1, order), adjacency, seen


def largest_first(given: Given) -> Tensor:
    """Return the nodes from the most neighbours to the fewest, then absent ones, ``(B, N)`` int64."""
    return (given.degrees + given.mask).argsort(dim=1, descending=True, stable=True)
