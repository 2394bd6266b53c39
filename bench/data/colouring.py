r"""Random graphs with proper colourings: of each graph, all colourings are equally likely.

So no model of the colours of a given graph can need fewer bits than the logarithm of their number,

.. math:: E\Big[\tfrac{1}{n} \log_2 \#\text{colourings}\Big] \text{ bits a node,}

which is the row ``oracle`` of every table; the colourings are counted (``bench.data.colour_counts``). It is the task of
Lippe and Gavves 2021, "Categorical normalizing flows via continuous transformations" (arXiv:2006.09790), whose data
have one colouring of each graph, as a solver found it, and therefore no known optimum.

Colours are drawn first and edges then, so that nothing must be counted to draw. With n nodes, colours c are as likely
as :math:`(1 - p)^{s(c)}`, s(c) being the number of pairs of one colour, and every pair of two colours has an edge with
probability p. So a graph with m edges and a colouring of it have the probability

.. math:: p(G, c) \propto (1 - p)^{s(c)}\, p^m (1 - p)^{\binom n2 - s(c) - m} = p^m (1 - p)^{\binom n2 - m},

which does not depend on the colouring. Graphs are those of Erdős and Rényi, weighted by the number of their colourings,
and connected: what is asked of graphs alone changes nothing in this.
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
from bench.data.colour_counts import n_colourings
from bench.errors import UserError
from bench.schema import DataSpec, GraphSpec, Kind
from bench.seeds import derive_seed
from models.graphs import is_graph, pack, unpack

__all__ = ["Colourings", "graph_colouring"]

_SEED = 20251127
_VERSION = 1  # increase it when the same arguments give other examples
_AT_ONCE = 2048  # proposals
_MOST_PROPOSALS = 200  # as many of them, for nothing, are a sign of arguments that no graph satisfies


@dataclass(frozen=True)
class Colourings:
    """The distribution of graphs and colours; arguments as in ``graph_colouring``."""

    least: int
    nodes: int
    colours: int
    degree: float

    @property
    def graph(self) -> GraphSpec:
        return GraphSpec(self.nodes, self.colours, 1)

    def probability(self, n: int) -> float:
        """Return p, the probability of an edge between two nodes of different colours, in graphs of n nodes."""
        return self.degree / ((n - 1) * (1 - 1 / self.colours))

    def draw(self, size: int, rng: RandomState) -> Tensor:
        """Return independent graphs with colours, ``(size, N + N(N-1)/2)`` uint8."""
        numbers = rng.randint(self.least, self.nodes + 1, size)
        types = np.zeros((size, self.nodes), dtype=np.int64)
        edges = np.zeros((size, self.nodes, self.nodes), dtype=bool)
        for n in range(self.least, self.nodes + 1):
            which = np.flatnonzero(numbers == n)
            types[which, :n], edges[which, :n, :n] = self._of_size(n, len(which), rng)
        return pack(torch.from_numpy(types), torch.from_numpy(edges))

    def _of_size(self, n: int, size: int, rng: RandomState) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Colours ``(size, n)`` and edges ``(size, n, n)`` of graphs of n nodes."""
        p = self.probability(n)
        whole, rest = divmod(n, self.colours)
        fewest = (whole * (whole - 1) * self.colours) // 2 + rest * whole  # pairs of one colour
        colours, edges = [np.empty((0, n), dtype=np.int64)], [np.empty((0, n, n), dtype=bool)]
        found = tried = 0
        while found < size:
            c = rng.randint(1, self.colours + 1, (_AT_ONCE, n))
            same = c[:, :, None] == c[:, None]
            upper = np.triu((rng.random_sample((_AT_ONCE, n, n)) < p) & ~same, 1)
            excess = (same.sum((1, 2)) - n) // 2 - fewest
            kept = rng.random_sample(_AT_ONCE) < (1 - p) ** excess
            kept[kept] = _connected(upper[kept])
            colours.append(c[kept])
            edges.append(upper[kept])
            found, tried = found + int(kept.sum()), tried + 1
            if found * _MOST_PROPOSALS < tried:
                raise UserError(f"data.degree={self.degree}: hardly any graph of {n} nodes is connected; name a larger")
        return np.concatenate(colours)[:size], np.concatenate(edges)[:size]

    def valid(self, x: Tensor) -> Tensor:
        """Return which examples are graphs whose colouring is proper, ``(B, D) -> (B,)`` bool."""
        types, edges, _ = unpack(x, self.nodes)
        conflict = (edges > 0) & (types[:, :, None] == types[:, None])
        return is_graph(x, self.nodes, self.colours, 1) & ~conflict.flatten(1).any(1) & (x[:, 0] > 0)

    def variables(self, x: Tensor) -> Tensor:
        """Return the number of nodes, ``(B, D) -> (B,)``: the variables that are modelled."""
        return (x[:, : self.nodes] > 0).sum(1)

    def log_density(self, x: Tensor) -> Tensor:
        """Return log p(colours | graph), minus the log-number of colourings: ``(B, D) -> (B,)`` float64 nats."""
        _, edges, mask = unpack(x.cpu(), self.nodes)
        proper, numbers, adjacency = self.valid(x.cpu()).tolist(), mask.sum(1).tolist(), edges.numpy() > 0
        return torch.tensor(
            [
                -math.log(n_colourings(matrix[:n, :n], self.colours)) if one else -math.inf
                for matrix, n, one in zip(adjacency, numbers, proper, strict=True)
            ],
            dtype=torch.float64,
        )


def graph_colouring(
    least: int = 10,
    nodes: int = 20,
    colours: int = 3,
    degree: float = 3.2,
    n_train: int = 20_000,
    n_val: int = 2_000,
    n_test: int = 2_000,
) -> Data:
    """Return connected graphs with one of their colourings, ``(size, N + N(N-1)/2)`` uint8.

    Arguments:
        least, nodes: Smallest and largest number of nodes, each as likely as the others.
        colours: K, at least 2.
        degree: Mean number of neighbours of a node before unconnected graphs are left out.
        n_train, n_val, n_test: Sizes of the splits.

    Raises:
        UserError: An argument is out of range.
    """
    sizes = {"n_train": n_train, "n_val": n_val, "n_test": n_test}
    _within("nodes", nodes, 2, 60)
    _within("least", least, 2, nodes)
    _within("colours", colours, 2, 8)
    for name, value in sizes.items():
        _within(name, value, 1, 1_000_000)
    made = Colourings(least, nodes, colours, degree)
    if not 0 < made.probability(least) < 1:
        most = (least - 1) * (1 - 1 / colours)
        raise UserError(f"data.degree={degree}: must be above 0 and below {most:g} for graphs of {least} nodes")
    train, val, test = (
        Split(made.draw(size, RandomState(derive_seed(_SEED, "graph_colouring", split) % 2**32)))
        for size, split in zip(sizes.values(), ("train", "val", "test"), strict=True)
    )
    recipe = repr((made, sizes, _SEED, _VERSION))
    spec = DataSpec(
        "graph_colouring", hashlib.sha256(recipe.encode()).hexdigest()[:16], made.graph.shape, made.graph.levels,
        n_train, n_val, n_test, licence="none needed: generated", source="generated, after Lippe and Gavves 2021",
        kind=Kind.COLOURINGS, graph=made.graph,
    )  # fmt: skip
    return Data(spec, train, val, test, log_density=made.log_density, valid=made.valid, variables=made.variables)


def _connected(upper: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which graphs, ``(B, n, n)`` with each edge once, are connected."""
    n = upper.shape[1]
    reached = (upper | upper.transpose(0, 2, 1) | np.eye(n, dtype=bool)).astype(np.float32)
    for _ in range((n - 1).bit_length()):
        reached = (reached @ reached > 0).astype(np.float32)
    return np.asarray((reached[:, 0] > 0).all(1))


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UserError(f"data.{name}={value}: must be from {least} to {most}")
