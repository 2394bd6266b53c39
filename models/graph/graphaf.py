r"""GraphAF: an autoregressive flow that builds a graph node by node, each with its edges to those before it.

A category of C is a vector of C numbers :math:`z = \epsilon \sigma + \mu` with :math:`\epsilon \sim N(0, I)`, and the
category is the largest of them. A network computes mean and scale from the graph built so far:

.. math:: v_i \sim \mu(G_{<i}), \sigma(G_{<i}), \qquad
    e_{ij} \sim \mu, \sigma(G_{<i}, v_i, e_{i1}, \dots, e_{i,j-1}), \quad j < i

Training maximizes the density of noisy indicators :math:`1_c + a u`, u uniform in the unit cube, in an order of the
nodes by breadth-first search. Samples are shuffled, so every order of the same nodes is equally likely.

The likelihood is that of the samples. Of one order :math:`\pi` it takes

.. math:: \log w_\pi = \sum_{\text{categories}} \sum_{k \ne c} \log \Phi\Big(\frac{t - \mu_k}{\sigma_k}\Big),
    \quad t \sim N(\mu_c, \sigma_c^2)

with one t for every category, whose other numbers t exceeds. With an order :math:`\pi_1` by breadth-first search, whose
probability is q, and a uniform one :math:`\pi_2`,

.. math:: w = p(n) \sum_{i=1}^2 \frac{w_{\pi_i}}{n!\, (q(\pi_i|x) + 1/n!)}

has E[w] = p(x). The first term is nearly all of it; the second counts the orders that are no breadth-first search (the
balance heuristic of Veach, Guibas 1995, Optimally combining sampling techniques for Monte Carlo rendering). The paper's
density counts one order alone, and of the numbers whose largest is c only a cube: it is not the probability of a graph.

References:
    Shi, Xu, Zhu, Zhang, Zhang, Tang (2020): GraphAF: a flow-based autoregressive model for molecular graph generation,
    arXiv:2001.09382.
"""

import math
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.special import log_ndtr
from torch.utils.checkpoint import checkpoint

from ..base import Autoencodes, Batch, OptimizerFactory, Relation
from ..distributions import standard_normal, uniform
from ..nn.graph_networks import RelationalGNN
from ..nn.mlp import MLP
from ..options import at_least
from .base import GraphModel, Graphs, indicators
from .order import breadth_first, log_breadth_first, shuffled

__all__ = ["GraphAF"]

LOG_SCALE = 3.0  # largest absolute value of log sigma
AT_ONCE = 1 << 24  # entries of the adjacencies of the sub-graphs that are computed together


class GraphAF(GraphModel, Autoencodes):
    """GraphAF, for graphs of any kind.

    All sub-graphs of a training example are computed, N (N + 1) / 2 of up to N nodes: time grows with the fourth power
    of N. Memory is bounded, at the price of one more forward pass where they do not fit together. Samples take one pass
    for every node and every pair of nodes.

    Differs from the paper: the number of nodes is drawn first and the network is told it; an edge may join a node to
    any before it, not to the last twelve alone; the likelihood, see above; no validity check and resampling.

    Arguments:
        shape, levels: Of one example.
        optimizer: Makes the optimizer from the parameters.
        nodes, node_types, edge_types: N, K and L.
        channels, layers: Of the graph network.
        hidden: Units of the perceptrons that compute mean and scale.
        noise: The factor a of the noise, in (0, 1]. Where a category is certain, its number leads each other one by 1,
            and the deviation of their difference is 0.41 a: with a = 1 each other one wins once in 140 times.

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
        channels: int = 32,
        layers: int = 2,
        hidden: int = 64,
        noise: float = 0.3,
    ) -> None:
        super().__init__(shape, levels, nodes, node_types, edge_types)
        at_least(1, channels=channels, layers=layers, hidden=hidden)
        if not 0 < noise <= 1:
            raise ValueError(f"noise must be above 0 and at most 1, not {noise}")
        self.make_optimizer = optimizer
        self.noise = noise
        self.network = RelationalGNN(
            node_types + 2, channels, edge_types, channels=channels, layers=layers, small_last=False
        )
        self.of_nodes = MLP(channels + 2, 2 * node_types, hidden=hidden, depth=1, zero_last=True)
        self.of_pairs = MLP(3 * channels + 2, 2 * (edge_types + 1), hidden=hidden, depth=1, zero_last=True)
        places = torch.arange(nodes)
        first, second = self.ends.first, self.ends.second
        earlier = (second < second[:, None]) | ((second == second[:, None]) & (first < first[:, None]))
        # What is there before each node and each pair is drawn.
        self.nodes_before_node: Tensor  # (N, N)
        self.pairs_before_node: Tensor  # (N, P)
        self.nodes_before_pair: Tensor  # (P, N)
        self.pairs_before_pair: Tensor  # (P, P)
        self.register_buffer("nodes_before_node", places < places[:, None], persistent=False)
        self.register_buffer("pairs_before_node", second < places[:, None], persistent=False)
        self.register_buffer("nodes_before_pair", places <= second[:, None], persistent=False)
        self.register_buffer("pairs_before_pair", earlier, persistent=False)

    @property
    def relation(self) -> Relation:
        return "lower_bound"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        graphs, like = self.read(x), next(self.parameters())
        orders = self._searched(graphs, like, generator), shuffled(graphs.mask, like, generator)
        log_w = [self._in_order(self._ordered(graphs, order), generator) for order in orders]
        return self.log_number(x, like) + torch.logaddexp(*log_w)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """-log of the density of noisy indicators in a breadth-first order, in nats over (D log 2)."""
        generator, like = self.train_generator, next(self.parameters())
        graphs = self.read(batch[0])
        graphs = self._ordered(graphs, self._searched(graphs, like, generator))
        loss = like.new_zeros(())
        for (mean, log_scale), categories, there in self._all_parts(graphs):
            z = self._noisy(categories, mean, generator)
            nats = 0.5 * ((z - mean) * (-log_scale).exp()).square() + log_scale + 0.5 * math.log(2 * math.pi)
            loss = loss + (nats.sum(2) * there).sum(1).mean()
        return loss / (self.dim * math.log(2))

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Temperature scales the noise of every category."""
        mask, like = self.drawn_masks(n, generator), next(self.parameters())
        nodes = temperature * standard_normal((n, self.nodes, self.node_types), like, generator)
        pairs = temperature * standard_normal((n, self.n_pairs, self.edge_types + 1), like, generator)
        graphs = self._ordered(self._built(nodes, pairs, mask), shuffled(mask, like, generator))
        return self.write(graphs.types, graphs.edges, graphs.mask)

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """The number of nodes, the order, and the noise of all categories, ``(B, 1 + N + N K + P (1 + L))``."""
        graphs = self.read(x)
        like = next(self.parameters())
        order = self._searched(graphs, like, generator)
        codes = [graphs.mask.sum(1, keepdim=True).to(like.dtype), order.to(like.dtype)]
        for (mean, log_scale), categories, there in self._all_parts(self._ordered(graphs, order)):
            noise = (self._noisy(categories, mean, generator) - mean) * (-log_scale).exp()
            codes.append((noise * there.unsqueeze(2)).flatten(1))
        return torch.cat(codes, 1)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        sizes = [1, self.nodes, self.nodes * self.node_types, self.n_pairs * (self.edge_types + 1)]
        n, order, nodes, pairs = z.split(sizes, 1)
        mask = torch.arange(self.nodes, device=z.device) < n
        pairs = pairs.reshape(len(z), self.n_pairs, self.edge_types + 1)
        built = self._built(nodes.unflatten(1, (self.nodes, -1)), pairs, mask)
        graphs = self._ordered(built, order.long().argsort(1))
        return self.write(graphs.types, graphs.edges, graphs.mask)

    def passes(self) -> list[nn.Module]:
        return [self.network]

    def _in_order(self, graphs: Graphs, generator: Generator | None) -> Tensor:
        """One draw of log p(graph in this order|n) / (n! (q + 1/n!)), ``(B,)`` nats."""
        number = graphs.mask.sum(1)
        log_orders = (number + 1.0).lgamma()  # log n!
        log_q = log_breadth_first(self.ends.symmetric(graphs.edges) > 0, number)
        log_p = graphs.mask.new_zeros(len(number), dtype=torch.float32)
        for parameters, categories, there in self._all_parts(graphs):
            log_p = log_p + (_log_largest(parameters, categories, generator) * there).sum(1)
        return log_p - log_orders - torch.logaddexp(log_q, -log_orders)

    def _searched(self, graphs: Graphs, like: Tensor, generator: Generator | None) -> Tensor:
        return breadth_first(self.ends.symmetric(graphs.edges) > 0, graphs.mask, like, generator)

    def _ordered(self, graphs: Graphs, order: Tensor) -> Graphs:
        """The same graphs with their nodes in another order; absent nodes are last in both."""
        edges = self.ends.symmetric(graphs.edges)
        edges = edges.gather(1, order[:, :, None].expand_as(edges)).gather(2, order[:, None].expand_as(edges))
        pairs = edges[:, self.ends.first, self.ends.second]
        return Graphs(graphs.types.gather(1, order), pairs, graphs.mask, graphs.both)

    def _all_parts(self, graphs: Graphs) -> list[tuple[tuple[Tensor, Tensor], Tensor, Tensor]]:
        """Of all nodes and of all pairs: means and log-scales, categories, and which are there."""
        places = torch.arange(self.nodes, device=graphs.types.device)
        pairs = torch.arange(self.n_pairs, device=graphs.types.device)
        found = [(self._in_parts(self._nodes_given, graphs, places), graphs.types, graphs.mask)]
        if self.n_pairs > 0:
            found.append((self._in_parts(self._pairs_given, graphs, pairs), graphs.edges, graphs.both))
        return found

    def _in_parts(
        self, given: Callable[[Graphs, Tensor], tuple[Tensor, Tensor]], graphs: Graphs, all_of: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means and log-scales of all nodes, or of all pairs, some at a time. Where there is more than one part, its
        activations are computed again for the gradient: all of them would take gigabytes."""
        size = max(1, AT_ONCE // (len(graphs.types) * self.nodes**2 * self.edge_types))
        parts = all_of.split(size)
        if len(parts) == 1 or not torch.is_grad_enabled():
            made = [given(graphs, part) for part in parts]
        else:
            made = [checkpoint(given, graphs, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        means, log_scales = zip(*made, strict=True)
        return torch.cat(means, 1), torch.cat(log_scales, 1)

    def _nodes_given(self, graphs: Graphs, places: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-scales of the types of the nodes at these places, ``(B, S, K)`` each, given what is before."""
        _, whole = self._embedded(graphs, self.nodes_before_node[places], self.pairs_before_node[places])
        return self._read_off(self.of_nodes(torch.cat([whole, self._progress(graphs, places)], 2)))

    def _pairs_given(self, graphs: Graphs, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-scales of the types of these pairs, ``(B, S, 1 + L)`` each, given what is before."""
        h, whole = self._embedded(graphs, self.nodes_before_pair[pairs], self.pairs_before_pair[pairs])
        first, second = self.ends.first[pairs], self.ends.second[pairs]
        steps = torch.arange(len(pairs), device=pairs.device)
        seen = [whole, h[:, steps, first], h[:, steps, second], self._progress(graphs, second)]
        return self._read_off(self.of_pairs(torch.cat(seen, 2)))

    def _embedded(self, graphs: Graphs, nodes: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of nodes and of sub-graphs, ``(B, S, N, c)`` and ``(B, S, c)``.

        Arguments:
            graphs: B of them.
            nodes, pairs: What of each is in the sub-graphs, ``(S, N)`` and ``(S, P)`` bool.
        """
        batch, steps = len(graphs.types), len(nodes)
        there = (graphs.mask[:, None] & nodes).flatten(0, 1)  # (B S, N)
        edges = (graphs.edges[:, None] * pairs).flatten(0, 1)  # (B S, P)
        types = graphs.types[:, None].expand(-1, steps, -1).flatten(0, 1)
        like = next(self.parameters())
        share = (graphs.mask.sum(1) / self.nodes).to(like.dtype).repeat_interleave(steps)[:, None, None]
        seen = torch.cat([
            indicators(types, self.node_types, like), there.unsqueeze(2).to(like.dtype), share.expand(-1, self.nodes, 1)
        ], 2)  # fmt: skip
        adjacency = indicators(self.ends.symmetric(edges), self.edge_types + 1, like)[..., 1:].movedim(3, 2)
        h = self.network(seen * there.unsqueeze(2), adjacency) * there.unsqueeze(2)
        whole = h.sum(1) / math.sqrt(self.nodes)
        return h.unflatten(0, (batch, steps)), whole.unflatten(0, (batch, steps))

    def _progress(self, graphs: Graphs, places: Tensor) -> Tensor:
        """How many nodes there will be and how many there are, as shares of N, ``(B, S, 2)``."""
        number = graphs.mask.sum(1)[:, None].expand(-1, len(places))
        return torch.stack([number, places.expand_as(number)], 2) / self.nodes

    def _read_off(self, output: Tensor) -> tuple[Tensor, Tensor]:
        # No likelihood in half precision.
        mean, raw = output.to(torch.promote_types(output.dtype, torch.float32)).chunk(2, 2)
        return mean, LOG_SCALE * (raw / LOG_SCALE).tanh()

    def _noisy(self, categories: Tensor, like: Tensor, generator: Generator | None) -> Tensor:
        """Indicators of categories with noise, ``(B, n, C)``; their largest entry is the category's."""
        ones = indicators(categories, like.shape[2], like)
        return ones + self.noise * uniform(like.shape, like, generator)

    def _built(self, nodes: Tensor, pairs: Tensor, mask: Tensor) -> Graphs:
        """Graphs of noise ``(B, N, K)`` and ``(B, P, 1 + L)``, node after node."""
        types = torch.zeros_like(mask, dtype=torch.long)
        edges = torch.zeros(pairs.shape[:2], device=mask.device, dtype=torch.long)
        graphs = Graphs(types, edges, mask, self.ends.both(mask))

        def drawn(parameters: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
            mean, log_scale = parameters
            return (mean[:, 0] + log_scale[:, 0].exp() * noise).argmax(1)

        for place in range(self.nodes):
            at = torch.full((1,), place, device=mask.device)  # made there: a copy from the host would wait
            types[:, place] = drawn(self._nodes_given(graphs, at), nodes[:, place]) * mask[:, place]
            for other in range(place):
                pair = self.ends.place[other, place][None]
                edge = drawn(self._pairs_given(graphs, pair), pairs[:, pair].squeeze(1))
                edges[:, pair] = (edge * mask[:, place])[:, None]
        return graphs


def _log_largest(parameters: tuple[Tensor, Tensor], categories: Tensor, generator: Generator | None) -> Tensor:
    """One draw of log w, ``(B, n)``, with E[w] the probability that the category's number is the largest of C."""
    mean, log_scale = parameters
    chosen = categories.unsqueeze(2)
    t = mean.gather(2, chosen)
    t = t + log_scale.gather(2, chosen).exp() * standard_normal(t.shape, mean, generator)
    below = log_ndtr((t - mean) * (-log_scale).exp())  # (B, n, C)
    return below.sum(2) - below.gather(2, chosen).squeeze(2)
