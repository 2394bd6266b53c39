r"""R-VAE: a variational autoencoder of graphs as matrices, regularized so that samples keep constraints.

.. math:: \log p(x) \ge \log p(n) + E_{q(z|x)}[\log p(x|z, n)] - KL(q(z|x) \| N(0, I))

Given z and n, the types of all nodes and of all pairs are independent. Training adds, for z drawn from N(0, I), how far
the probabilities of the decoder are from two constraints. That these probabilities are penalized for valence and
connectivity is the paper's; the formulas are ours, and were not compared with the paper's. Valence: the edges of a node
weigh no more than those of any node of its type in the training data,

.. math:: g_i = \Big(\sum_{j, k} w_k\, p(e_{ij} = k) - \sum_r u_r\, p(v_i = r)\Big)_+

with the weight :math:`w_k = k` of type k, which is the order of a bond. Connectivity: a path joins each two nodes,

.. math:: h_{ij} = 1 - C_{ij}, \quad C_{ij} \leftarrow 1 - (1 - C_{ij}) \prod_{k \ne i, j} (1 - C_{ik} C_{kj})

from :math:`C_{ij} = p(e_{ij} > 0)` on, :math:`\lceil \log_2 N \rceil` times. What is measured does not depend on them.

References:
    Ma, Chen, Xiao (2018): Constrained generation of semantically valid graphs via regularizing variational
    autoencoders, arXiv:1809.02630.
"""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from ..base import Autoencodes, Batch, ElboTerms, HasPosterior, OptimizerFactory, Relation
from ..distributions import DiagonalGaussian, bounded_log_scale, gumbel, log_standard_normal, standard_normal
from ..nn.mlp import MLP
from ..options import at_least
from .base import GraphModel, Graphs, indicators

__all__ = ["RVAE"]

CHUNK = 250  # graphs drawn at once, so that memory does not grow with the number of samples


class RVAE(GraphModel, HasPosterior, Autoencodes):
    """Regularized variational autoencoder, for graphs of any kind whose nodes have an order.

    It knows nodes by their places, so another order of the same nodes has another likelihood.

    Differs from the paper: the formulas of the penalties, see above; the networks are fully connected, where the
    paper's are convolutions; the number of nodes is drawn first and no type says that a node is absent, which the
    paper's penalties have to account for; the largest weight of a type's edges is counted in the training data; no
    penalty for pairs of types that may not be joined.

    Arguments:
        shape, levels: Of one example.
        optimizer: Makes the optimizer from the parameters.
        nodes, node_types, edge_types: N, K and L.
        latent_dim: Z, dimension of the code.
        hidden, depth: Units of each hidden layer of encoder and decoder, and hidden layers of each.
        valence, connectivity: Weights of the sum of g over the nodes, and of the sum of h over j, averaged over i; in
            nats. 0 and 0 is the unregularized model.

    Raises:
        ValueError: An option is out of range.
    """

    family: ClassVar[str] = "vae"
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
        latent_dim: int = 32,
        hidden: int = 256,
        depth: int = 2,
        valence: float = 1.0,
        connectivity: float = 1.0,
    ) -> None:
        super().__init__(shape, levels, nodes, node_types, edge_types)
        at_least(1, latent_dim=latent_dim, hidden=hidden)
        at_least(0, depth=depth)
        if not (0 <= valence < math.inf and 0 <= connectivity < math.inf):
            raise ValueError(f"valence and connectivity must be at least 0, not {valence} and {connectivity}")
        self.make_optimizer = optimizer
        self.latent_dim = latent_dim
        self.valence, self.connectivity = valence, connectivity
        n_nodes, n_pairs = nodes * node_types, self.n_pairs * (edge_types + 1)
        self.split = [n_nodes, n_pairs]
        self.encoder = MLP(n_nodes + n_pairs + nodes, 2 * latent_dim, hidden=hidden, depth=depth)
        self.decoder = MLP(latent_dim + nodes, n_nodes + n_pairs, hidden=hidden, depth=depth)
        self.largest: Tensor  # u, of each type of node
        self.register_buffer("largest", torch.zeros(node_types))

    @property
    def relation(self) -> Relation:
        return "lower_bound"

    def count(self, batches: Iterable[Tensor]) -> None:
        """Count numbers of nodes, and the largest weight of the edges of each type's nodes."""
        examples = list(batches)
        super().count(examples)
        largest = torch.zeros_like(self.largest)
        for x in examples:
            graphs = self.read(x.to(largest.device))
            weights = self.ends.to_nodes(graphs.edges.unsqueeze(2).to(largest.dtype)).squeeze(2) * graphs.mask
            largest = largest.scatter_reduce(0, graphs.types.flatten(), weights.flatten(), "amax")
        self.largest.copy_(largest)

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        r""":math:`\log p(x, z) - \log q(z|x)` with one :math:`z \sim q(z|x)`, ``(B,)`` nats."""
        graphs = self.read(x)
        posterior = self._posterior(graphs)
        z = posterior.sample(generator)
        ratio = log_standard_normal(z) - posterior.log_prob(z)
        return self.log_number(x, z) + self._log_prob(graphs, z) + ratio

    def elbo_terms(self, x: Tensor, *, generator: Generator | None = None) -> ElboTerms:
        """One draw of the terms of the ELBO; log p(n) counts in the reconstruction."""
        graphs = self.read(x)
        posterior = self._posterior(graphs)
        z = posterior.sample(generator)
        reconstruction = self.log_number(x, z) + self._log_prob(graphs, z)
        return ElboTerms(reconstruction, posterior.kl_to_standard(), posterior.mean)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The ELBO given n with its sign changed, and the penalties, in bits/dim."""
        graphs = self.read(batch[0])
        posterior = self._posterior(graphs)
        elbo = self._log_prob(graphs, posterior.sample(self.train_generator)) - posterior.kl_to_standard()
        loss = self.penalties(graphs.mask, self.train_generator) - elbo
        return loss.mean() / (self.dim * math.log(2))

    def penalties(self, mask: Tensor, generator: Generator | None) -> Tensor:
        """The weighted penalties of one z ~ N(0, I) for each graph with these nodes, ``(B, N) -> (B,)`` nats."""
        if self.valence == self.connectivity == 0:
            return torch.zeros(len(mask), device=mask.device)
        z = standard_normal((len(mask), self.latent_dim), next(self.parameters()), generator)
        nodes, pairs = self._logits(z, mask)
        p_nodes = nodes.softmax(2) * mask.unsqueeze(2)
        p_pairs = pairs.softmax(2)[..., 1:] * self.ends.both(mask).unsqueeze(2)  # (B, P, L)
        orders = torch.arange(1, self.edge_types + 1, device=z.device, dtype=z.dtype)
        weights = self.ends.to_nodes((p_pairs @ orders).unsqueeze(2)).squeeze(2)
        excess = (weights - p_nodes @ self.largest).relu().sum(1)
        present = mask.to(z.dtype)
        apart = (1 - reached(self.ends.symmetric(p_pairs.sum(2)))) * present[:, :, None] * present[:, None]
        gap = apart.sum((1, 2)) / present.sum(1).clamp(min=1)
        return self.valence * excess + self.connectivity * gap

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Temperature scales z, and the Gumbel noise with which types are drawn from the decoder."""
        mask = self.drawn_masks(n, generator)
        z = temperature * standard_normal((n, self.latent_dim), next(self.parameters()), generator)
        parts = zip(z.split(CHUNK), mask.split(CHUNK), strict=True)
        return torch.cat([self._drawn(part, there, temperature, generator) for part, there in parts])

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """The number of nodes, then the posterior's mean: ``(B, 1 + Z)``. ``generator`` is not used."""
        graphs = self.read(x)
        mean = self._posterior(graphs).mean
        return torch.cat([graphs.mask.sum(1, keepdim=True).to(mean.dtype), mean], 1)

    def decode(self, z: Tensor) -> Tensor:
        """The most probable types."""
        mask = torch.arange(self.nodes, device=z.device) < z[:, :1]
        return self._drawn(z[:, 1:], mask, 0.0, None)

    def passes(self) -> list[nn.Module]:
        return [self.decoder]

    def _posterior(self, graphs: Graphs) -> DiagonalGaussian:
        like = next(self.parameters())
        nodes = indicators(graphs.types, self.node_types, like) * graphs.mask.unsqueeze(2)
        pairs = indicators(graphs.edges, self.edge_types + 1, like) * graphs.both.unsqueeze(2)
        seen = torch.cat([nodes.flatten(1), pairs.flatten(1), graphs.mask], 1)
        output = self.encoder(seen)
        # No likelihood in half precision.
        mean, raw = output.to(torch.promote_types(output.dtype, torch.float32)).chunk(2, 1)
        return DiagonalGaussian(mean, bounded_log_scale(raw))

    def _logits(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the types of nodes ``(B, N, K)`` and of pairs ``(B, P, 1 + L)``, the first of them no edge."""
        output = self.decoder(torch.cat([z, mask.to(z.dtype)], 1))
        nodes, pairs = output.to(torch.promote_types(output.dtype, torch.float32)).split(self.split, 1)
        return nodes.unflatten(1, (self.nodes, -1)), pairs.reshape(len(z), self.n_pairs, self.edge_types + 1)

    def _log_prob(self, graphs: Graphs, z: Tensor) -> Tensor:
        """log p(x|z, n), ``(B,)`` nats."""
        nodes, pairs = self._logits(z, graphs.mask)
        of_nodes = -cross_entropy(nodes.mT, graphs.types, reduction="none") * graphs.mask
        of_pairs = -cross_entropy(pairs.mT, graphs.edges, reduction="none") * graphs.both
        return of_nodes.sum(1) + of_pairs.sum(1)

    def _drawn(self, z: Tensor, mask: Tensor, temperature: float, generator: Generator | None) -> Tensor:
        """Graphs of codes, ``(B, N + P)``; at temperature 0 the most probable, and nothing is drawn."""
        nodes, pairs = self._logits(z, mask)
        if temperature != 0:
            nodes = nodes + temperature * gumbel(nodes, generator)
            pairs = pairs + temperature * gumbel(pairs, generator)
        return self.write(nodes.argmax(2), pairs.argmax(2), mask)


def reached(edges: Tensor) -> Tensor:
    """The transitive closure of edges ``(B, N, N)`` in {0, 1}, reflexive, and a smooth function of those between.

    A path from i to j over a third node k counts as C_ik C_kj; whether i and j are joined already, or by any such path,
    as if all this were independent.
    """
    itself = torch.eye(edges.shape[1], dtype=edges.dtype, device=edges.device)
    joined = edges * (1 - itself)  # with zeros on the diagonal, a path over i or j does not count C_ij again
    for _ in range(math.ceil(math.log2(max(2, len(itself))))):
        # Almost 1 at most: the logarithm stays finite, and so does its gradient.
        through = (1 - 1e-6) * joined[:, :, :, None] * joined[:, None]
        apart = (-(1 - 1e-6) * joined).log1p() + (-through).log1p().sum(2)
        joined = (1 - apart.exp()) * (1 - itself)
    return joined + itself
