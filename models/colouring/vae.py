r"""Graph colouring by a variational autoencoder with a code at each node.

.. math:: z_i \sim N(0, I), \quad p(c \mid z, G) = \prod_{i \le n} p(c_i \mid z, G), \qquad
    \log p(c \mid G) \ge E_{q(z|c, G)}[\log p(c \mid z, G)] - KL(q(z|c, G) \| N(0, I))

Encoder and decoder are relational graph networks. It is the baseline "VAE" of Lippe and Gavves (2021), Categorical
normalizing flows via continuous transformations, arXiv:2006.09790, after Kipf, Welling (2016), Variational graph
auto-encoders, arXiv:1611.07308.
"""

from collections.abc import Iterable
from typing import ClassVar

from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, one_hot

from ..base import Batch, ElboTerms, HasPosterior, OptimizerFactory, Relation
from ..distributions import DiagonalGaussian, bounded_log_scale, gumbel, log_standard_normal, standard_normal
from ..nn.graph_networks import RelationalGNN
from ..options import at_least
from .base import ColouringModel, Given

__all__ = ["ColouringVAE"]


class ColouringVAE(ColouringModel, HasPosterior):
    """Variational autoencoder of the colours of a graph's nodes.

    Arguments:
        shape, levels: Of one example.
        optimizer: Makes the optimizer from the parameters.
        nodes, node_types, edge_types: N, the number of colours K, and L.
        latent_dim: Z, numbers of the code of each node.
        channels, layers: Of encoder and decoder.

    Raises:
        ValueError: An option is out of range.
    """

    family: ClassVar[str] = "vae"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        nodes: int,
        node_types: int,
        edge_types: int,
        latent_dim: int = 4,
        channels: int = 64,
        layers: int = 4,
    ) -> None:
        super().__init__(shape, levels, optimizer, nodes, node_types, edge_types)
        at_least(1, latent_dim=latent_dim, channels=channels, layers=layers)
        self.latent_dim = latent_dim
        sizes = {"channels": channels, "layers": layers, "small_last": False}
        self.encoder = RelationalGNN(node_types, 2 * latent_dim, edge_types, **sizes)  # type: ignore[arg-type]
        self.decoder = RelationalGNN(latent_dim, node_types, edge_types, **sizes)  # type: ignore[arg-type]

    @property
    def relation(self) -> Relation:
        return "lower_bound"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        colours, given = self.read(x)
        posterior = self._posterior(colours, given)
        z = posterior.sample(generator)  # absent nodes have codes from the prior, which count nothing
        ratio = log_standard_normal(z) - posterior.log_prob(z)
        return self._reconstruction(colours, z, given) + ratio

    def elbo_terms(self, x: Tensor, *, generator: Generator | None = None) -> ElboTerms:
        colours, given = self.read(x)
        posterior = self._posterior(colours, given)
        z = posterior.sample(generator)
        return ElboTerms(self._reconstruction(colours, z, given), posterior.kl_to_standard(), posterior.mean.flatten(1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The bound with its sign changed, in bits a node."""
        terms = self.elbo_terms(batch[0], generator=self.train_generator)
        return self.bits_a_node(terms.kl - terms.reconstruction, self.read(batch[0])[1])

    def colours(self, given: Given, temperature: float, generator: Generator | None) -> Tensor:
        """Temperature scales the noise of the codes; colours are drawn from the decoder."""
        like = next(self.parameters())
        z = temperature * standard_normal((*given.mask.shape, self.latent_dim), like, generator)
        logits = self.decoder(z, given.adjacency)
        return (logits + gumbel(logits, generator)).argmax(2)

    def _posterior(self, colours: Tensor, given: Given) -> DiagonalGaussian:
        """q(z|c, G) of the codes ``(B, N, Z)``; N(0, I) for absent nodes."""
        indicators = one_hot(colours, self.n_colours).to(given.adjacency.dtype) * given.mask.unsqueeze(2)
        made = self.encoder(indicators, given.adjacency).to(indicators.dtype)
        mean, raw = (part * given.mask.unsqueeze(2) for part in made.chunk(2, 2))
        log_scale = bounded_log_scale(raw) * given.mask.unsqueeze(2)
        return DiagonalGaussian(mean, log_scale)

    def _reconstruction(self, colours: Tensor, z: Tensor, given: Given) -> Tensor:
        """log p(c | z, G), ``(B,)`` nats."""
        logits = self.decoder(z, given.adjacency).to(z.dtype)
        log_p = -cross_entropy(logits.movedim(2, 1), colours, reduction="none")
        return (log_p * given.mask).sum(1)
