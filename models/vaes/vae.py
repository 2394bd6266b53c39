r"""Variational autoencoder with a diagonal Gaussian posterior, or one that a flow makes of it.

.. math::
    z \sim N(0, I), \quad x \sim p(x|z), \qquad
    \log p(x) \ge E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| p(z))

What training maximizes is an option: this bound, with a weight :math:`\beta` of the KL term (beta-VAE) and its warm-up,
or the tighter bound of K draws (IWAE)

.. math:: \log p(x) \ge E_{z_1 \ldots z_K \sim q(z|x)}
    \Big[\log \frac1K \sum_k \frac{p(x|z_k)\, p(z_k)}{q(z_k|x)}\Big].

What is measured does not depend on it: ``log_weight`` and ``elbo_terms`` are those of the model p(z) p(x|z).

With a flow f that sees features h(x) of the encoder, the posterior is that of :math:`z = f(z_0; h)`,

.. math:: z_0 \sim N(\mu(x), \mathrm{diag}\,\sigma^2(x)), \quad
    \log q(z|x) = \log N(z_0; \mu, \mathrm{diag}\,\sigma^2) - \log|\det \partial f / \partial z_0|

References:
    Kingma, Welling (2014): Auto-encoding variational Bayes, arXiv:1312.6114.
    Rezende, Mohamed (2015): Variational inference with normalizing flows, arXiv:1505.05770 (the flow posterior).
    Burda, Grosse, Salakhutdinov (2016): Importance weighted autoencoders, arXiv:1509.00519 (K draws; sizes of the
    YAML).
    Higgins, Matthey, Pal, Burgess, Glorot, Botvinick, Mohamed, Lerchner (2017): beta-VAE: Learning basic visual
    concepts with a constrained variational framework, ICLR (beta).
    Bowman, Vilnis, Vinyals, Dai, Jozefowicz, Bengio (2016): Generating sentences from a continuous space,
    arXiv:1511.06349 (warm-up).
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, distributed, nn

from ..base import (
    Autoencodes,
    Batch,
    ElboTerms,
    GenerativeModel,
    HasDecoder,
    HasLikelihood,
    HasPosterior,
    OptimizerFactory,
    Relation,
)
from ..distributions import (
    DiagonalGaussian,
    Distribution,
    bounded_log_scale,
    output_distribution,
    parameters_per_entry,
    standard_normal,
    to_symmetric,
)
from ..nn.autoencoder import DecoderNetwork, EncoderNetwork, dense_decoder, dense_encoder
from ..transforms.base import Transform

__all__ = ["VAE", "PosteriorFlow"]

CHUNK = 250  # examples decoded at once, so that memory does not grow with the number of samples


class PosteriorFlow(Protocol):
    """Makes the posterior's flow: a transform of codes ``(B, dim)`` that reads a context ``(B, n_context)``."""

    def __call__(self, dim: int, n_context: int) -> Transform: ...


class VAE(GenerativeModel, HasLikelihood, HasPosterior, Autoencodes, HasDecoder):
    r"""Variational autoencoder, for images and vectors.

    The encoder sees integer data on [-1, 1] and real data as they are (standardize them beforehand if their scales
    differ widely). The decoder's distribution p(x|z) has independent entries; which it is follows from ``levels`` and
    ``output`` (``models.distributions.output_distribution``): Bernoulli for 2 levels, discretized logistic or mixture
    of discretized logistics for more, diagonal Gaussian with a learned scale for reals. ``likelihood(z)`` gives it for
    codes z, with its log-density, a draw, its mean and its median: for whatever needs p(x|z) itself.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for reals.
        optimizer: Makes the optimizer from the parameters.
        latent_dim: Z, dimension of the code.
        hidden: Units in each hidden layer of the encoder and of the decoder.
        depth: Hidden layers of each; 0 makes both linear.
        kl_warmup: Training examples over which the weight of the KL term grows linearly from 0 to ``beta``, in training
            only; 0 trains with the full weight from the start.
        flow: Makes the flow of the posterior; None: it is the diagonal Gaussian.
        features: For a flow: how many numbers h(x) it sees of the encoder.
        encoder, decoder: Make the networks; None: fully connected ones of ``depth`` layers of ``hidden`` tanh units.
            (Those two are not read by networks that are given here.)
        output: Kind of p(x|z), one of ``models.distributions.OUTPUTS``; None: the first that suits the data.
        components: For ``output`` ``mixture``: number of logistics.
        beta: Weight of the KL term in training.
        draws: K, codes drawn for each training example. 1 trains on the ELBO, more on the importance-weighted bound.

    Raises:
        ValueError: A size is out of range, the networks do not take this shape, the output does not suit the data, the
            KL term is weighted in a bound that has none, or the flow is no bijection with an exact log-determinant.
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
        encoder: EncoderNetwork | None = None,
        decoder: DecoderNetwork | None = None,
        output: str | None = None,
        components: int = 10,
        beta: float = 1.0,
        draws: int = 1,
    ) -> None:
        super().__init__(shape, levels)
        if min(latent_dim, hidden, features) < 1 or min(depth, kl_warmup) < 0:
            raise ValueError(
                "latent_dim, hidden and features must be at least 1, depth and kl_warmup at least 0, "
                f"not {latent_dim}, {hidden}, {features}, {depth}, {kl_warmup}"
            )
        if not 0 < beta < math.inf or draws < 1:
            raise ValueError(f"beta must be positive and draws at least 1, not {beta} and {draws}")
        if draws > 1 and (beta != 1 or kl_warmup > 0):
            raise ValueError(f"beta and kl_warmup weigh the KL term, which the bound of draws={draws} does not have")
        encoder = functools.partial(dense_encoder, hidden=hidden, depth=depth) if encoder is None else encoder
        decoder = functools.partial(dense_decoder, hidden=hidden, depth=depth) if decoder is None else decoder
        self.optimizer = optimizer
        self.latent_dim = latent_dim
        self.kl_warmup = kl_warmup
        self.output, self.components = output, components
        self.beta = beta
        self.draws = draws
        n_features = features if flow is not None else 0
        self.encoder = GaussianEncoder(encoder(self.shape, 2 * latent_dim + n_features), latent_dim)
        self.flow = None if flow is None else flow(latent_dim, features)
        if self.flow is not None and self.flow.relation != "exact":
            raise ValueError("the posterior's flow must be a bijection with an exact log-determinant")
        self.decoder = decoder(self.shape, latent_dim, parameters_per_entry(levels, output, components))
        self.examples_trained: Tensor
        self.register_buffer("examples_trained", torch.zeros((), dtype=torch.long))  # a buffer: it is checkpointed

    @property
    def relation(self) -> Relation:
        return "lower_bound" if self.encoder.stochastic else "exact"

    def likelihood(self, z: Tensor) -> Distribution:
        """p(x|z), the distribution of data given codes ``(B, Z)``, with one row for each code.

        Its ``mean`` is the decoder's mean, differentiable in z; ``decode`` returns its median, which is data.
        """
        per_entry = parameters_per_entry(self.levels, self.output, self.components)
        parameters = self.decoder(z).unflatten(1, (per_entry, *self.shape))  # (B, P, *shape)
        return output_distribution(parameters, self.levels, self.output, self.components)

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        r""":math:`\log p(x|z) + \log p(z) - \log q(z|x)` with one :math:`z \sim q(z|x)`, ``(B,)`` nats."""
        return self._log_weights(x, 1, generator)[0]

    def elbo_terms(self, x: Tensor, *, generator: Generator | None = None) -> ElboTerms:
        """One draw of the terms of the ELBO. Those of the Gaussian posterior's KL and mean are analytic."""
        posterior, features = self._posterior(x)
        z0 = posterior.sample(generator)
        z, log_det = self._through_flow(z0, features)
        if self.flow is None:
            kl, code = posterior.kl_to_standard(), posterior.mean
        else:
            kl, code = posterior.log_prob(z0) - log_det - self._log_prior(z), z
        return ElboTerms(self.likelihood(z).log_prob(x), kl, code)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The negative of the bound that is maximized: bits/dim for integer data, nats an example for reals."""
        x, _ = batch
        if self.draws == 1:
            terms = self.elbo_terms(x, generator=self.train_generator)
            loss = (self._kl_weight() * terms.kl - terms.reconstruction).mean()
        else:
            log_w = self._log_weights(x, self.draws, self.train_generator)  # (K, B)
            loss = math.log(self.draws) - log_w.logsumexp(0).mean()
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
        return torch.cat([self.likelihood(chunk).sample(generator) for chunk in torch.split(z, CHUNK)])

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """The Gaussian's mean, through the flow where there is one, ``(B, Z)``. ``generator`` is not used."""
        posterior, features = self._posterior(x)
        return self._through_flow(posterior.mean, features)[0]

    def decode(self, z: Tensor) -> Tensor:
        """The entrywise median of p(x|z), ``(B, *shape)``, which is data: a level for integers, the mean for reals."""
        return self.likelihood(z).median

    def decoder_mean(self, z: Tensor) -> Tensor:
        mean = self.likelihood(z).mean
        return to_symmetric(mean, self.levels, mean.dtype)

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

    def _log_weights(self, x: Tensor, draws: int, generator: Generator | None) -> Tensor:
        """Log-weights of K draws of z for each example, ``(K, B)``."""
        posterior, features = self._posterior(x)
        posterior = DiagonalGaussian(posterior.mean.repeat(draws, 1), posterior.log_scale.repeat(draws, 1))
        z0 = posterior.sample(generator)  # (K B, Z)
        z, log_det = self._through_flow(z0, features.repeat(draws, 1))
        log_q = posterior.log_prob(z0) - log_det
        log_w = self.likelihood(z).log_prob(x.repeat(draws, *[1] * len(self.shape))) + self._log_prior(z) - log_q
        return log_w.unflatten(0, (draws, len(x)))

    def _kl_weight(self) -> Tensor | float:
        if self.kl_warmup == 0:
            return self.beta
        return self.beta * (self.examples_trained / self.kl_warmup).clamp(max=1.0)


class GaussianEncoder(nn.Module):
    """``(B, *shape)`` on the symmetric scale to a diagonal Gaussian over ``(B, Z)`` and features ``(B, H)``.

    Arguments:
        network: Flattened examples to ``(B, 2 Z + H)``: means, raw log-scales and features.
        latent_dim: Z.
    """

    stochastic = True  # a draw from q makes the log-weight random, and its mean a lower bound by Jensen's inequality

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.network = network

    def forward(self, x: Tensor) -> tuple[DiagonalGaussian, Tensor]:
        output = self.network(x.flatten(1))
        # As for the decoder: no likelihood in half precision.
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        mean, raw, features = output.tensor_split([self.latent_dim, 2 * self.latent_dim], dim=1)
        return DiagonalGaussian(mean, bounded_log_scale(raw)), features
