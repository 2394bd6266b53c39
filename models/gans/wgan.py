r"""Wasserstein GAN with weight clipping.

.. math:: W(p, p_G) \propto \max_{f \in [-c, c]^W} E[f(x)] - E[f(G(z))], \qquad \min_G \; -E[f(G(z))]

References:
    Arjovsky, Chintala, Bottou (2017): Wasserstein Generative Adversarial Networks (Algorithm 1).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from ..base import Batch, GenerativeModel
from ..distributions import from_symmetric, standard_normal, to_symmetric
from ..nn.dcgan import discriminator_network, generator_network

__all__ = ["WGAN"]

CHUNK = 1024  # examples generated at once, so that memory does not grow with the number of samples


class WGAN(GenerativeModel):
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
        generator_optimizer: Takes the generator's parameters and returns their optimizer.
        critic_optimizer: Likewise. Without momentum: the paper found Adam unstable here.
        latent_dim: Dimension of the noise.
        width: Channels at half of the full resolution (``models.nn.dcgan``).
        clip: c, largest absolute critic parameter.
        n_critic: Critic steps for one generator step.

    Attributes:
        generator_steps, critic_steps: Optimizer steps taken, checkpointed with the weights; critic_steps is also the
            phase of ``n_critic``. (Lightning's ``global_step`` counts both together.)

    Raises:
        ValueError: If a size is out of range.
    """

    family = "gan"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        generator_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        critic_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        latent_dim: int = 100,
        width: int = 64,
        clip: float = 0.01,
        n_critic: int = 5,
    ) -> None:
        super().__init__(shape, levels)
        if clip <= 0 or n_critic < 1:
            raise ValueError(f"clip must be above 0 and n_critic at least 1, not {clip} and {n_critic}")
        self.automatic_optimization = False
        self.generator_optimizer = generator_optimizer
        self.critic_optimizer = critic_optimizer
        self.latent_dim = latent_dim
        self.clip = clip
        self.n_critic = n_critic
        self.generator = generator_network(self.shape, latent_dim, width, bounded=levels is not None)
        self.critic = discriminator_network(self.shape, width)
        self.generator_steps: Tensor
        self.critic_steps: Tensor
        self.register_buffer("generator_steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("critic_steps", torch.zeros((), dtype=torch.long))

    def configure_optimizers(self) -> Any:
        """The generator's optimizer, then the critic's."""
        return [
            self.generator_optimizer(self.generator.parameters()),
            self.critic_optimizer(self.critic.parameters()),
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One critic step, and after every ``n_critic`` of them one generator step.

        Returns:
            Detached, in the critic's own unit: ``loss`` and ``discriminator_loss``, the critic's loss, which is
            minus its estimate of the Wasserstein distance (up to the unknown Lipschitz constant that clipping
            allows), and ``generator_loss``, -E[f(G(z))], of the generator step or else of the critic's own batch.
        """
        real = to_symmetric(batch[0], self.levels, next(self.parameters()).dtype)
        optimizers: Any = self.optimizers()
        generator_optimizer, critic_optimizer = optimizers

        with torch.no_grad():
            fake = self.generator(self._noise(real))
        on_fake = self.critic(fake).mean()
        critic_loss = on_fake - self.critic(real).mean()
        self._step(critic_optimizer, self.critic, critic_loss)
        with torch.no_grad():
            for parameter in self.critic.parameters():
                parameter.clamp_(-self.clip, self.clip)
        self.critic_steps += 1

        generator_loss = -on_fake
        if int(self.critic_steps) % self.n_critic == 0:
            # Toggled, the critic passes gradients on and keeps none.
            with self.toggled_optimizer(generator_optimizer):
                generator_loss = -self.critic(self.generator(self._noise(real))).mean()
                self._step(generator_optimizer, self.generator, generator_loss)
            self.generator_steps += 1

        critic_loss = critic_loss.detach()
        return {"loss": critic_loss, "generator_loss": generator_loss.detach(), "discriminator_loss": critic_loss}

    def _noise(self, real: Tensor) -> Tensor:
        return standard_normal((len(real), self.latent_dim), real, self.train_generator)

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
        """The generator: an averaged critic has no use."""
        return self.generator
