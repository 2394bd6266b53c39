r"""Bidirectional GAN, also known as adversarially learned inference: a GAN with an encoder.

.. math::
    \min_D \; E_x[-\log \sigma(D(x, E(x)))] + E_z[-\log \sigma(-D(G(z), z))], \qquad
    \min_{G, E} \; E_x[-\log \sigma(-D(x, E(x)))] + E_z[-\log \sigma(D(G(z), z))]

The discriminator tells pairs of an example and its code from pairs of noise and what is generated from it. Where it
cannot, the two joint distributions are equal, and E and G are inverse to each other.

References:
    Donahue, Krähenbühl, Darrell (2017): Adversarial feature learning, arXiv:1605.09782.
    Dumoulin, Belghazi, Poole, Mastropietro, Lamb, Arjovsky, Courville (2017): Adversarially learned inference,
    arXiv:1606.00704.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..base import Autoencodes, Batch, HasDiscriminator, OptimizerFactory
from ..distributions import bounded_log_scale, from_symmetric, standard_normal, to_symmetric
from ..nn.bigan import JointDiscriminator, encoder_network
from ..nn.dcgan import generator_network
from .implicit import ImplicitModel
from .objectives import minimax_discriminator_loss

__all__ = ["BiGAN"]


class BiGAN(ImplicitModel, HasDiscriminator, Autoencodes):
    r"""GAN with an encoder and a discriminator of pairs, on DCGAN's networks (fully connected ones for vectors).

    The losses are cross-entropies, and the generator's and the encoder's is that of the discriminator with the labels
    exchanged, as in both papers: it does not saturate. Each batch is one step of the discriminator and one step of
    generator and encoder together, on the same noise. Real and generated pairs pass through the discriminator in two
    forwards: in one, batch normalization would mix their statistics.

    The encoder is a function of the example (Donahue et al.), or draws the code from a Gaussian whose mean and scale
    are (Dumoulin et al.): :math:`z = \mu(x) + \sigma(x)\,\epsilon`.

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels, or None for reals.
        generator_optimizer: Makes the optimizer of the generator and the encoder from their parameters.
        discriminator_optimizer: Makes the optimizer of the discriminator from its parameters.
        latent_dim: Dimension of the noise and of the codes.
        width: Channels at half of the full resolution (``models.nn.dcgan``).
        stochastic: Whether the encoder draws codes.

    Attributes:
        generator_steps, discriminator_steps: Optimizer steps taken, checkpointed with the weights. (Lightning's
            ``global_step`` counts both together.)

    Raises:
        ValueError: A size is out of range, or the shape is neither a vector's nor an image's.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        latent_dim: int = 50,
        width: int = 64,
        stochastic: bool = False,
    ) -> None:
        shape = tuple(shape)
        generator = generator_network(shape, latent_dim, width, bounded=levels is not None)
        super().__init__(shape, levels, generator, latent_dim)
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.stochastic = stochastic
        self.encoder = encoder_network(shape, 2 * latent_dim if stochastic else latent_dim, width)
        self.discriminator = JointDiscriminator(shape, latent_dim, width)
        self.discriminator_steps: Tensor
        self.register_buffer("discriminator_steps", torch.zeros((), dtype=torch.long))

    def configure_optimizers(self) -> Any:
        """The optimizer of generator and encoder, then the discriminator's."""
        return [
            self.generator_optimizer(self.averaged().parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step of the discriminator, and one of generator and encoder.

        Returns:
            Detached nats: ``discriminator_loss`` and ``generator_loss`` (2 ln 2 = 1.386 each where D cannot tell), and
            ``loss``, their sum. None of them measures how good the samples are.
        """
        real = self.real(batch)
        optimizers: Any = self.optimizers()
        generator_optimizer, discriminator_optimizer = optimizers
        z = self.noise(len(real))
        fake, code = self.generator(z), self._code(real, self.train_generator)

        on_real, on_fake = self.discriminator(real, code.detach()), self.discriminator(fake.detach(), z)
        discriminator_loss = minimax_discriminator_loss(on_real, on_fake)
        self.take_step(discriminator_optimizer, self.discriminator, discriminator_loss)
        self.discriminator_steps += 1

        # Toggled, the discriminator passes gradients on and keeps none.
        with self.toggled_optimizer(generator_optimizer):
            on_real, on_fake = self.discriminator(real, code), self.discriminator(fake, z)
            generator_loss = minimax_discriminator_loss(on_fake, on_real)  # with the labels exchanged
            self.take_step(generator_optimizer, self.averaged(), generator_loss)
        self.generator_steps += 1

        discriminator_loss, generator_loss = discriminator_loss.detach(), generator_loss.detach()
        return {
            "loss": discriminator_loss + generator_loss,
            "generator_loss": generator_loss,
            "discriminator_loss": discriminator_loss,
        }

    def verdicts(self, batch: Batch, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """The logits of pairs of an example and its code, and of noise and what is generated from it."""
        real = self.real(batch)
        z = standard_normal((len(real), self.latent_dim), self._like, generator)
        return self.discriminator(real, self._code(real, generator)), self.discriminator(self.generator(z), z)

    def encode(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """The codes of examples, ``(B, Z)``: E(x), or the Gaussian's mean. ``generator`` is not used.

        Batch normalization takes its statistics as the model's mode says.
        """
        mean: Tensor = self.encoder(to_symmetric(x, self.levels, self._like.dtype))[:, : self.latent_dim]
        return mean

    def decode(self, z: Tensor) -> Tensor:
        """G(z), rounded to levels, ``(B, *shape)``."""
        return from_symmetric(self.generator(z), self.levels)

    def averaged(self) -> nn.Module:
        """Generator and encoder: they are trained together, to be inverse to each other."""
        return nn.ModuleList([self.generator, self.encoder])

    def _code(self, real: Tensor, generator: Generator | None) -> Tensor:
        """What the encoder gives for examples on the networks' scale, or draws."""
        output: Tensor = self.encoder(real)
        if not self.stochastic:
            return output
        mean, raw = output.chunk(2, dim=1)
        return mean + bounded_log_scale(raw).exp() * standard_normal(mean.shape, mean, generator)
