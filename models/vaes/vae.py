r"""Variational autoencoder with a diagonal Gaussian posterior, or one that a flow makes of it.

.. math::
    z \sim N(0, I), \quad x \sim p(x|z), \qquad
    \log p(x) \ge E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| p(z))

With a flow f that sees features h(x) of the encoder, the posterior is that of :math:`z = f(z_0; h)`,

.. math:: z_0 \sim N(\mu(x), \mathrm{diag}\,\sigma^2(x)), \quad
    \log q(z|x) = \log N(z_0; \mu, \mathrm{diag}\,\sigma^2) - \log|\det \partial f / \partial z_0|

References:
    Kingma, Welling (2014): Auto-encoding variational Bayes, arXiv:1312.6114.
    Rezende, Mohamed (2015): Variational inference with normalizing flows, arXiv:1505.05770 (the flow posterior).
    Burda, Grosse, Salakhutdinov (2016): Importance weighted autoencoders, arXiv:1509.00519 (sizes of the YAML).
    Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio (2016): Generating sentences from a continuous space,
    arXiv:1511.06349 (warm-up).
"""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, distributed, nn

from ..base import Autoencodes, Batch, GenerativeModel, HasDecoder, HasLikelihood, OptimizerFactory, Relation
from ..distributions import (
    DiagonalGaussian,
    Distribution,
    bounded_log_scale,
    output_distribution,
    parameters_per_entry,
    standard_normal,
    to_symmetric,
)
from ..transforms.base import Transform

__all__ = ["VAE", "PosteriorFlow"]

CHUNK = 1024  # examples decoded at once, so that memory does not grow with the number of samples


class PosteriorFlow(Protocol):
    """Makes the posterior's flow: a transform of codes ``(B, dim)`` that reads a context ``(B, n_context)``."""

    def __call__(self, dim: int, n_context: int) -> Transform: ...


class VAE(GenerativeModel, HasLikelihood, Autoencodes, HasDecoder):
    r"""Variational autoencoder with fully connected tanh networks, for images (flattened) and vectors.

    The encoder sees integer data on [-1, 1] and real data as they are (standardize them beforehand if their scales
    differ widely). The decoder's distribution follows from ``levels``: Bernoulli for 2, discretized logistic for
    more, diagonal Gaussian with a learned scale for reals (``models.distributions.output_distribution``).

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for reals.
        optimizer: Makes the optimizer from the parameters.
        latent_dim: Z, dimension of the code.
        hidden: Units in each hidden layer of the encoder and of the decoder.
        depth: Hidden layers of each; 0 makes both linear.
        kl_warmup: Training examples over which the weight of the KL term grows linearly from 0 to 1, in training
            only; 0 trains on the ELBO from the start.
        flow: Makes the flow of the posterior; None: it is the diagonal Gaussian.
        features: For a flow: how many numbers h(x) it sees of the encoder.

    Raises:
        ValueError: A size is out of range, or the flow is no bijection with an exact log-determinant.
    """

    family = "vae"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        latent_dim: int = 50,
        hidden: int = 200,
        depth: int = 2,
        kl_warmup: int = 0,
        flow: PosteriorFlow | None = None,
        features: int = 64,
    ) -> None:
        super().__init__(shape, levels)
        if min(latent_dim, hidden, features) < 1 or min(depth, kl_warmup) < 0:
            raise ValueError(
                "latent_dim, hidden and features must be at least 1, depth and kl_warmup at least 0, "
                f"not {latent_dim}, {hidden}, {features}, {depth}, {kl_warmup}"
            )
        self.optimizer = optimizer
        self.latent_dim = latent_dim
        self.kl_warmup = kl_warmup
        self.encoder = GaussianEncoder(self.dim, latent_dim, hidden, depth, features if flow is not None else 0)
        self.flow = None if flow is None else flow(latent_dim, features)
        if self.flow is not None and self.flow.relation != "exact":
            raise ValueError("the posterior's flow must be a bijection with an exact log-determinant")
        self.decoder = tanh_network(latent_dim, parameters_per_entry(levels) * self.dim, hidden, depth)
        self.examples_trained: Tensor
        self.register_buffer("examples_trained", torch.zeros((), dtype=torch.long))  # a buffer: it is checkpointed

    @property
    def relation(self) -> Relation:
        return "lower_bound" if self.encoder.stochastic else "exact"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        r""":math:`\log p(x|z) + \log p(z) - \log q(z|x)` with one :math:`z \sim q(z|x)`, ``(B,)`` nats."""
        posterior, features = self._posterior(x)
        z0 = posterior.sample(generator)
        z, log_det = self._through_flow(z0, features)
        log_q = posterior.log_prob(z0) - log_det
        return self._likelihood(z).log_prob(x) + self._log_prior(z) - log_q

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Negative ELBO: bits/dim for integer data, nats an example for reals.

        The KL term is analytic for the Gaussian posterior, and estimated with the drawn code for a flow's.
        """
        x, _ = batch
        posterior, features = self._posterior(x)
        z0 = posterior.sample(self.train_generator)
        z, log_det = self._through_flow(z0, features)
        kl = posterior.kl_to_standard() if self.flow is None else posterior.log_prob(z0) - log_det - self._log_prior(z)
        loss = (self._kl_weight() * kl - self._likelihood(z).log_prob(x)).mean()
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
        """The Gaussian's mean, through the flow where there is one, ``(B, Z)``. ``generator`` is not used."""
        posterior, features = self._posterior(x)
        return self._through_flow(posterior.mean, features)[0]

    def decode(self, z: Tensor) -> Tensor:
        """The entrywise median of p(x|z), ``(B, *shape)``, which is data: a level for integers, the mean for reals."""
        return self._likelihood(z).median

    def decoder_mean(self, z: Tensor) -> Tensor:
        raw: Tensor = self.decoder(z).unflatten(1, (parameters_per_entry(self.levels), *self.shape))[:, 0]
        return 2 * raw.sigmoid() - 1 if self.levels == 2 else raw

    def _posterior(self, x: Tensor) -> tuple[DiagonalGaussian, Tensor]:
        """The Gaussian that z_0 is drawn from, and h(x), ``(B, features)`` (``(B, 0)`` without a flow)."""
        made: tuple[DiagonalGaussian, Tensor] = self.encoder(
            to_symmetric(x, self.levels, next(self.parameters()).dtype)
        )
        return made

    def _through_flow(self, z0: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        if self.flow is None:
            return z0, z0.new_zeros(len(z0))
        made: tuple[Tensor, Tensor] = self.flow(z0, context=features)
        return made

    def _log_prior(self, z: Tensor) -> Tensor:
        return DiagonalGaussian(torch.zeros_like(z), torch.zeros_like(z)).log_prob(z)

    def _likelihood(self, z: Tensor) -> Distribution:
        parameters = self.decoder(z).unflatten(1, (parameters_per_entry(self.levels), *self.shape))  # (B, P, *shape)
        return output_distribution(parameters, self.levels)

    def _kl_weight(self) -> Tensor | float:
        return 1.0 if self.kl_warmup == 0 else (self.examples_trained / self.kl_warmup).clamp(max=1.0)


class GaussianEncoder(nn.Module):
    """``(B, *shape)`` on the symmetric scale to a diagonal Gaussian over ``(B, Z)`` and features ``(B, H)``."""

    stochastic = True  # a draw from q makes the log-weight random, and its mean a lower bound by Jensen's inequality

    def __init__(self, in_features: int, latent_dim: int, hidden: int, depth: int, features: int) -> None:
        super().__init__()
        self.sizes = [latent_dim, latent_dim, features]
        self.network = tanh_network(in_features, sum(self.sizes), hidden, depth)

    def forward(self, x: Tensor) -> tuple[DiagonalGaussian, Tensor]:
        output = self.network(x.flatten(1))
        # As for the decoder: no likelihood in half precision.
        mean, raw, features = output.to(torch.promote_types(output.dtype, torch.float32)).split(self.sizes, dim=1)
        return DiagonalGaussian(mean, bounded_log_scale(raw)), features


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
