r"""Variational autoencoder with a diagonal Gaussian posterior.

.. math::
    z \sim N(0, I), \quad x \sim p(x|z), \qquad
    \log p(x) \ge E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| p(z))

References:
    Kingma, Welling (2014): Auto-Encoding Variational Bayes.
    Burda, Grosse, Salakhutdinov (2016): Importance Weighted Autoencoders (sizes and optimizer of the YAML).
    Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio (2016): Generating Sentences from a Continuous Space (warm-up).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Generator, Tensor, distributed, nn
from torch.optim import Optimizer

from ..base import Autoencodes, Batch, GenerativeModel, HasLikelihood, Relation
from ..distributions import (
    DiagonalGaussian,
    Distribution,
    bounded_log_scale,
    output_distribution,
    parameters_per_entry,
    standard_normal,
    to_symmetric,
)

__all__ = ["VAE"]

CHUNK = 1024  # examples decoded at once, so that memory does not grow with the number of samples


class VAE(GenerativeModel, HasLikelihood, Autoencodes):
    r"""Variational autoencoder with fully connected tanh networks, for images (flattened) and vectors.

    The encoder sees integer data on [-1, 1] and real data as they are (standardize them beforehand if their scales
    differ widely). The decoder's distribution follows from ``levels``: Bernoulli for 2, discretized logistic for
    more, diagonal Gaussian with a learned scale for reals (``models.distributions.output_distribution``).

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for reals.
        optimizer: Takes the parameters and returns their optimizer.
        latent_dim: Z, dimension of the code.
        hidden: Units in each hidden layer of the encoder and of the decoder.
        depth: Hidden layers of each; 0 makes both linear.
        kl_warmup: Training examples over which the weight of the KL term grows linearly from 0 to 1, in training
            only; 0 trains on the ELBO from the start.

    Raises:
        ValueError: If a size is out of range.
    """

    family = "vae"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        latent_dim: int = 50,
        hidden: int = 200,
        depth: int = 2,
        kl_warmup: int = 0,
    ) -> None:
        super().__init__(shape, levels)
        if min(latent_dim, hidden) < 1 or min(depth, kl_warmup) < 0:
            raise ValueError(
                "latent_dim and hidden must be at least 1, depth and kl_warmup at least 0, "
                f"not {latent_dim}, {hidden}, {depth}, {kl_warmup}"
            )
        self.optimizer = optimizer
        self.latent_dim = latent_dim
        self.kl_warmup = kl_warmup
        self.encoder = GaussianEncoder(self.dim, latent_dim, hidden, depth)
        self.decoder = tanh_network(latent_dim, parameters_per_entry(levels) * self.dim, hidden, depth)
        self.examples_trained: Tensor
        self.register_buffer("examples_trained", torch.zeros((), dtype=torch.long))  # a buffer: it is checkpointed

    @property
    def relation(self) -> Relation:
        return "lower_bound" if self.encoder.stochastic else "exact"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        r""":math:`\log p(x|z) + \log p(z) - \log q(z|x)` with one :math:`z \sim q(z|x)`, ``(B,)`` nats."""
        posterior = self._posterior(x)
        z = posterior.sample(generator)
        prior = DiagonalGaussian(torch.zeros_like(z), torch.zeros_like(z))
        return self._likelihood(z).log_prob(x) + prior.log_prob(z) - posterior.log_prob(z)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Negative ELBO with the analytic KL: bits/dim for integer data, nats an example for reals."""
        x, _ = batch
        posterior = self._posterior(x)
        reconstruction = self._likelihood(posterior.sample(self.train_generator)).log_prob(x)
        loss = (self._kl_weight() * posterior.kl_to_standard() - reconstruction).mean()
        world_size = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
        self.examples_trained += len(x) * world_size
        return loss if self.levels is None else loss / (self.dim * math.log(2))

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw z ~ N(0, temperature^2 I), then x ~ p(x|z).

        The second draw is part of the model: the decoder's means, often shown as "VAE samples", are not distributed
        as p(x), and any comparison with the model's likelihood would be of two different models.
        """
        z = temperature * standard_normal((n, self.latent_dim), next(self.parameters()), generator)
        return torch.cat([self._likelihood(chunk).sample(generator) for chunk in torch.split(z, CHUNK)])

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """The posterior mean, ``(B, Z)``. Deterministic: ``generator`` is not used."""
        return self._posterior(x).mean

    def decode(self, z: Tensor) -> Tensor:
        """The entrywise median of p(x|z), ``(B, *shape)``, which is data: a level for integers, the mean for reals."""
        return self._likelihood(z).median

    def _posterior(self, x: Tensor) -> DiagonalGaussian:
        posterior: DiagonalGaussian = self.encoder(to_symmetric(x, self.levels, next(self.parameters()).dtype))
        return posterior

    def _likelihood(self, z: Tensor) -> Distribution:
        parameters = self.decoder(z).unflatten(1, (parameters_per_entry(self.levels), *self.shape))  # (B, P, *shape)
        return output_distribution(parameters, self.levels)

    def _kl_weight(self) -> Tensor | float:
        return 1.0 if self.kl_warmup == 0 else (self.examples_trained / self.kl_warmup).clamp(max=1.0)


class GaussianEncoder(nn.Module):
    """q(z|x): ``(B, *shape)`` on the symmetric scale to a diagonal Gaussian over ``(B, Z)``."""

    stochastic = True  # a draw from q makes the log-weight random, and its mean a lower bound by Jensen's inequality

    def __init__(self, in_features: int, latent_dim: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.network = tanh_network(in_features, 2 * latent_dim, hidden, depth)

    def forward(self, x: Tensor) -> DiagonalGaussian:
        mean, raw = self.network(x.flatten(1)).chunk(2, dim=1)  # (B, Z) each
        precise = torch.promote_types(mean.dtype, torch.float32)  # as for the decoder: no likelihood in half precision
        return DiagonalGaussian(mean.to(precise), bounded_log_scale(raw.to(precise)))


def tanh_network(in_features: int, out_features: int, hidden: int, depth: int) -> nn.Sequential:
    """``depth`` hidden layers of tanh units with Glorot's initialization (Glorot, Bengio 2010), and a linear layer."""
    sizes = [in_features, *[hidden] * depth, out_features]
    network = nn.Sequential()
    for i in range(depth + 1):
        linear = nn.Linear(sizes[i], sizes[i + 1])
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        network.append(linear)
        if i < depth:
            network.append(nn.Tanh())
    return network
