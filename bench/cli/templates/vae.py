r"""A variational autoencoder with a diagonal Gaussian posterior.

.. math::
    z \sim N(0, I), \quad x \sim p(x|z), \qquad
    \log p(x) \ge E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| p(z))

References:
    Kingma, Welling (2014): Auto-Encoding Variational Bayes. arXiv:1312.6114.

To make it yours, change the two networks in ``__init__``, the posterior in ``_posterior`` or the loss in
``training_step``. ``log_weight`` must stay log p(x, z) - log q(z|x) with z drawn from q(z|x).
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from models.base import Autoencodes, Batch, GenerativeModel, HasLikelihood, Relation
from models.distributions import (
    DiagonalGaussian,
    Distribution,
    bounded_log_scale,
    output_distribution,
    parameters_per_entry,
    standard_normal,
    to_symmetric,
)
from models.nn.mlp import MLP

__all__ = ["Mine"]


class Mine(GenerativeModel, HasLikelihood, Autoencodes):
    """A VAE of fully connected networks; images are flattened.

    The encoder sees integer data on [-1, 1]. The decoder's distribution follows from ``levels``: Bernoulli for 2, a
    discretized logistic for more, a normal for reals.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        latent_dim: Numbers of the code z.
        hidden, depth: Units and hidden layers of each network.

    Raises:
        ValueError: A number is out of range.
    """

    family = "vae"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        latent_dim: int = 16,
        hidden: int = 256,
        depth: int = 2,
    ) -> None:
        super().__init__(shape, levels)
        if min(latent_dim, hidden) < 1 or depth < 0:
            raise ValueError(f"no network has {latent_dim} outputs and {depth} layers of {hidden} units")
        self.make_optimizer = optimizer
        self.latent_dim = latent_dim
        self.encoder = MLP(self.dim, 2 * latent_dim, hidden=hidden, depth=depth)
        self.decoder = MLP(latent_dim, parameters_per_entry(levels) * self.dim, hidden=hidden, depth=depth)

    @property
    def relation(self) -> Relation:
        return "lower_bound"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """log p(x|z) + log p(z) - log q(z|x) with one z from q(z|x), ``(B, *shape) -> (B,)`` nats."""
        posterior = self._posterior(x)
        z = posterior.sample(generator)
        log_prior = -0.5 * z.square().sum(1) - 0.5 * self.latent_dim * math.log(2 * math.pi)
        return self._likelihood(z).log_prob(x) + log_prior - posterior.log_prob(z)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Minus the evidence lower bound: bits/dim for integer data, nats an example for reals."""
        x, _ = batch
        posterior = self._posterior(x)
        z = posterior.sample(self.train_generator)
        loss = (posterior.kl_to_standard() - self._likelihood(z).log_prob(x)).mean()
        return loss if self.levels is None else loss / (self.dim * math.log(2))

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        return self._posterior(x).mean

    def decode(self, z: Tensor) -> Tensor:
        return self._likelihood(z).median

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        z = standard_normal((n, self.latent_dim), next(self.parameters()), generator)
        return self._likelihood(temperature * z).sample(generator)

    def _posterior(self, x: Tensor) -> DiagonalGaussian:
        """q(z|x), ``(B, Z)``."""
        output = self.encoder(to_symmetric(x, self.levels, next(self.parameters()).dtype).flatten(1))
        # Autocast may have made it bfloat16, in which a log-likelihood would be off by whole nats.
        mean, raw = output.to(torch.promote_types(output.dtype, torch.float32)).chunk(2, 1)
        return DiagonalGaussian(mean, bounded_log_scale(raw))

    def _likelihood(self, z: Tensor) -> Distribution:
        """p(x|z), ``(B, *shape)``."""
        parameters = self.decoder(z).unflatten(1, (parameters_per_entry(self.levels), *self.shape))
        return output_distribution(parameters, self.levels)
