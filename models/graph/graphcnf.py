r"""GraphCNF: a categorical normalizing flow over graphs in three steps.

Types of nodes, types of edges, and that there is no edge (a virtual edge) are encoded as vectors one after another, and
a flow follows each step: over the nodes of the whole graph, then over nodes and edges where there are some, then over
nodes and all pairs.

.. math:: \log w = \log p(n) + \log N(z; 0, I) + \log|\det| + \sum_i \log\frac{p(v_i|z_i)}{q(z_i|v_i)}
    + \sum_{e_{ij} > 0} \log\frac{p(e_{ij}|z_{ij})}{q(z_{ij}|e_{ij})}\, p(\text{edge}|z'_{ij})
    + \sum_{e_{ij} = 0} \log\frac{p(\text{none}|z'_{ij})}{q(z'_{ij})}

with z' after the second flow. Sampling goes the other way: all latents at once, then which pairs have an edge, then the
types of edges, then those of nodes. The networks treat all nodes alike, so every order of the same nodes is equally
likely.

References:
    Lippe, Gavves (2021): Categorical normalizing flows via continuous transformations, arXiv:2006.09790.
"""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ..base import Autoencodes, Batch, OptimizerFactory, Relation
from ..distributions import gumbel, log_standard_normal, standard_normal
from ..graphs import largest_component
from ..nn.mlp import MLP
from ..options import at_least
from ..transforms.base import Chain, Transform
from ..transforms.categories import OF_EACH, Encoding
from ..transforms.coupling import halves, vector_coupling
from ..transforms.graph import NodeBlock, PairBlock
from ..transforms.linear import LULinear
from ..transforms.logistic_mixture import LogisticMixtureCDF
from ..transforms.univariate import Affine
from .base import GraphModel, Graphs, indicators

__all__ = ["GraphCNF"]


class GraphCNF(GraphModel, Autoencodes):
    """GraphCNF, for graphs of any kind.

    In training the decoders' terms count ``decoder_weight`` times at first and once after ``decoder_steps`` steps;
    likelihoods always count them once.

    With ``largest_component`` a sample is the largest connected part of a graph that was drawn (the paper's
    "sub-graphs"). Nothing else changes: the likelihood is that of whole graphs, and says so.

    Differs from the paper: smaller networks; in the Edge-GNN nodes hear sums over their edges instead of attention; no
    regularizer on the log-determinant; samples draw categories from the decoders, so that they have the distribution
    whose likelihood is reported, where the paper takes the most probable ones (``temperature=0``).

    Arguments:
        shape, levels: Of one example.
        optimizer: Makes the optimizer from the parameters.
        nodes, node_types, edge_types: N, K and L.
        encoding: ``mixture`` or ``linear_flows``.
        node_dim, edge_dim: Numbers of the vectors of nodes and of edges, at least 2.
        node_couplings, edge_couplings, virtual_couplings: Couplings of each step.
        node_components, edge_components: Logistics in each mixture of a coupling's law.
        node_channels, edge_channels, layers: Sizes of the networks.
        decoder_weight, decoder_steps: See above.
        largest_component: Whether samples are largest connected parts.

    Raises:
        ValueError: An option is out of range.
    """

    family: ClassVar[str] = "flow"
    likelihood_of: ClassVar[str] = "any-order"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        nodes: int,
        node_types: int,
        edge_types: int,
        encoding: str = "mixture",
        node_dim: int = 4,
        edge_dim: int = 2,
        node_couplings: int = 3,
        edge_couplings: int = 3,
        virtual_couplings: int = 3,
        node_components: int = 4,
        edge_components: int = 4,
        node_channels: int = 32,
        edge_channels: int = 16,
        layers: int = 2,
        decoder_weight: float = 2.0,
        decoder_steps: int = 1000,
        largest_component: bool = False,
    ) -> None:
        super().__init__(shape, levels, nodes, node_types, edge_types)
        at_least(2, node_dim=node_dim, edge_dim=edge_dim)
        at_least(
            1, node_couplings=node_couplings, edge_couplings=edge_couplings, virtual_couplings=virtual_couplings,
            node_components=node_components, edge_components=edge_components, node_channels=node_channels,
            edge_channels=edge_channels, layers=layers,
        )  # fmt: skip
        at_least(0, decoder_steps=decoder_steps)
        if not decoder_weight >= 1:
            raise ValueError(f"decoder_weight must be at least 1, not {decoder_weight}")
        if encoding not in OF_EACH:
            raise ValueError(f"encoding must be one of {', '.join(OF_EACH)}, not {encoding!r}")
        self.make_optimizer = optimizer
        self.dims = node_dim, edge_dim
        self.decoder_weight, self.decoder_steps = decoder_weight, decoder_steps
        self.largest_component = largest_component
        self.caveat = "of whole graphs, and the samples are their largest connected parts" if largest_component else ""
        self.node_encoding: Encoding = OF_EACH[encoding](node_types, node_dim)
        self.edge_encoding: Encoding = OF_EACH[encoding](edge_types, edge_dim)
        self.virtual = VirtualEdges(edge_dim)
        laws = LogisticMixtureCDF(node_components), LogisticMixtureCDF(edge_components)
        self.node_flow = nn.ModuleList(
            NodeBlock(node_dim, i % 2, laws[0], edge_types, channels=node_channels, layers=layers)
            for i in range(node_couplings)
        )

        def pair_blocks(n: int) -> nn.ModuleList:
            return nn.ModuleList(
                PairBlock(
                    self.dims, nodes, i % 2, laws, channels=node_channels, pair_channels=edge_channels, layers=layers
                )
                for i in range(n)
            )

        self.edge_flow, self.virtual_flow = pair_blocks(edge_couplings), pair_blocks(virtual_couplings)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @property
    def relation(self) -> Relation:
        return "lower_bound"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        ratio, decoders = self._terms(self.read(x), generator)
        return self.log_number(x, ratio) + ratio + decoders

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The bound given n with its sign changed, its decoders' terms weighted, in bits/dim."""
        ratio, decoders = self._terms(self.read(batch[0]), self.train_generator)
        share = (1 - self.steps / max(1, self.decoder_steps)).clamp(min=0)
        self.steps += 1
        weighted = ratio + (1 + (self.decoder_weight - 1) * share) * decoders
        return -weighted.mean() / (self.dim * math.log(2))

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Temperature scales the latent noise, and the Gumbel noise with which the decoders draw categories."""
        mask = self.drawn_masks(n, generator)
        like = next(self.parameters())
        nodes = temperature * standard_normal((n, self.nodes, self.dims[0]), like, generator)
        pairs = temperature * standard_normal((n, self.n_pairs, self.dims[1]), like, generator)
        x = self._decode(nodes, pairs, mask, temperature, generator)
        return largest_component(x, self.nodes) if self.largest_component else x

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """The number of nodes, then the latents of one draw of all encodings, ``(B, 1 + N d + P d')``."""
        graphs = self.read(x)
        nodes, pairs, _ = self._forward(graphs, *self._encoded(graphs, generator)[:3])
        return torch.cat([graphs.mask.sum(1, keepdim=True).to(nodes.dtype), nodes.flatten(1), pairs.flatten(1)], 1)

    def decode(self, z: Tensor) -> Tensor:
        """The most probable categories at each step."""
        n, nodes, pairs = z.split([1, self.nodes * self.dims[0], self.n_pairs * self.dims[1]], 1)
        mask = torch.arange(self.nodes, device=z.device) < n
        latents = nodes.unflatten(1, (self.nodes, -1)), pairs.reshape(len(z), self.n_pairs, self.dims[1])
        return self._decode(*latents, mask, 0.0, None)

    def passes(self) -> list[nn.Module]:
        first, second, third = self._blocks
        return [*(block.network for block in first), *(block.network for block in (*second, *third))]

    @property
    def _blocks(self) -> tuple[list[NodeBlock], list[PairBlock], list[PairBlock]]:
        """The blocks of the three steps."""
        # A ModuleList forgets the type of its modules.
        return list(self.node_flow), list(self.edge_flow), list(self.virtual_flow)  # type: ignore[arg-type]

    def _terms(self, graphs: Graphs, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """log p(z) - log q(z|x) and the decoders' log p(x|z), ``(B,)`` nats each, for one z."""
        at_nodes, at_edges, at_none, log_q = self._encoded(graphs, generator)
        return self._weighed(graphs, at_nodes, at_edges, at_none, log_q)

    def _weighed(
        self, graphs: Graphs, at_nodes: Tensor, at_edges: Tensor, at_none: Tensor, log_q: Tensor
    ) -> tuple[Tensor, Tensor]:
        nodes, pairs, log_terms = self._forward(graphs, at_nodes, at_edges, at_none)
        nodes, pairs = nodes * graphs.mask.unsqueeze(2), pairs * graphs.both.unsqueeze(2)
        absent = (~graphs.mask).sum(1) * self.dims[0] + (~graphs.both).sum(1) * self.dims[1]
        prior = log_standard_normal(torch.cat([nodes.flatten(1), pairs.flatten(1)], 1))
        prior = prior + 0.5 * math.log(2 * math.pi) * absent  # absent places are zeros, and count nothing
        log_det, decoders = log_terms
        decoders = decoders + self._log_types(self.node_encoding, at_nodes, graphs.types, graphs.mask)
        decoders = decoders + self._log_types(self.edge_encoding, at_edges, _from_zero(graphs.edges), graphs.edges > 0)
        return prior + log_det - log_q, decoders

    def _encoded(self, graphs: Graphs, generator: Generator | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors of nodes ``(B, N, d)``, of edges and of virtual edges ``(B, P, d')``, and the sum of all log q."""
        at_nodes, log_nodes = _encoded(self.node_encoding, graphs.types, generator)
        at_edges, log_edges = _encoded(self.edge_encoding, _from_zero(graphs.edges), generator)
        at_none, log_none = self.virtual.encode(graphs.edges.shape, generator)
        edge = graphs.edges > 0
        log_q = (log_nodes * graphs.mask).sum(1) + (torch.where(edge, log_edges, log_none) * graphs.both).sum(1)
        return at_nodes, at_edges, at_none, log_q

    def _forward(
        self, graphs: Graphs, nodes: Tensor, pairs: Tensor, at_none: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Latents of nodes and pairs; the log-determinant, and the log-probability of which pairs have an edge."""
        edge = (graphs.edges > 0) & graphs.both
        adjacency = self._indicators(graphs.edges, nodes)
        log_det = nodes.new_zeros(len(nodes))
        of_nodes, of_edges, of_all = self._blocks
        for node_block in of_nodes:
            nodes, term = node_block(nodes, graphs.mask, adjacency)
            log_det = log_det + term
        for block in of_edges:
            nodes, pairs, term = block(nodes, pairs, graphs.mask, edge)
            log_det = log_det + term
        pairs = torch.where(edge.unsqueeze(2), pairs, at_none)
        joined = (self.virtual.log_probs(pairs, edge) * graphs.both).sum(1)
        for block in of_all:
            nodes, pairs, term = block(nodes, pairs, graphs.mask, graphs.both)
            log_det = log_det + term
        return nodes, pairs, (log_det, joined)

    def _decode(
        self, nodes: Tensor, pairs: Tensor, mask: Tensor, temperature: float, generator: Generator | None
    ) -> Tensor:
        both = self.ends.both(mask)
        of_nodes, of_edges, of_all = self._blocks
        for block in reversed(of_all):
            nodes, pairs = block.inverse(nodes, pairs, mask, both)
        edge = self.virtual.decode(pairs, temperature, generator) & both
        for block in reversed(of_edges):
            nodes, pairs = block.inverse(nodes, pairs, mask, edge)
        edges = (_decoded(self.edge_encoding, pairs, temperature, generator) + 1) * edge
        adjacency = self._indicators(edges, nodes)
        for node_block in reversed(of_nodes):
            nodes = node_block.inverse(nodes, mask, adjacency)
        return self.write(_decoded(self.node_encoding, nodes, temperature, generator), edges, mask)

    def _indicators(self, edges: Tensor, like: Tensor) -> Tensor:
        """Types of all pairs ``(B, P)`` to indicators of the types 1 .. L, ``(B, N, L, N)``."""
        return indicators(self.ends.symmetric(edges), self.edge_types + 1, like)[..., 1:].movedim(3, 2)

    def _log_types(self, encoding: Encoding, z: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        """log p(types|z) summed over those that are there, ``(B,)``."""
        if types.shape[1] == 0:  # the pairs of one node
            return z.new_zeros(len(z))
        each = z.flatten(0, 1)[:, :, None, None]  # by itself: a set of one
        log_p = encoding.log_prob(types.reshape(-1, 1), each).unflatten(0, types.shape)
        return (log_p * mask).sum(1)


class VirtualEdges(nn.Module):
    """Vectors of pairs without an edge, by one flow for all; a network tells them from those of edges.

    Arguments:
        dim: Numbers of each vector, at least 2.
        couplings: Couplings of the flow.
        hidden: Units of its networks and of the one that decides.
    """

    def __init__(self, dim: int, *, couplings: int = 2, hidden: int = 32) -> None:
        super().__init__()
        parts: list[Transform] = []
        for i in range(couplings):
            kept, moved = halves(dim, i % 2)
            parts += [LULinear(dim), vector_coupling(kept, moved, Affine(), hidden=hidden, depth=1, n_context=0)]
        self.dim = dim
        self.flow = Chain(*parts)  # from z to noise
        self.mean = nn.Parameter(0.5 * torch.randn(dim))
        self.decider = MLP(dim, 1, hidden=hidden, depth=1)

    def encode(self, shape: torch.Size, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """A vector for each pair ``(B, P, d)``, and log q of each, ``(B, P)`` nats."""
        noise = standard_normal((math.prod(shape), self.dim), self.mean, generator)
        z, log_det = self.flow.inverse(noise)
        return (z + self.mean).unflatten(0, shape), (log_standard_normal(noise) - log_det).unflatten(0, shape)

    def log_probs(self, z: Tensor, edge: Tensor) -> Tensor:
        """log p(edge or none|z) of what is the case, ``(B, P)`` nats."""
        logit = self.decider(z.flatten(0, 1)).unflatten(0, edge.shape).squeeze(2)
        return nn.functional.logsigmoid(torch.where(edge, logit, -logit))

    def decode(self, z: Tensor, temperature: float, generator: Generator | None) -> Tensor:
        """Which pairs have an edge, ``(B, P)`` bool; at temperature 0 the more probable."""
        logit = self.decider(z.flatten(0, 1)).unflatten(0, z.shape[:2]).squeeze(2)
        if temperature == 0:
            return logit > 0
        return logit + temperature * (gumbel(logit, generator) - gumbel(logit, generator)) > 0


def _encoded(encoding: Encoding, types: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Vectors ``(B, n, d)`` of types ``(B, n)``, and log q of each, ``(B, n)`` nats."""
    z, log_q = encoding.encode(types.reshape(-1, 1), generator)  # each by itself
    return z[:, :, 0, 0].unflatten(0, types.shape), log_q.unflatten(0, types.shape)


def _decoded(encoding: Encoding, z: Tensor, temperature: float, generator: Generator | None) -> Tensor:
    """Types ``(B, n)`` of vectors ``(B, n, d)``; at temperature 0 the most probable, and nothing is drawn."""
    if z.shape[1] == 0:
        return torch.zeros(z.shape[:2], device=z.device, dtype=torch.long)
    each = z.flatten(0, 1)[:, :, None, None]
    return encoding.decode(each, temperature, generator).squeeze(1).unflatten(0, z.shape[:2])


def _from_zero(edges: Tensor) -> Tensor:
    """Types of edges from 0; 0 too where there is none."""
    return (edges - 1).clamp(min=0)
