r"""Deep convolutional GAN with the non-saturating loss.

.. math::
    \min_D \; E[-\log \sigma(D(x))] + E[-\log \sigma(-D(G(z)))], \qquad \min_G \; E[-\log \sigma(D(G(z)))]

References:
    Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014): Generative Adversarial Nets.
    Radford, Metz, Chintala (2016): Unsupervised Representation Learning with Deep Convolutional Generative
    Adversarial Networks.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from ..base import Batch, GenerativeModel
from ..distributions import from_symmetric, standard_normal, to_symmetric
from ..nn.dcgan import discriminator_network, generator_network

__all__ = ["DCGAN"]

CHUNK = 1024  # examples generated at once, so that memory does not grow with the number of samples


class DCGAN(GenerativeModel):
    """Non-saturating GAN on logits with convolutional networks (fully connected ones for vectors).

    The discriminator sees integer data on [-1, 1], where the generator ends in tanh; real data as they are, with a
    linear end. Noise is N(0, 1); the paper's is uniform on [-1, 1], which has no temperature.

    Each batch is one discriminator step and one generator step on the same noise. The discriminator sees real and
    generated examples in two forwards: in one, batch normalization would mix their statistics.

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels, or None for reals.
        generator_optimizer: Takes the generator's parameters and returns their optimizer.
        discriminator_optimizer: Likewise.
        latent_dim: Dimension of the noise.
        width: Channels at half of the full resolution (``models.nn.dcgan``).

    Attributes:
        generator_steps, discriminator_steps: Optimizer steps taken, checkpointed with the weights. (Lightning's
            ``global_step`` counts both together.)

    Raises:
        ValueError: If a size is out of range.
    """

    family = "gan"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        generator_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        discriminator_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        latent_dim: int = 100,
        width: int = 64,
    ) -> None:
        super().__init__(shape, levels)
        self.automatic_optimization = False
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.latent_dim = latent_dim
        self.generator = generator_network(self.shape, latent_dim, width, bounded=levels is not None)
        self.discriminator = discriminator_network(self.shape, width)
        self.generator_steps: Tensor
        self.discriminator_steps: Tensor
        self.register_buffer("generator_steps", torch.zeros((), dtype=torch.long))
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
        real = to_symmetric(batch[0], self.levels, next(self.parameters()).dtype)
        optimizers: Any = self.optimizers()
        generator_optimizer, discriminator_optimizer = optimizers
        fake = self.generator(standard_normal((len(real), self.latent_dim), real, self.train_generator))

        with_real, with_fake = self.discriminator(real), self.discriminator(fake.detach())
        discriminator_loss = functional.softplus(-with_real).mean() + functional.softplus(with_fake).mean()
        self._step(discriminator_optimizer, self.discriminator, discriminator_loss)
        self.discriminator_steps += 1

        # Toggled, the discriminator passes gradients on and keeps none.
        with self.toggled_optimizer(generator_optimizer):
            generator_loss = functional.softplus(-self.discriminator(fake)).mean()
            self._step(generator_optimizer, self.generator, generator_loss)
        self.generator_steps += 1

        discriminator_loss, generator_loss = discriminator_loss.detach(), generator_loss.detach()
        return {
            "loss": discriminator_loss + generator_loss,
            "generator_loss": generator_loss,
            "discriminator_loss": discriminator_loss,
        }

    def _step(self, optimizer: LightningOptimizer, network: nn.Module, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.clip_norm)
        optimizer.step()

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw z ~ N(0, temperature^2 I) and return G(z), rounded to levels.

        Batch normalization takes its running statistics, in whatever mode the model is: otherwise an example would
        depend on its neighbours in the chunk, and sampling would change the model.
        """
        z = temperature * standard_normal((n, self.latent_dim), next(self.parameters()), generator)
        training = self.generator.training
        self.generator.eval()
        try:
            return torch.cat([from_symmetric(self.generator(chunk), self.levels) for chunk in torch.split(z, CHUNK)])
        finally:
            self.generator.train(training)

    def averaged(self) -> nn.Module:
        """The generator: an averaged discriminator has no use."""
        return self.generator
