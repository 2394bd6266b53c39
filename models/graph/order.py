r"""Orders of the nodes of a graph by breadth-first search, with their probabilities.

The search begins at a random node. Then it goes to the neighbours of the first node it met, in a random order, to those
of the second, and so on; where no neighbour is left, it begins again at another random node. Every choice is uniform,
and an order tells which choices were made, so

.. math:: q(\pi) = \prod_t \frac1{m_t}

with :math:`m_t` nodes that could have come at place t. Graphs are ``(B, N, N)`` bool, symmetric; absent nodes come
last in every order.
"""

import torch
from torch import Generator, Tensor

from ..distributions import uniform

__all__ = ["breadth_first", "log_breadth_first", "shuffled"]


def shuffled(mask: Tensor, like: Tensor, generator: Generator | None) -> Tensor:
    """Uniformly random orders of the nodes that are there, ``(B, N)`` bool to ``(B, N)`` int64."""
    return (uniform(mask.shape, like, generator) + 2.0 * ~mask).argsort(1)


def breadth_first(adjacent: Tensor, mask: Tensor, like: Tensor, generator: Generator | None) -> Tensor:
    """An order by breadth-first search for each graph, ``(B, N)`` int64: the node at each place."""
    batch, nodes = mask.shape
    # Among those that may come next the one with the smallest random number does; absent nodes come after all others.
    rank = uniform(mask.shape, like, generator) + 2.0 * nodes * ~mask
    met = torch.full_like(rank, float(nodes))  # the place of the first neighbour that has one
    placed = torch.zeros_like(mask)
    order: list[Tensor] = []
    for place in range(nodes):
        chosen = (rank + met).masked_fill(placed, torch.inf).argmin(1, keepdim=True)
        order.append(chosen)
        placed = placed.scatter(1, chosen, True)
        joined = adjacent.gather(1, chosen[:, :, None].expand(batch, 1, nodes)).squeeze(1)
        met = torch.where(joined, met.clamp(max=place), met)
    return torch.cat(order, 1)


def log_breadth_first(adjacent: Tensor, number: Tensor) -> Tensor:
    """log q of the order in which the nodes of the graphs stand, ``(B,)`` nats; minus infinity for no such order.

    Arguments:
        adjacent: ``(B, N, N)``, in the order.
        number: Nodes that are there, the first ones of each, ``(B,)``.
    """
    nodes = adjacent.shape[1]
    places = torch.arange(nodes, device=adjacent.device)
    met = torch.full(adjacent.shape[:2], nodes, device=adjacent.device)
    log_q = torch.zeros(len(adjacent), device=adjacent.device)
    for place in range(nodes):
        there = (places >= place) & (places < number[:, None])  # who may come at this place
        first = met.masked_fill(~there, nodes + 1).amin(1)
        tied = (there & (met == first[:, None])).sum(1)
        wrong = torch.where(met[:, place] == first, 0.0, torch.inf)
        log_q = log_q - torch.where(place < number, tied.clamp(min=1).log() + wrong, 0.0)
        met = torch.where(adjacent[:, place], met.clamp(max=place), met)
    return log_q
