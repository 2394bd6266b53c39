r"""Implicit models: distributions given by a generator alone.

.. math:: x = G(z), \quad z \sim N(0, I)

They can be sampled, and have no likelihood. A class-conditional one is :math:`G(z, y)` with the class y drawn from the
frequencies of the training labels.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Generator, Tensor, nn

from ..base import Batch, GenerativeModel, HasDecoder, SamplesClasses
from ..distributions import from_symmetric, standard_normal, to_symmetric, uniform

__all__ = ["ImplicitModel"]

CHUNK = 1024  # examples generated at once, so that memory does not grow with the number of samples


class ImplicitModel(GenerativeModel, HasDecoder, SamplesClasses):
    """A generator of examples from normal noise, optimized by hand, without a likelihood.

    A base class: a GAN is a subclass whose constructor makes the networks and whose ``training_step`` is written out.
    What is here is the same for all of them: real examples and noise for a training step, one step of an optimizer,
    sampling, and which weights are averaged.

    Generated examples are on the networks' scale: [-1, 1] for integer data, the data's own for reals.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for reals.
        generator: G, noise ``(B, Z)`` to examples ``(B, *shape)`` on the networks' scale. With classes its input is
            ``(B, Z + classes)``, the noise and the one-hot class.
        latent_dim: Z, dimension of the noise.
        classes: Number of classes that the generator is conditioned on; 0: none.

    Attributes:
        generator_steps: Optimizer steps of the generator, checkpointed with the weights; ``training_step`` counts them.
            (Lightning's ``global_step`` counts the steps of all optimizers together.)
        class_counts: With classes: how often each was met in training, checkpointed with the weights; ``one_hot``
            counts. Under DDP it is about the examples of the first process.
    """

    family: ClassVar[str] = "gan"

    def __init__(
        self, shape: Iterable[int], levels: int | None, generator: nn.Module, latent_dim: int, *, classes: int = 0
    ) -> None:
        super().__init__(shape, levels)
        self.automatic_optimization = False
        self.latent_dim = latent_dim
        self.generator = generator
        self.generator_steps: Tensor
        self.register_buffer("generator_steps", torch.zeros((), dtype=torch.long))
        self.classes = classes
        if classes > 0:
            self.class_counts: Tensor
            self.register_buffer("class_counts", torch.zeros(classes, dtype=torch.long))

    def real(self, batch: Batch) -> Tensor:
        """The examples of a batch on the networks' scale, ``(B, *shape)``."""
        return to_symmetric(batch[0], self.levels, self._like.dtype)

    def noise(self, n: int) -> Tensor:
        """Noise for a training step, ``(n, Z)``, drawn from ``train_generator``."""
        return standard_normal((n, self.latent_dim), self._like, self.train_generator)

    def one_hot(self, batch: Batch) -> Tensor | None:
        """The labels of a batch as ``(B, classes)``, counted for sampling; None without classes."""
        if self.classes == 0:
            return None
        labels = self._one_hot(batch[1])
        self.class_counts += labels.sum(0).long()
        return labels

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
        """Draw z ~ N(0, temperature^2 I) and return G(z), rounded to levels; a class is drawn as often as it was met.

        Batch normalization takes its running statistics, in whatever mode the model is: otherwise an example would
        depend on its neighbours in the chunk, and sampling would change the model.
        """
        return self._sample(n, self._draw_classes(n, generator), temperature, generator)

    @torch.no_grad()
    def sample_class(self, y: Tensor, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Draw one example of each of the classes ``(n,)`` int64: ``(n, *shape)``. Conditional models only."""
        return self._sample(len(y), y, temperature, generator)

    @property
    def cannot_decode(self) -> str:
        return "its generator takes a class beside the code" if self.classes > 0 else ""

    def decoder_mean(self, z: Tensor) -> Tensor:
        made: Tensor = self.generator(z)
        return made

    def averaged(self) -> nn.Module:
        """The generator: samples come from it alone."""
        return self.generator

    def _sample(self, n: int, y: Tensor | None, temperature: float, generator: Generator | None) -> Tensor:
        z = temperature * standard_normal((n, self.latent_dim), self._like, generator)
        if y is not None:
            z = torch.cat([z, self._one_hot(y)], 1)
        training = self.generator.training
        self.generator.eval()
        try:
            return torch.cat([from_symmetric(self.generator(chunk), self.levels) for chunk in torch.split(z, CHUNK)])
        finally:
            self.generator.train(training)

    def _draw_classes(self, n: int, generator: Generator | None) -> Tensor | None:
        """Classes ``(n,)`` by their counts (all alike before training); None where the model is not conditional."""
        if self.classes == 0:
            return None
        counts = self.class_counts.double()
        below = (counts + (counts == 0).all()).cumsum(0)
        return torch.searchsorted(below / below[-1], uniform((n,), below, generator), right=True)

    def _one_hot(self, y: Tensor | None) -> Tensor:
        if y is None:
            raise ValueError("a class-conditional model needs a batch with class labels; this one has none")
        # Not torch's one_hot, which on a CPU waits for the largest label.
        return (y[:, None] == torch.arange(self.classes, device=y.device)).to(self._like)

    @property
    def _like(self) -> Tensor:
        """A tensor with the device and dtype of the networks."""
        return next(self.generator.parameters())
