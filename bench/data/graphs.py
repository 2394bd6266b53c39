r"""Random graphs whose density is known exactly: blocks of nodes, and edges that depend on them.

The stochastic block model (Holland, Laskey, Leinhardt 1983, "Stochastic blockmodels: first steps", Social Networks
5(2)). The number of nodes n is uniform in M .. N, each node is of one of K blocks, and each pair of nodes has an edge
by itself:

.. math:: \log p(x) = -\log (N - M + 1) - n \log K + \sum_{i < j \le n} \log p(e_{ij} \mid v_i = v_j)

It is the row ``oracle`` of every table. The types of the nodes are the blocks. The examples are drawn with a fixed seed
of the data set, each split from its own stream of ``numpy.random.RandomState``.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Tensor

from bench.data.base import Data, Split
from bench.errors import UserError
from bench.schema import DataSpec, GraphSpec, Kind
from bench.seeds import derive_seed
from models.graphs import is_graph, pack, unpack

__all__ = ["Blocks", "stochastic_blocks"]

_SEED = 20251127
_VERSION = 1  # increase it when the same arguments give other examples
_AT_ONCE = 1024  # graphs whose edges are drawn together: 20,000 of 100 nodes would take gigabytes


@dataclass(frozen=True)
class Blocks:
    """The distribution of the graphs; arguments as in ``stochastic_blocks``."""

    nodes: int
    blocks: int
    within: float
    between: float
    least: int = 1

    @property
    def graph(self) -> GraphSpec:
        return GraphSpec(self.nodes, self.blocks, 1, random_order=True)

    def draw(self, size: int, rng: RandomState) -> Tensor:
        """Return independent graphs, ``(size, N + N(N-1)/2)`` uint8."""
        present = np.arange(self.nodes) < rng.randint(self.least, self.nodes + 1, (size, 1))
        types = rng.randint(1, self.blocks + 1, (size, self.nodes)) * present
        parts = [self._joined(types[k : k + _AT_ONCE], rng) for k in range(0, size, _AT_ONCE)]
        return torch.cat(parts)

    def _joined(self, types: NDArray[np.int64], rng: RandomState) -> Tensor:
        """Graphs of nodes of these types, ``(B, N)`` to ``(B, N + N(N-1)/2)``, with edges drawn."""
        u = rng.random_sample((len(types), self.nodes, self.nodes))
        p = np.where(types[:, :, None] == types[:, None], self.within, self.between)
        present = types > 0
        edges = np.triu((u < p) & present[:, :, None] & present[:, None], 1)
        return pack(torch.from_numpy(types), torch.from_numpy(edges))

    def valid(self, x: Tensor) -> Tensor:
        """Return which vectors are graphs of M to N nodes, ``(B, D) -> (B,)`` bool."""
        return is_graph(x, self.nodes, self.blocks, 1) & (x[:, self.least - 1] > 0)

    def log_density(self, x: Tensor) -> Tensor:
        """Return log p(x), ``(B, D) -> (B,)`` float64, minus infinity for what is no graph."""
        types, edges, mask = unpack(x, self.nodes)
        within, between = torch.tensor([self.within, self.between], dtype=torch.float64)
        p = torch.where(types[:, :, None] == types[:, None], within, between)
        log_p = torch.where(edges > 0, p.log(), (-p).log1p())
        both = (mask[:, :, None] & mask[:, None]).triu(1)
        of_edges = torch.where(both, log_p, 0.0).flatten(1).sum(1)
        total = of_edges - math.log(self.nodes - self.least + 1) - mask.sum(1).double() * math.log(self.blocks)
        return torch.where(self.valid(x), total, -math.inf)


def stochastic_blocks(
    nodes: int = 16,
    blocks: int = 2,
    within: float = 0.7,
    between: float = 0.1,
    n_train: int = 20_000,
    n_val: int = 2_000,
    n_test: int = 5_000,
    *,
    least: int = 1,
) -> Data:
    """Return graphs of M to N nodes in blocks, ``(size, N + N(N-1)/2)`` uint8 (``bench.schema.GraphSpec``).

    Arguments:
        nodes: N, 1 to 100.
        least: M, 1 to N.
        blocks: K, 1 to 255, equally likely.
        within, between: Probabilities of an edge between two nodes of one block, and of two.
        n_train, n_val, n_test: Sizes of the splits.

    Raises:
        UserError: An argument is out of range.
    """
    sizes = {"n_train": n_train, "n_val": n_val, "n_test": n_test}
    for name, value in {"nodes": nodes, "least": least, "blocks": blocks, **sizes}.items():
        most = {"nodes": 100, "least": nodes, "blocks": 255}.get(name, 10_000_000)
        if not 1 <= value <= most:
            raise UserError(f"data.{name}={value}: must be from 1 to {most}")
    for name, p in (("within", within), ("between", between)):
        if not 0 < p < 1:
            raise UserError(f"data.{name}={p}: a probability between 0 and 1 is expected")
    made = Blocks(nodes, blocks, within, between, least)
    train, val, test = (
        Split(made.draw(size, RandomState(derive_seed(_SEED, "stochastic_blocks", split) % 2**32)))
        for size, split in zip(sizes.values(), ("train", "val", "test"), strict=True)
    )
    recipe = repr((made, sizes, _SEED, _VERSION))
    spec = DataSpec(
        "stochastic_blocks", hashlib.sha256(recipe.encode()).hexdigest()[:16], made.graph.shape, made.graph.levels,
        n_train, n_val, n_test, licence="none needed: generated", source="generated", kind=Kind.GRAPHS,
        graph=made.graph,
    )  # fmt: skip
    return Data(spec, train, val, test, log_density=made.log_density, valid=made.valid)
