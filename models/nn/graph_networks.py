"""Networks over graphs of up to N nodes, as conditioners of flows: permuted nodes have permuted outputs.

Nodes are ``(B, N, c)``. Edges are the pairs i < j in row-major order of the upper triangle, ``(B, P, c)`` with
P = N (N - 1) / 2. What a mask leaves out influences nothing else; what the networks give for it means nothing.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["EdgeGNN", "Ends", "RelationalGNN", "small"]


def small(layer: nn.Linear) -> nn.Linear:
    """The layer with its parameters made smaller: outputs start near 0, and not all equal."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.1)
    return layer


class Ends(nn.Module):
    """From nodes to pairs and back: which two nodes a pair joins.

    Sums are products with the incidence matrix, which are the same to the bit whenever they are repeated, on every
    device.

    Arguments:
        nodes: N.
    """

    def __init__(self, nodes: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(nodes, nodes, 1)
        incidence = torch.zeros(nodes, len(first))
        pair = torch.arange(len(first))
        incidence[first, pair] = 1
        incidence[second, pair] = 1
        place = torch.full((nodes, nodes), len(first))  # the last place is of no pair
        place[first, second] = place[second, first] = pair
        self.first: Tensor
        self.second: Tensor
        self.incidence: Tensor  # (N, P)
        self.place: Tensor  # (N, N)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.register_buffer("incidence", incidence, persistent=False)
        self.register_buffer("place", place, persistent=False)

    def to_pairs(self, nodes: Tensor) -> Tensor:
        """The sum over the two ends of each pair, ``(B, N, c) -> (B, P, c)``."""
        return self.incidence.to(nodes.dtype).T @ nodes

    def to_nodes(self, pairs: Tensor) -> Tensor:
        """The sum over the pairs of each node, ``(B, P, c) -> (B, N, c)``."""
        return self.incidence.to(pairs.dtype) @ pairs

    def both(self, mask: Tensor) -> Tensor:
        """Whether both ends are there, ``(B, N) -> (B, P)`` bool."""
        return mask[:, self.first] & mask[:, self.second]

    def symmetric(self, pairs: Tensor) -> Tensor:
        """``(B, P)`` as symmetric matrices ``(B, N, N)`` with zeros on the diagonal."""
        return functional.pad(pairs, (0, 1))[:, self.place]


class RelationalGNN(nn.Module):
    r"""A relational graph convolution network: each type of edge has its own weights for messages.

    .. math:: h_i \leftarrow h_i + W\, \mathrm{SiLU}\Big(W_0 u_i + \frac12
        \sum_r \sum_{j:\, e_{ij} = r} W_r u_j\Big), \quad u = \mathrm{LN}(h)

    where a half keeps the sums in range. (Schlichtkrull, Kipf, Bloem, van den Berg, Titov, Welling
    2018, Modeling relational data with graph convolutional networks, arXiv:1703.06103.) The residual form is ours.

    Arguments:
        n_in, n_out: Numbers of each node.
        relations: Types of edges R.
        channels, layers: Sizes inside.
        small_last: Whether outputs start small, as conditioners of flows want it.
    """

    def __init__(
        self, n_in: int, n_out: int, relations: int, *, channels: int, layers: int, small_last: bool = True
    ) -> None:
        super().__init__()
        self.relations = relations
        self.first = nn.Linear(n_in, channels)
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(layers)])
        self.own = nn.ModuleList([nn.Linear(channels, channels) for _ in range(layers)])
        self.messages = nn.ModuleList([nn.Linear(channels, relations * channels, bias=False) for _ in range(layers)])
        self.back = nn.ModuleList([nn.Linear(channels, channels) for _ in range(layers)])
        self.norm = nn.LayerNorm(channels)
        last = nn.Linear(channels, n_out)
        self.last = small(last) if small_last else last

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """``(B, N, n_in)`` and indicators of the types ``(B, N, R, N)``, floating-point, to ``(B, N, n_out)``."""
        joined = adjacency.flatten(2) / 2  # (B, N, R N)
        h = self.first(nodes)
        for norm, own, messages, back in zip(self.norms, self.own, self.messages, self.back, strict=True):
            u = norm(h)
            sent = messages(u).unflatten(2, (self.relations, -1)).transpose(1, 2).flatten(1, 2)  # (B, R N, c)
            h = h + back(functional.silu(own(u) + joined.to(sent.dtype) @ sent))
        made: Tensor = self.last(self.norm(h))
        return made


class EdgeGNN(nn.Module):
    r"""A graph network with states of nodes and of pairs, which update each other.

    .. math:: h_i \leftarrow h_i + f\Big(h_i, \frac{1}{\sqrt{N}} \sum_{j} g(e_{ij}, h_i + h_j)\Big), \quad
        e_{ij} \leftarrow e_{ij} + k(e_{ij}, h_i + h_j)

    with perceptrons f, g, k and sums over the pairs that the mask says (Lippe, Gavves 2021, Categorical normalizing
    flows via continuous transformations, arXiv:2006.09790, section 3.2; its updates of nodes are attention).

    Arguments:
        n_in, n_out: Numbers of each node and of each pair.
        nodes: N.
        channels, pair_channels, layers: Sizes inside.
    """

    def __init__(
        self, n_in: tuple[int, int], n_out: tuple[int, int], nodes: int,
        *, channels: int, pair_channels: int, layers: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.ends = Ends(nodes)
        self.scale = 1 / math.sqrt(max(1, nodes))
        self.first_nodes, self.first_pairs = nn.Linear(n_in[0], channels), nn.Linear(n_in[1], pair_channels)
        self.layers = nn.ModuleList([_EdgeGNNLayer(channels, pair_channels) for _ in range(layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(channels), nn.LayerNorm(pair_channels)])
        self.last_nodes = small(nn.Linear(channels, n_out[0]))
        self.last_pairs = small(nn.Linear(pair_channels, n_out[1]))

    def forward(self, nodes: Tensor, pairs: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, N, .)``, ``(B, P, .)`` and which pairs count, ``(B, P)`` bool, to outputs of the same two shapes."""
        h, e = self.first_nodes(nodes), self.first_pairs(pairs)
        weight = present.to(e.dtype).unsqueeze(2) * self.scale
        for layer in self.layers:
            h, e = layer(h, e, weight, self.ends)
        return self.last_nodes(self.norms[0](h)), self.last_pairs(self.norms[1](e))


class _EdgeGNNLayer(nn.Module):
    def __init__(self, channels: int, pair_channels: int) -> None:
        super().__init__()
        self.norm_nodes, self.norm_pairs = nn.LayerNorm(channels), nn.LayerNorm(pair_channels)
        self.tell = nn.Linear(channels, 2 * pair_channels, bias=False)  # what nodes say to their pairs
        self.hear = nn.Linear(pair_channels, 2 * pair_channels)
        self.change = nn.Linear(pair_channels, pair_channels)
        self.own, self.gather = nn.Linear(channels, channels), nn.Linear(pair_channels, channels, bias=False)
        self.back = nn.Linear(channels, channels)

    def forward(self, h: Tensor, e: Tensor, weight: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
        u, v = self.norm_nodes(h), self.norm_pairs(e)
        message, change = functional.silu(ends.to_pairs(self.tell(u)) + self.hear(v)).chunk(2, 2)
        h = h + self.back(functional.silu(self.own(u) + self.gather(ends.to_nodes(message * weight))))
        return h, e + self.change(change)
