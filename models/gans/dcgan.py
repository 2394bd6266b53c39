r"""Deep convolutional GAN with the non-saturating loss.

.. math::
    \min_D \; E[-\log \sigma(D(x))] + E[-\log \sigma(-D(G(z)))], \qquad \min_G \; E[-\log \sigma(D(G(z)))]

References:
    Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014): Generative adversarial
    networks, arXiv:1406.2661.
    Radford, Metz, Chintala (2016): Unsupervised representation learning with deep convolutional generative adversarial
    networks, arXiv:1511.06434.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..base import Batch, OptimizerFactory
from ..nn.dcgan import discriminator_network, generator_network
from .implicit import ImplicitModel
from .objectives import minimax_discriminator_loss, non_saturating_generator_loss

__all__ = ["DCGAN"]


class DCGAN(ImplicitModel):
    """Non-saturating GAN on logits with convolutional networks (fully connected ones for vectors).

    The discriminator sees integer data on [-1, 1], where the generator ends in tanh; real data as they are, with a
    linear end. Noise is N(0, 1); the paper's is uniform on [-1, 1], which has no temperature.

    Each batch is one discriminator step and one generator step on the same noise. The discriminator sees real and
    generated examples in two forwards: in one, batch normalization would mix their statistics.

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels, or None for reals.
        generator_optimizer: Makes the optimizer of the generator from its parameters.
        discriminator_optimizer: Makes the optimizer of the discriminator from its parameters.
        latent_dim: Dimension of the noise.
        width: Channels at half of the full resolution (``models.nn.dcgan``).

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
        latent_dim: int = 100,
        width: int = 64,
    ) -> None:
        shape = tuple(shape)
        generator = generator_network(shape, latent_dim, width, bounded=levels is not None)
        super().__init__(shape, levels, generator, latent_dim)
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.discriminator = discriminator_network(shape, width)
        self.discriminator_steps: Tensor
        self.register_buffer("discriminator_steps", torch.zeros((), dtype=torch.long))

    def configure_optimizers(self) -> Any:
        """The generator's optimizer, then the discriminator's."""
        return [
            self.generator_optimizer(self.generator.parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step of each network.

        Returns:
            Detached nats: ``discriminator_loss`` (2 ln 2 = 1.386 where D cannot tell), ``generator_loss`` (ln 2), and
            ``loss``, their sum. None of them measures how good the samples are.
        """
        real = self.real(batch)
        optimizers: Any = self.optimizers()
        generator_optimizer, discriminator_optimizer = optimizers
        fake = self.generator(self.noise(len(real)))

        on_real, on_fake = self.discriminator(real), self.discriminator(fake.detach())
        discriminator_loss = minimax_discriminator_loss(on_real, on_fake)
        self.take_step(discriminator_optimizer, self.discriminator, discriminator_loss)
        self.discriminator_steps += 1

        # Toggled, the discriminator passes gradients on and keeps none.
        with self.toggled_optimizer(generator_optimizer):
            generator_loss = non_saturating_generator_loss(self.discriminator(fake))
            self.take_step(generator_optimizer, self.generator, generator_loss)
        self.generator_steps += 1

        discriminator_loss, generator_loss = discriminator_loss.detach(), generator_loss.detach()
        return {
            "loss": discriminator_loss + generator_loss,
            "generator_loss": generator_loss,
            "discriminator_loss": discriminator_loss,
        }
