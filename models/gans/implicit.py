r"""Implicit models: distributions given by a generator alone.

.. math:: x = G(z), \quad z \sim N(0, I)

They can be sampled, and have no likelihood.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Generator, Tensor, nn

from ..base import Batch, GenerativeModel, HasDecoder
from ..distributions import from_symmetric, standard_normal, to_symmetric

__all__ = ["ImplicitModel"]

CHUNK = 1024  # examples generated at once, so that memory does not grow with the number of samples


class ImplicitModel(GenerativeModel, HasDecoder):
    """A generator of examples from normal noise, optimized by hand, without a likelihood.

    A base class: a GAN is a subclass whose constructor makes the networks and whose ``training_step`` is written out.
    What is here is the same for all of them: real examples and noise for a training step, one step of an optimizer,
    sampling, and which weights are averaged.

    Generated examples are on the networks' scale: [-1, 1] for integer data, the data's own for reals.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for reals.
        generator: G, noise ``(B, Z)`` to examples ``(B, *shape)`` on the networks' scale.
        latent_dim: Z, dimension of the noise.

    Attributes:
        generator_steps: Optimizer steps of the generator, checkpointed with the weights; ``training_step`` counts them.
            (Lightning's ``global_step`` counts the steps of all optimizers together.)
    """

    family: ClassVar[str] = "gan"

    def __init__(self, shape: Iterable[int], levels: int | None, generator: nn.Module, latent_dim: int) -> None:
        super().__init__(shape, levels)
        self.automatic_optimization = False
        self.latent_dim = latent_dim
        self.generator = generator
        self.generator_steps: Tensor
        self.register_buffer("generator_steps", torch.zeros((), dtype=torch.long))

    def real(self, batch: Batch) -> Tensor:
        """The examples of a batch on the networks' scale, ``(B, *shape)``."""
        return to_symmetric(batch[0], self.levels, self._like.dtype)

    def noise(self, n: int) -> Tensor:
        """Noise for a training step, ``(n, Z)``, drawn from ``train_generator``."""
        return standard_normal((n, self.latent_dim), self._like, self.train_generator)

    def take_step(self, optimizer: LightningOptimizer, network: nn.Module, loss: Tensor) -> None:
        """Take one step of a network's optimizer on a loss, with gradients clipped to ``clip_norm`` where it is set.

        Arguments:
            optimizer: Of the network's parameters.
            network: What is trained.
            loss: One number that depends on the network.

        Raises:
            ValueError: The loss is not one number, or no gradient reaches the network.
        """
        if loss.dim() > 0:
            raise ValueError(f"a loss is one number, not a tensor of shape {tuple(loss.shape)}")
        optimizer.zero_grad()
        self.manual_backward(loss)
        if all(parameter.grad is None for parameter in network.parameters()):
            raise ValueError("the loss does not depend on the network that it should train")
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.clip_norm)
        optimizer.step()

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw z ~ N(0, temperature^2 I) and return G(z), rounded to levels.

        Batch normalization takes its running statistics, in whatever mode the model is: otherwise an example would
        depend on its neighbours in the chunk, and sampling would change the model.
        """
        z = temperature * standard_normal((n, self.latent_dim), self._like, generator)
        training = self.generator.training
        self.generator.eval()
        try:
            return torch.cat([from_symmetric(self.generator(chunk), self.levels) for chunk in torch.split(z, CHUNK)])
        finally:
            self.generator.train(training)

    def decoder_mean(self, z: Tensor) -> Tensor:
        made: Tensor = self.generator(z)
        return made

    def averaged(self) -> nn.Module:
        """The generator: samples come from it alone."""
        return self.generator

    @property
    def _like(self) -> Tensor:
        """A tensor with the device and dtype of the networks."""
        return next(self.generator.parameters())
