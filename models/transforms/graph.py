r"""Transforms of what stands at the nodes and pairs of graphs of different sizes: what is not there passes unchanged.

A block normalizes, mixes and couples vectors of reals ``(B, n, d)`` with a mask ``(B, n)`` of those that are there.
Half of the numbers of every vector are moved by amounts that a graph network computes from the other halves of all.
(Lippe, Gavves 2021, Categorical normalizing flows via continuous transformations, arXiv:2006.09790, section 3.)
"""

import torch
from torch import Tensor, nn

from ..nn.graph_networks import EdgeGNN, RelationalGNN
from .actnorm import ActNorm
from .linear import LULinear
from .univariate import Univariate

__all__ = ["Mixed", "Moved", "NodeBlock", "PairBlock"]


class Mixed(nn.Module):
    """Activation normalization and a learned linear map, of each vector that is there.

    Arguments:
        dim: d.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.linear = ActNorm(dim), LULinear(dim)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.norm.waits_for_data:
            there = x[mask]
            if not _any_process_has(there):  # a batch of graphs without edges says nothing of them
                return x, x.new_zeros(len(x))
            self.norm.initialize(there)
        z, scaled = self.norm(x.flatten(0, 1))
        z, turned = self.linear(z)
        return _where(mask, z.unflatten(0, mask.shape), x, (scaled + turned).unflatten(0, mask.shape))

    def inverse(self, z: Tensor, mask: Tensor) -> Tensor:
        x = self.norm.decode(self.linear.decode(z.flatten(0, 1)))
        return torch.where(mask.unsqueeze(2), x.unflatten(0, mask.shape), z)


class Moved(nn.Module):
    """The law of a coupling: half of the numbers are kept, and the rest moved.

    Arguments:
        dim: d, at least 2.
        parity: 0 keeps the first half, 1 the second.
        law: What moves a number.
    """

    def __init__(self, dim: int, parity: int, law: Univariate) -> None:
        super().__init__()
        self.first, self.parity = dim // 2, parity
        self.n_moved = dim // 2 if parity == 1 else dim - dim // 2
        self.n_kept = dim - self.n_moved
        self.law = law

    @property
    def n_out(self) -> int:
        """Parameters that ``forward`` needs for each vector."""
        return self.law.n_parameters * self.n_moved

    def seen(self, x: Tensor, mask: Tensor) -> Tensor:
        """The kept halves, with zeros for vectors that are not there."""
        return self._split(x)[0] * mask.unsqueeze(2)

    def forward(self, x: Tensor, parameters: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self._split(x)
        moved, slope = self.law.forward(moved.flatten(0, 1), self._of_each(parameters, x))
        return _where(mask, self._joined(kept, moved), x, slope.sum(1).unflatten(0, mask.shape))

    def inverse(self, z: Tensor, parameters: Tensor, mask: Tensor) -> Tensor:
        kept, moved = self._split(z)
        moved, _ = self.law.inverse(moved.flatten(0, 1), self._of_each(parameters, z))
        return torch.where(mask.unsqueeze(2), self._joined(kept, moved), z)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept, and what is moved."""
        first, second = x[..., : self.first], x[..., self.first :]
        return (first, second) if self.parity == 0 else (second, first)

    def _joined(self, kept: Tensor, moved: Tensor) -> Tensor:
        moved = moved.unflatten(0, kept.shape[:2])
        return torch.cat([kept, moved] if self.parity == 0 else [moved, kept], 2)

    def _of_each(self, parameters: Tensor, x: Tensor) -> Tensor:
        return parameters.to(x.dtype).flatten(0, 1).unflatten(1, (self.law.n_parameters, self.n_moved))


class NodeBlock(nn.Module):
    """A block for the nodes of graphs whose edges are known, with a relational graph network.

    Arguments:
        dim: Numbers of each node, at least 2.
        parity: Which half is kept.
        law: What moves a number.
        edge_types: Types of edges L.
        channels, layers: Of the network.
    """

    def __init__(self, dim: int, parity: int, law: Univariate, edge_types: int, *, channels: int, layers: int) -> None:
        super().__init__()
        self.mixed, self.moved = Mixed(dim), Moved(dim, parity, law)
        self.network = RelationalGNN(self.moved.n_kept, self.moved.n_out, edge_types, channels=channels, layers=layers)

    def forward(self, x: Tensor, mask: Tensor, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, N, d)``, which are there, and indicators ``(B, N, L, N)`` to z and the log-determinant ``(B,)``."""
        x, mixed = self.mixed(x, mask)
        z, moved = self.moved(x, self.network(self.moved.seen(x, mask), adjacency), mask)
        return z, mixed + moved

    def inverse(self, z: Tensor, mask: Tensor, adjacency: Tensor) -> Tensor:
        x = self.moved.inverse(z, self.network(self.moved.seen(z, mask), adjacency), mask)
        return self.mixed.inverse(x, mask)


class PairBlock(nn.Module):
    """A block for nodes and pairs of nodes together, with an Edge-GNN.

    Arguments:
        dims: Numbers of each node and of each pair, at least 2.
        nodes: N.
        parity: Which half is kept.
        laws: What moves a number of a node, and of a pair.
        channels, pair_channels, layers: Of the network.
    """

    def __init__(
        self, dims: tuple[int, int], nodes: int, parity: int, laws: tuple[Univariate, Univariate],
        *, channels: int, pair_channels: int, layers: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.mixed = nn.ModuleList([Mixed(dim) for dim in dims])
        self.nodes, self.pairs = Moved(dims[0], parity, laws[0]), Moved(dims[1], parity, laws[1])
        self.network = EdgeGNN(
            (self.nodes.n_kept, self.pairs.n_kept), (self.nodes.n_out, self.pairs.n_out), nodes,
            channels=channels, pair_channels=pair_channels, layers=layers,
        )  # fmt: skip

    def forward(self, nodes: Tensor, pairs: Tensor, mask: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, N, .)``, ``(B, P, .)`` and which of each are there, to latents and the log-determinant ``(B,)``."""
        nodes, first = self.mixed[0](nodes, mask)
        pairs, second = self.mixed[1](pairs, present)
        for_nodes, for_pairs = self._parameters_for(nodes, pairs, mask, present)
        nodes, third = self.nodes(nodes, for_nodes, mask)
        pairs, fourth = self.pairs(pairs, for_pairs, present)
        return nodes, pairs, first + second + third + fourth

    def inverse(self, nodes: Tensor, pairs: Tensor, mask: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        for_nodes, for_pairs = self._parameters_for(nodes, pairs, mask, present)
        nodes, pairs = self.nodes.inverse(nodes, for_nodes, mask), self.pairs.inverse(pairs, for_pairs, present)
        return self.mixed[0].inverse(nodes, mask), self.mixed[1].inverse(pairs, present)  # type: ignore[operator]

    def _parameters_for(self, nodes: Tensor, pairs: Tensor, mask: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        made: tuple[Tensor, Tensor] = self.network(
            self.nodes.seen(nodes, mask), self.pairs.seen(pairs, present), present
        )
        return made


def _any_process_has(x: Tensor) -> bool:
    """Whether x has a row in some process. All processes must then take part in what they compute of all rows."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return len(x) > 0
    rows = torch.tensor(float(len(x)), device=x.device)
    torch.distributed.all_reduce(rows)
    return rows.item() > 0


def _where(mask: Tensor, moved: Tensor, kept: Tensor, log_terms: Tensor) -> tuple[Tensor, Tensor]:
    """Moved vectors where the mask says, and the sum of their log-terms, ``(B, n, d)`` and ``(B,)``."""
    return torch.where(mask.unsqueeze(2), moved, kept), (log_terms * mask).sum(1)
