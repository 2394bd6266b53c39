r"""Wasserstein GAN with weight clipping.

.. math:: W(p, p_G) \propto \max_{f \in [-c, c]^W} E[f(x)] - E[f(G(z))], \qquad \min_G \; -E[f(G(z))]

References:
    Arjovsky, Chintala, Bottou (2017): Wasserstein GAN, arXiv:1701.07875 (Algorithm 1).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..base import Batch, OptimizerFactory
from ..nn.dcgan import discriminator_network, generator_network
from .implicit import ImplicitModel
from .objectives import wasserstein_critic_loss, wasserstein_generator_loss

__all__ = ["WGAN"]


class WGAN(ImplicitModel):
    """Wasserstein GAN: a critic with clipped weights instead of a discriminator, on DCGAN's networks.

    Algorithm 1 of the paper: every batch is one critic step, after which all critic parameters (those of batch
    normalization too, as in the paper's experiments) are clipped to [-clip, clip]; every ``n_critic``-th batch is
    also one generator step, on fresh noise. The critic sees real and generated examples in two forwards: in one,
    batch normalization would mix their statistics.

    The critic sees integer data on [-1, 1], where the generator ends in tanh; real data as they are, with a linear
    end. Noise is N(0, 1).

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels, or None for reals.
        generator_optimizer: Makes the optimizer of the generator from its parameters.
        critic_optimizer: Makes the optimizer of the critic from its parameters. Use one without momentum: the paper
            found Adam unstable here.
        latent_dim: Dimension of the noise.
        width: Channels at half of the full resolution (``models.nn.dcgan``).
        clip: c, largest absolute critic parameter.
        n_critic: Critic steps for one generator step.

    Attributes:
        generator_steps, critic_steps: Optimizer steps taken, checkpointed with the weights; critic_steps is also the
            phase of ``n_critic``. (Lightning's ``global_step`` counts both together.)

    Raises:
        ValueError: A size, ``clip`` or ``n_critic`` is out of range, or the shape is neither a vector's nor an image's.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        generator_optimizer: OptimizerFactory,
        critic_optimizer: OptimizerFactory,
        latent_dim: int = 100,
        width: int = 64,
        clip: float = 0.01,
        n_critic: int = 5,
    ) -> None:
        if clip <= 0 or n_critic < 1:
            raise ValueError(f"clip must be above 0 and n_critic at least 1, not {clip} and {n_critic}")
        shape = tuple(shape)
        generator = generator_network(shape, latent_dim, width, bounded=levels is not None)
        super().__init__(shape, levels, generator, latent_dim)
        self.generator_optimizer = generator_optimizer
        self.critic_optimizer = critic_optimizer
        self.clip = clip
        self.n_critic = n_critic
        self.critic = discriminator_network(shape, width)
        self.critic_steps: Tensor
        self.register_buffer("critic_steps", torch.zeros((), dtype=torch.long))

    def configure_optimizers(self) -> Any:
        """The generator's optimizer, then the critic's."""
        return [
            self.generator_optimizer(self.generator.parameters()),
            self.critic_optimizer(self.critic.parameters()),
        ]

    def kind_of_step(self, step: int) -> int:
        """1 for a critic step that a generator step follows, else 0."""
        return int((step + 1) % self.n_critic == 0)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One critic step, and after every ``n_critic`` of them one generator step.

        Returns:
            Detached, in the critic's own unit: ``loss`` and ``discriminator_loss``, the critic's loss, which is
            minus its estimate of the Wasserstein distance (up to the unknown Lipschitz constant that clipping
            allows), and ``generator_loss``, -E[f(G(z))], of the generator step or else of the critic's own batch.
        """
        real = self.real(batch)
        optimizers: Any = self.optimizers()
        generator_optimizer, critic_optimizer = optimizers

        with torch.no_grad():
            fake = self.generator(self.noise(len(real)))
        on_fake, on_real = self.critic(fake), self.critic(real)
        critic_loss = wasserstein_critic_loss(on_real, on_fake)
        self.take_step(critic_optimizer, self.critic, critic_loss)
        with torch.no_grad():
            for parameter in self.critic.parameters():
                parameter.clamp_(-self.clip, self.clip)
        # Asking the device for its count would wait for it, so the trainer's number is taken where there is one.
        step = int(self.critic_steps) if self.train_step is None else self.train_step
        self.critic_steps += 1

        generator_loss = wasserstein_generator_loss(on_fake)
        if self.kind_of_step(step):
            # Toggled, the critic passes gradients on and keeps none.
            with self.toggled_optimizer(generator_optimizer):
                generator_loss = wasserstein_generator_loss(self.critic(self.generator(self.noise(len(real)))))
                self.take_step(generator_optimizer, self.generator, generator_loss)
            self.generator_steps += 1

        critic_loss = critic_loss.detach()
        return {"loss": critic_loss, "generator_loss": generator_loss.detach(), "discriminator_loss": critic_loss}
