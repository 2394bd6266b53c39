r"""Autoencoder whose samples come from a Gaussian that is fitted to its codes.

.. math:: \min_{e, d} E_x |d(e(x)) - x|^2, \qquad x = d(z), \quad z \sim N(m, S)

with m and S the mean and the covariance of the codes e(x) of training examples. It has no likelihood: d is a function,
so its samples lie on a Z-dimensional surface, and the Gaussian knows nothing of the codes but two moments. (Ghosh,
Sajjadi, Vergari, Black, Schölkopf 2020, From variational to deterministic autoencoders, arXiv:1903.12436, call this
ex-post density estimation. They fit after training; here the moments are kept up to date in training.)
"""

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Generator, Tensor

from ..base import Autoencodes, Batch, GenerativeModel, OptimizerFactory
from ..distributions import from_symmetric, standard_normal, to_symmetric
from ..nn.autoencoder import DecoderNetwork, EncoderNetwork, dense_decoder, dense_encoder

__all__ = ["Autoencoder"]

CHUNK = 250  # examples decoded at once, so that memory does not grow with the number of samples


class Autoencoder(GenerativeModel, Autoencodes):
    r"""Autoencoder with squared error, for images and vectors. It has no likelihood.

    Networks see integer data on [-1, 1] and real data as they are. What is decoded is rounded to levels.

    The moments of the codes are exponentially weighted over the batches that it was trained on, with weight a for
    batch t, whose codes have mean b and covariance C:

    .. math:: a = \max(1 - \text{decay}, 1/t), \quad \delta = b - m, \quad
        m \leftarrow m + a \delta, \quad S \leftarrow (1 - a)(S + a\, \delta \delta^T) + a\, C

    They are buffers: every checkpoint holds those of its own step, training resumes with them, only training examples
    are in them, and no pass over the data is needed after training. The price is that they follow the codes of the last
    1 / (1 - decay) batches, not of the final encoder. Averaging of weights (``train.ema_decay``) does not average them.
    With several processes those of the first are kept.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for reals.
        optimizer: Makes the optimizer from the parameters.
        latent_dim: Z, dimension of the code.
        hidden: Units in each hidden layer of the encoder and of the decoder.
        depth: Hidden layers of each; 0 makes both linear.
        encoder, decoder: Make the networks; None: fully connected ones of ``depth`` layers of ``hidden`` tanh units.
            (Those two are not read by networks that are given here.)
        decay: Of the moments of the codes, in [0, 1).

    Raises:
        ValueError: A size is out of range, or the networks do not take this shape.
    """

    family = "autoencoder"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        latent_dim: int = 32,
        hidden: int = 200,
        depth: int = 2,
        encoder: EncoderNetwork | None = None,
        decoder: DecoderNetwork | None = None,
        decay: float = 0.99,
    ) -> None:
        super().__init__(shape, levels)
        if latent_dim < 1 or not 0 <= decay < 1:
            raise ValueError(f"latent_dim must be at least 1 and decay in [0, 1), not {latent_dim} and {decay}")
        encoder = functools.partial(dense_encoder, hidden=hidden, depth=depth) if encoder is None else encoder
        decoder = functools.partial(dense_decoder, hidden=hidden, depth=depth) if decoder is None else decoder
        self.optimizer = optimizer
        self.decay = decay
        self.encoder = encoder(self.shape, latent_dim)
        self.decoder = decoder(self.shape, latent_dim, 1)
        self.batches_seen: Tensor
        self.code_mean: Tensor
        self.code_covariance: Tensor
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("code_mean", torch.zeros(latent_dim))
        self.register_buffer("code_covariance", torch.eye(latent_dim))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of an entry, on [-1, 1] for integer data, in the data's own unit for reals."""
        x = self._scaled(batch[0])
        z = self.encoder(x.flatten(1))
        self._count(z.detach())
        return (self._decoded(z).float() - x).square().mean()

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw z ~ N(m, temperature^2 S) and decode it."""
        # The symmetric root is unique. It is taken on the CPU, because not every GPU has float64.
        values, vectors = torch.linalg.eigh(self.code_covariance.cpu().double())
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        noise = standard_normal((n, len(root)), self.code_mean, generator)
        z = self.code_mean + temperature * noise @ root.to(noise)
        return torch.cat([self.decode(chunk) for chunk in torch.split(z, CHUNK)])

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """e(x), ``(B, Z)``. ``generator`` is not used."""
        code: Tensor = self.encoder(self._scaled(x).flatten(1))
        return code

    def decode(self, z: Tensor) -> Tensor:
        """d(z), ``(B, *shape)``, rounded to levels for integer data."""
        return from_symmetric(self._decoded(z), self.levels)

    def _scaled(self, x: Tensor) -> Tensor:
        return to_symmetric(x, self.levels, self.code_mean.dtype)

    def _decoded(self, z: Tensor) -> Tensor:
        y: Tensor = self.decoder(z).unflatten(1, self.shape)
        return y

    @torch.no_grad()
    def _count(self, z: Tensor) -> None:
        """Add a batch of codes to their moments."""
        z = z.to(self.code_mean.dtype)
        self.batches_seen += 1
        weight = (1 / self.batches_seen).clamp(min=1 - self.decay).to(z.dtype)
        mean = z.mean(0)
        covariance = (z - mean).T @ (z - mean) / len(z)
        step = mean - self.code_mean
        self.code_covariance.copy_(
            (1 - weight) * (self.code_covariance + weight * step.outer(step)) + weight * covariance
        )
        self.code_mean += weight * step
