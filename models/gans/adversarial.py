r"""A generator trained against a discriminator.

.. math:: \min_D L_D\big(D(x), D(G(z))\big), \qquad \min_G L_G\big(D(G(z))\big)

GANs differ in their networks, in the pair of losses (``objectives``), in how often each network steps (``schedule``),
and in how the discriminator is held back: clipped weights, a gradient penalty (``penalty``), or layers that are
normalized by themselves. A discriminator whose losses are those of Wasserstein GANs is called a critic in the papers.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..base import Batch, HasDiscriminator, OptimizerFactory
from ..distributions import standard_normal, uniform
from .implicit import ImplicitModel
from .objectives import ObjectiveName, objective_named
from .penalty import gradient_penalty
from .schedule import BestResponse, ScheduleName, schedule_named

__all__ = ["Adversarial", "pack", "seen_shape"]


class Adversarial(ImplicitModel, HasDiscriminator):
    """A generator and a discriminator, an objective and a schedule.

    A base class: a GAN is a subclass whose constructor makes the networks and says how they are trained.

    Every batch is one discriminator step; the schedule says after which of them the generator steps. The discriminator
    sees real and generated examples in two forwards: in one, batch normalization would mix their statistics.

    Packed (``packing`` = m), the discriminator sees m examples of one kind at a time, joined along the channels or the
    features, and so can tell whether they differ (Lin, Khetan, Fanti, Oh 2018, PacGAN: The power of two samples in
    generative adversarial networks, arXiv:1712.04086).

    Class-conditional (``classes`` > 0), both networks see the class: the generator beside the noise, the discriminator
    as further features or constant channels, one for each class (Mirza, Osindero 2014, Conditional generative
    adversarial nets, arXiv:1411.1784). Generated examples have the classes of the real ones in the batch.

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels, or None for reals.
        generator: ``(B, latent_dim + classes)`` to ``(B, *shape)`` on the networks' scale.
        discriminator: ``(B / m, *seen_shape(shape, m, classes))`` to ``(B / m,)`` unbounded numbers.
        latent_dim: Dimension of the noise.
        generator_optimizer, discriminator_optimizer: Make an optimizer from the parameters.
        objective: Of ``models.gans.objectives``.
        schedule, n_discriminator: Of ``models.gans.schedule``.
        packing: m; 1: examples are seen one by one.
        classes: Number of classes to condition on; 0: none.
        clip: Largest absolute value of the discriminator's parameters after each of its steps; None: any.
        penalty: Weight of the gradient penalty in the discriminator's loss; 0: none.
        shared_noise: Generator steps take the noise of the discriminator step before them instead of fresh noise,
            which saves a forward of the generator. For schedules with a generator step after every discriminator step.

    Attributes:
        generator_steps, discriminator_steps: Optimizer steps taken, checkpointed with the weights. (Lightning's
            ``global_step`` counts both together.)

    Raises:
        ValueError: A number is out of range, or there is no objective or schedule of this name.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        latent_dim: int,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        objective: ObjectiveName,
        schedule: ScheduleName = "fixed",
        n_discriminator: int = 1,
        packing: int = 1,
        classes: int = 0,
        clip: float | None = None,
        penalty: float = 0.0,
        shared_noise: bool = False,
    ) -> None:
        super().__init__(shape, levels, generator, latent_dim, classes=classes)
        self.discriminator = discriminator
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.objective = objective_named(objective)
        self.schedule = schedule_named(schedule, n_discriminator)
        self.packing = packing
        self.clip = clip
        self.penalty = penalty
        self.shared_noise = shared_noise
        self.discriminator_steps: Tensor
        self.register_buffer("discriminator_steps", torch.zeros((), dtype=torch.long))

    def configure_optimizers(self) -> Any:
        """The generator's optimizer, then the discriminator's."""
        return [
            self.generator_optimizer(self.generator.parameters()),
            self.discriminator_optimizer(self.discriminator.parameters()),
        ]

    def kind_of_step(self, step: int) -> int:
        """1 for a discriminator step that a generator step follows, else 0; 0 where the losses decide that."""
        return 0 if isinstance(self.schedule, BestResponse) else int(self.schedule(step))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One discriminator step, and by the schedule one generator step.

        Returns:
            Detached: ``loss``, what the discriminator minimizes; ``discriminator_loss``, the same without a penalty;
            ``gradient_penalty`` where there is one, without its weight; ``generator_loss``, of the generator step or
            else of the discriminator's own batch. None of them measures how good the samples are.
        """
        optimizers: Any = self.optimizers()
        generator_optimizer, discriminator_optimizer = optimizers
        labels = self.one_hot(batch)
        real = pack(self.real(batch), self.packing)
        with torch.set_grad_enabled(self.shared_noise):
            fake = self._generated(len(batch[0]), labels)

        on_real, on_fake = self._judged(real, labels), self._judged(fake.detach(), labels)
        loss = discriminator_loss = self.objective.discriminator(on_real, on_fake)
        made = {"discriminator_loss": discriminator_loss.detach()}
        if self.penalty > 0:
            penalty = self._gradient_penalty(real, fake.detach(), labels)
            loss = discriminator_loss + self.penalty * penalty
            made["gradient_penalty"] = penalty.detach()
        self.take_step(discriminator_optimizer, self.discriminator, loss)
        if self.clip is not None:
            with torch.no_grad():
                for parameter in self.discriminator.parameters():
                    parameter.clamp_(-self.clip, self.clip)

        generator_loss = self.objective.generator(on_fake.detach())
        if self._generator_follows(discriminator_loss):
            # Toggled, the discriminator passes gradients on and keeps none.
            with self.toggled_optimizer(generator_optimizer):
                if not self.shared_noise:
                    fake = self._generated(len(batch[0]), labels)
                generator_loss = self.objective.generator(self._judged(fake, labels))
                self.take_step(generator_optimizer, self.generator, generator_loss)
            self.generator_steps += 1
        self.discriminator_steps += 1
        return {**made, "loss": loss.detach(), "generator_loss": generator_loss.detach()}

    def verdicts(self, batch: Batch, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """The discriminator's outputs on whole packs of real and of generated examples, those with the same classes."""
        whole = len(batch[0]) // self.packing * self.packing
        batch = (batch[0][:whole], None if batch[1] is None else batch[1][:whole])
        labels = self._one_hot(batch[1]) if self.classes > 0 else None
        z = standard_normal((whole, self.latent_dim), self._like, generator)
        fake = pack(self.generator(z if labels is None else torch.cat([z, labels], 1)), self.packing)
        return self._judged(pack(self.real(batch), self.packing), labels), self._judged(fake, labels)

    def _generated(self, n: int, labels: Tensor | None) -> Tensor:
        """Generated examples as the discriminator sees them, packed."""
        z = self.noise(n)
        return pack(self.generator(z if labels is None else torch.cat([z, labels], 1)), self.packing)

    def _judged(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The discriminator's outputs on packed examples, at least in float32, in which they are averaged."""
        outputs = self.discriminator(self._labelled(x, labels))
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def _labelled(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Packed examples with their one-hot classes as further features or constant channels."""
        if labels is None:
            return x
        labels = pack(labels, self.packing).to(x.dtype)
        return torch.cat([x, labels.view(*labels.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])], 1)

    def _gradient_penalty(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        # Its forward, not itself: it may be compiled, and torch.compile does not differentiate twice.
        critic = self.discriminator.forward
        mix = uniform((len(real),), real, self.train_generator)
        return gradient_penalty(lambda x: critic(self._labelled(x, labels)), real, fake, mix)

    def _generator_follows(self, discriminator_loss: Tensor) -> bool:
        if isinstance(self.schedule, BestResponse):
            return self.schedule.reached(discriminator_loss)
        # Asking the device for its count would wait for it, so the trainer's number is taken where there is one.
        step = int(self.discriminator_steps) if self.train_step is None else self.train_step
        return self.kind_of_step(step) == 1


def pack(x: Tensor, m: int) -> Tensor:
    """Join m examples at a time along the first dimension after the batch: ``(B, C, ...)`` to ``(B / m, m C, ...)``.

    Raises:
        ValueError: m does not divide B.
    """
    if len(x) % m:
        raise ValueError(
            f"packing={m}: the discriminator sees {m} examples at a time, and a batch of {len(x)} is no multiple of"
            f" {m}; choose train.batch_size so that each process's share of it is one"
        )
    return x.reshape(len(x) // m, m * x.shape[1], *x.shape[2:])


def seen_shape(shape: Iterable[int], packing: int, classes: int) -> tuple[int, ...]:
    """The shape of what a discriminator sees: ``packing`` examples with ``classes`` further features or channels each.

    Raises:
        ValueError: ``packing`` is below 1.
    """
    if packing < 1:
        raise ValueError(f"packing must be at least 1, not {packing}")
    first, *rest = shape
    return (packing * (first + classes), *rest)
