r"""Undirected graphs as vectors, and how many nodes they have.

A graph of at most N nodes is a uint8 vector of N + N(N-1)/2 entries: first the types of the nodes, 1 .. K, or 0 where
there is no node, those that are there before those that are not; then the types of the edges, 1 .. L, or 0 where there
is none, of the pairs of nodes i < j, row after row of the upper triangle.

A model's likelihood is :math:`\log p(n) + \log p(\text{types of nodes and edges} \mid n)` over such vectors, so the
masses of all of them sum to 1.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

__all__ = [
    "SMOOTHING", "NumberOfNodes", "Unpacked", "is_graph", "largest_component", "pack", "pairs", "permute", "unpack",
]  # fmt: skip

SMOOTHING = 0.01
"""What models add to the count of each number of nodes. Where no training example is as small as one of the test set,
a likelihood of 0 would be all there is to say."""


class Unpacked(NamedTuple):
    """Graphs as tensors.

    Attributes:
        node_types: ``(B, N)`` int64.
        edge_types: ``(B, N, N)`` int64, symmetric, 0 on the diagonal.
        mask: Which nodes are there, ``(B, N)`` bool.
    """

    node_types: Tensor
    edge_types: Tensor
    mask: Tensor


def pairs(nodes: int, device: torch.device | None = None) -> Tensor:
    """Return the pairs i < j of nodes in the order of the entries, ``(2, N(N-1)/2)`` int64."""
    return torch.triu_indices(nodes, nodes, 1, device=device)


def unpack(x: Tensor, nodes: int) -> Unpacked:
    """Return graphs ``(B, N + N(N-1)/2)`` as tensors of types and the mask."""
    node_types, edges = x[:, :nodes].long(), x[:, nodes:].long()
    i, j = pairs(nodes, x.device)
    edge_types = edges.new_zeros(len(x), nodes, nodes)
    edge_types[:, i, j] = edges
    edge_types[:, j, i] = edges
    return Unpacked(node_types, edge_types, node_types > 0)


def pack(node_types: Tensor, edge_types: Tensor) -> Tensor:
    """Return types ``(B, N)`` and ``(B, N, N)`` as vectors ``(B, N + N(N-1)/2)`` uint8: the inverse of ``unpack``."""
    i, j = pairs(node_types.shape[1], node_types.device)
    return torch.cat([node_types, edge_types[:, i, j]], 1).to(torch.uint8)


def permute(x: Tensor, nodes: int, order: Tensor) -> Tensor:
    """Return graphs whose node i is node ``order[i]`` of x, for an order ``(N,)`` int64 of the places."""
    node_types, edge_types, _ = unpack(x, nodes)
    return pack(node_types[:, order], edge_types[:, order][:, :, order])


def is_graph(x: Tensor, nodes: int, node_types: int, edge_types: int) -> Tensor:
    """Return which vectors are graphs, ``(B,)`` bool: types in range, present nodes first, no edge at an absent one."""
    types, edges, mask = unpack(x, nodes)
    in_range = (types <= node_types).all(1) & (edges <= edge_types).flatten(1).all(1)
    first = (mask[:, :-1] >= mask[:, 1:]).all(1)
    held = ((edges == 0) | (mask[:, :, None] & mask[:, None])).flatten(1).all(1)
    return in_range & first & held


def largest_component(x: Tensor, nodes: int) -> Tensor:
    """Return the largest connected part of each graph; of parts of one size, that of the first node.

    Its nodes keep their order and come first; what else was there is gone.
    """
    node_types, edge_types, mask = unpack(x, nodes)
    joined = edge_types > 0
    part = torch.arange(nodes, device=x.device).expand(len(x), -1)  # in the end, the first node of each node's part
    for _ in range(nodes):
        part = part.minimum(part[:, None].masked_fill(~joined, nodes).amin(2))
    size = ((part[:, :, None] == part[:, None]) & mask[:, None]).sum(2) * mask
    kept = mask & (part == part.gather(1, size.argmax(1, keepdim=True)))
    order = (~kept).long().argsort(dim=1, stable=True)
    edge_types = edge_types * (kept[:, :, None] & kept[:, None])
    edge_types = edge_types.gather(1, order[:, :, None].expand_as(edge_types))
    edge_types = edge_types.gather(2, order[:, None].expand_as(edge_types))
    return pack((node_types * kept).gather(1, order), edge_types)


class NumberOfNodes(nn.Module):
    """p(n), the number of nodes: as often as in the training examples. Before they are counted all are equally likely.

    Arguments:
        nodes: N, the largest number.
        smoothing: Added to the counts of 1 .. N: a number that never occurred still has some mass.
    """

    def __init__(self, nodes: int, smoothing: float = 0.0) -> None:
        super().__init__()
        self.nodes, self.smoothing = nodes, smoothing
        self.probabilities: Tensor
        self.register_buffer("probabilities", torch.full((nodes + 1,), 1 / (nodes + 1), dtype=torch.float64))

    def count(self, batches: Iterable[Tensor]) -> None:
        """Set the frequencies from graphs, ``(B, N + N(N-1)/2)`` at a time."""
        counts = torch.full((self.nodes + 1,), self.smoothing, dtype=torch.float64)
        counts[0] = 0
        for batch in batches:
            present = (batch[:, : self.nodes] > 0).sum(1).cpu()
            counts += torch.bincount(present, minlength=self.nodes + 1)
        self.probabilities.copy_(counts / counts.sum())

    def log_prob(self, n: Tensor) -> Tensor:
        """Return log p(n) in nats, ``(B,) -> (B,)`` float64; minus infinity for numbers without mass."""
        return self.probabilities.log()[n]

    def sample(self, size: int, generator: Generator | None) -> Tensor:
        """Draw numbers of nodes, ``(size,)`` int64."""
        return torch.multinomial(self.probabilities, size, replacement=True, generator=generator)
