r"""A generative adversarial network with the non-saturating loss.

.. math::
    \min_D \; E[-\log \sigma(D(x))] + E[-\log \sigma(-D(G(z)))], \qquad \min_G \; E[-\log \sigma(D(G(z)))]

References:
    Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014): Generative Adversarial Nets.
    arXiv:1406.2661.

To make it yours, change the two networks in ``__init__`` or the two losses in ``training_step``.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer

from models.base import Batch, GenerativeModel
from models.distributions import from_symmetric, standard_normal, to_symmetric
from models.nn.mlp import MLP

__all__ = ["Mine"]


class Mine(GenerativeModel):
    """A GAN of fully connected networks; images are flattened. Integer data are seen on [-1, 1].

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        generator_optimizer, discriminator_optimizer: Make the optimizers from the parameters of each network.
        latent_dim: Numbers of the noise z.
        hidden, depth: Units and hidden layers of each network.

    Raises:
        ValueError: A number is out of range.
    """

    family = "gan"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        generator_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        discriminator_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        latent_dim: int = 32,
        hidden: int = 256,
        depth: int = 2,
    ) -> None:
        super().__init__(shape, levels)
        if min(latent_dim, hidden) < 1 or depth < 0:
            raise ValueError(f"no network has {latent_dim} inputs and {depth} layers of {hidden} units")
        self.automatic_optimization = False  # training_step steps two optimizers itself
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.latent_dim = latent_dim
        self.generator = MLP(latent_dim, self.dim, hidden=hidden, depth=depth)
        self.discriminator = MLP(self.dim, 1, hidden=hidden, depth=depth)

    def configure_optimizers(self) -> Any:
        return [
            self.generator_optimizer(self.generator.parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step of the discriminator, then one of the generator. Losses in nats; none says how good samples are."""
        optimizers: Any = self.optimizers()
        generator_optimizer, discriminator_optimizer = optimizers
        real = to_symmetric(batch[0], self.levels).flatten(1)
        fake = self._generate(standard_normal((len(real), self.latent_dim), real, self.train_generator))

        with_real, with_fake = self.discriminator(real), self.discriminator(fake.detach())
        discriminator_loss = softplus(-with_real).mean() + softplus(with_fake).mean()
        self._step(discriminator_optimizer, self.discriminator, discriminator_loss)

        with self.toggled_optimizer(generator_optimizer):  # gradients pass the discriminator, which keeps none
            generator_loss = softplus(-self.discriminator(fake)).mean()
            self._step(generator_optimizer, self.generator, generator_loss)
        losses = {"generator_loss": generator_loss.detach(), "discriminator_loss": discriminator_loss.detach()}
        return {"loss": losses["generator_loss"] + losses["discriminator_loss"], **losses}

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        z = temperature * standard_normal((n, self.latent_dim), next(self.parameters()), generator)
        return from_symmetric(self._generate(z).unflatten(1, self.shape), self.levels)

    def averaged(self) -> nn.Module:
        """The generator: an averaged discriminator has no use."""
        return self.generator

    def _generate(self, z: Tensor) -> Tensor:
        """Noise ``(B, Z)`` to examples ``(B, D)``: in (-1, 1) for integer data, any reals otherwise."""
        y = self.generator(z)
        return y if self.levels is None else y.tanh()

    def _step(self, optimizer: LightningOptimizer, network: nn.Module, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.clip_norm)
        optimizer.step()
