r"""GraphNVP: one flow for the edges of a graph, and one for its nodes given the edges.

.. math:: p(v) = p(n)\, N(f(v_A); 0, I)\, |\det f'|\; N(g_A(v_X); 0, I)\, |\det g_A'|

The types A of all pairs and X of all nodes are vectors whose largest number is at the type. The couplings of f move all
pairs of one node by amounts that depend on all other pairs; those of g move one node after another by amounts that a
graph network computes from the edges and the other nodes. Places without nodes hold normal noise, which both flows see
and move, and which the likelihood integrates over.

Training maximizes E[log p(v) - log q(v|x)] for vectors with noise of a small scale. Such noise leaves vectors of a type
out, for all that is known of p; so the likelihood draws a second v, with broad noise, and

.. math:: w = \sum_{i=1}^2 \frac{p(v_i)}{q_1(v_i|x) + q_2(v_i|x)}, \quad v_i \sim q_i(v|x)

has E[w] = p(x), and a small variance (the balance heuristic of Veach, Guibas 1995, Optimally combining sampling
techniques for Monte Carlo rendering). The first term is nearly all of it where p has been trained.

References:
    Madhawa, Ishiguro, Nakago, Abe (2019): GraphNVP: an invertible flow model for generating molecular graphs,
    arXiv:1905.11600.
"""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ..base import Autoencodes, Batch, OptimizerFactory, Relation
from ..distributions import log_standard_normal, standard_normal
from ..nn.graph_networks import RelationalGNN
from ..nn.mlp import MLP
from ..options import at_least
from ..transforms.actnorm import ActNorm
from ..transforms.argmax import argmax_dequantized, log_argmax_density
from ..transforms.base import Chain, Transform
from ..transforms.coupling import MaskedCoupling
from ..transforms.univariate import Affine
from .base import GraphModel, Graphs, indicators

__all__ = ["GraphNVP"]

BROAD = 1.0  # scale of noise whose density is nowhere small beside that of a flow


class GraphNVP(GraphModel, Autoencodes):
    """GraphNVP, for graphs of any kind whose nodes have an order.

    It knows nodes by their places, so another order of the same nodes has another likelihood.

    Differs from the paper: pairs of nodes have one vector, not one for each direction; dequantization reaches every
    vector whose largest number is at the type, because samples take the type from any of them, where the paper's
    uniform noise fills only a cube; the number of nodes is drawn first; activation instead of batch normalization.

    Arguments:
        shape, levels: Of one example.
        optimizer: Makes the optimizer from the parameters.
        nodes, node_types, edge_types: N, K and L.
        edge_rounds, node_rounds: How often every node's pairs, and every node, are moved.
        hidden: Units of the perceptrons of the edges' couplings.
        channels, layers: Of the graph networks of the nodes' couplings.
        noise: Scale of the noise of the dequantization.

    Raises:
        ValueError: An option is out of range.
    """

    family: ClassVar[str] = "flow"
    likelihood_of: ClassVar[str] = "data-order"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        nodes: int,
        node_types: int,
        edge_types: int,
        edge_rounds: int = 2,
        node_rounds: int = 1,
        hidden: int = 128,
        channels: int = 32,
        layers: int = 2,
        noise: float = 0.2,
    ) -> None:
        super().__init__(shape, levels, nodes, node_types, edge_types)
        at_least(1, edge_rounds=edge_rounds, node_rounds=node_rounds, hidden=hidden, channels=channels, layers=layers)
        if not 0 < noise < math.inf:
            raise ValueError(f"noise must be positive, not {noise}")
        self.make_optimizer = optimizer
        self.noise = noise
        self.n_edges = self.n_pairs * (edge_types + 1)
        parts: list[Transform] = []
        for place in [*range(nodes)] * edge_rounds:
            if self.n_pairs > 0:
                of_others = self.ends.incidence[place] == 0
                network = MLP(self.n_edges, 2 * self.n_edges, hidden=hidden, depth=1, n_context=nodes, zero_last=True)
                keep = of_others.repeat_interleave(edge_types + 1)
                parts += [ActNorm(self.n_edges), MaskedCoupling(keep, network, Affine())]
        self.edge_flow = Chain(*parts) if parts else None
        parts = []
        for place in [*range(nodes)] * node_rounds:
            keep = (torch.arange(nodes) != place)[:, None]
            conditioner = _OfNodes(nodes, node_types, edge_types, place, channels=channels, layers=layers)
            parts += [ActNorm(nodes), MaskedCoupling(keep, conditioner, Affine())]
        self.node_flow = Chain(*parts)

    @property
    def relation(self) -> Relation:
        return "lower_bound"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        graphs = self.read(x)
        terms = []
        for scale in (self.noise, BROAD):
            drawn = self._dequantized(graphs, scale, generator)
            log_q = torch.logaddexp(*[self._log_q(graphs, drawn, each) for each in (self.noise, BROAD)])
            terms.append(self._latents(graphs, drawn)[0] - log_q)
        return self.log_number(x, terms[0]) + torch.logaddexp(*terms)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The bound given n with its sign changed, in bits/dim, with noise of the one scale alone."""
        graphs = self.read(batch[0])
        drawn = self._dequantized(graphs, self.noise, self.train_generator)
        log_w = self._latents(graphs, drawn)[0] - self._log_q(graphs, drawn, self.noise)
        return -log_w.mean() / (self.dim * math.log(2))

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Temperature scales the latent noise."""
        mask, like = self.drawn_masks(n, generator), next(self.parameters())
        pairs = temperature * standard_normal((n, self.n_edges), like, generator)
        nodes = temperature * standard_normal((n, self.nodes, self.node_types), like, generator)
        return self._decode(pairs, nodes, mask)

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """The number of nodes, then the latents of pairs and of nodes, ``(B, 1 + P (1 + L) + N K)``."""
        graphs = self.read(x)
        _, pairs, nodes = self._latents(graphs, self._dequantized(graphs, self.noise, generator))
        return torch.cat([graphs.mask.sum(1, keepdim=True).to(nodes.dtype), pairs, nodes], 1)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        n, pairs, nodes = z.split([1, self.n_edges, self.nodes * self.node_types], 1)
        mask = torch.arange(self.nodes, device=z.device) < n
        return self._decode(pairs, nodes.unflatten(1, (self.nodes, -1)), mask)

    def passes(self) -> list[nn.Module]:
        flows = [self.node_flow] if self.edge_flow is None else [self.edge_flow, self.node_flow]
        couplings = [part for flow in flows for part in flow.transforms if isinstance(part, MaskedCoupling)]
        return [coupling.conditioner for coupling in couplings]

    def _dequantized(self, graphs: Graphs, scale: float, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Vectors of pairs ``(B, P, 1 + L)`` and of nodes ``(B, N, K)``; normal noise where nothing is."""
        made = []
        for ones, mask in self._indicators(graphs):
            v = argmax_dequantized(ones, scale, generator)
            made.append(torch.where(mask.unsqueeze(2), v, standard_normal(v.shape, v, generator)))
        return made[0], made[1]

    def _log_q(self, graphs: Graphs, drawn: tuple[Tensor, Tensor], scale: float) -> Tensor:
        """log q of such vectors, ``(B,)`` nats."""
        log_q = drawn[1].new_zeros(len(drawn[1]))
        for v, (ones, mask) in zip(drawn, self._indicators(graphs), strict=True):
            log_normal = -0.5 * (v.square() + math.log(2 * math.pi)).sum(2)
            log_q = log_q + torch.where(mask, log_argmax_density(v, ones, scale), log_normal).sum(1)
        return log_q

    def _latents(self, graphs: Graphs, drawn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The flows' log-density of such vectors, ``(B,)`` nats, and their latents of pairs and nodes, flat."""
        pairs, nodes = drawn[0].flatten(1), drawn[1]
        nodes, log_p = self.node_flow(nodes, context=self._adjacency(graphs.edges, nodes))
        if self.edge_flow is not None:
            pairs, log_det = self.edge_flow(pairs, context=graphs.mask.to(pairs.dtype))
            log_p = log_p + log_det
        return log_p + log_standard_normal(pairs) + log_standard_normal(nodes), pairs, nodes.flatten(1)

    def _indicators(self, graphs: Graphs) -> list[tuple[Tensor, Tensor]]:
        """Of the types of pairs and of nodes, with which are there."""
        like = next(self.parameters())
        return [
            (indicators(graphs.edges, self.edge_types + 1, like), graphs.both),
            (indicators(graphs.types, self.node_types, like), graphs.mask),
        ]

    def _decode(self, pairs: Tensor, nodes: Tensor, mask: Tensor) -> Tensor:
        edges = torch.zeros(len(mask), self.n_pairs, device=mask.device, dtype=torch.long)
        if self.edge_flow is not None:
            at_pairs = self.edge_flow.decode(pairs, context=mask.to(pairs.dtype))
            edges = at_pairs.unflatten(1, (self.n_pairs, -1)).argmax(2) * self.ends.both(mask)
        types = self.node_flow.decode(nodes, context=self._adjacency(edges, nodes)).argmax(2)
        return self.write(types, edges, mask)

    def _adjacency(self, edges: Tensor, like: Tensor) -> Tensor:
        """Indicators of the types 1 .. L of edges, ``(B, N, L, N)``."""
        return indicators(self.ends.symmetric(edges), self.edge_types + 1, like)[..., 1:].movedim(3, 2)


class _OfNodes(nn.Module):
    """A conditioner of nodes ``(B, N, K)`` by a graph network that knows which node is moved; to ``(B, 2 N, K)``."""

    def __init__(self, nodes: int, node_types: int, edge_types: int, moved: int, *, channels: int, layers: int) -> None:
        super().__init__()
        self.network = RelationalGNN(
            node_types + nodes + 1, 2 * node_types, edge_types, channels=channels, layers=layers
        )
        places = torch.eye(nodes)
        self.places: Tensor
        self.register_buffer("places", torch.cat([places, places[moved][:, None]], 1), persistent=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        seen = torch.cat([x, self.places.to(x.dtype).expand(len(x), -1, -1)], 2)
        made: Tensor = self.network(seen, context)
        return torch.cat(made.chunk(2, 2), 1)
