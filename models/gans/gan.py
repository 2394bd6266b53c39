r"""Generative adversarial network with fully connected networks.

.. math::
    \min_D \; E[-\log \sigma(D(x))] + E[-\log \sigma(-D(G(z)))], \qquad \min_G \; E[-\log \sigma(D(G(z)))]

with the default objective; there are others in ``models.gans.objectives``.

References:
    Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014): Generative adversarial
    networks, arXiv:1406.2661.
"""

from collections.abc import Iterable

from ..base import OptimizerFactory
from ..nn.dcgan import checked
from ..nn.dense_gan import dense_discriminator, dense_generator
from ..options import at_least, class_context
from .adversarial import Adversarial, seen_shape
from .objectives import ObjectiveName
from .schedule import ScheduleName

__all__ = ["GAN"]


class GAN(Adversarial):
    """GAN for vectors, toys and images, which are taken as vectors of their pixels.

    Algorithm 1 of the paper: ``n_discriminator`` discriminator steps, each on a batch and fresh noise, then a generator
    step on fresh noise. The discriminator sees integer data on [-1, 1], where the generator ends in tanh; real data as
    they are, with a linear end. Noise is N(0, 1).

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels, or None for reals.
        generator_optimizer, discriminator_optimizer: Make an optimizer from the parameters.
        latent_dim: Dimension of the noise.
        generator_hidden, generator_depth: Units and number of the generator's hidden layers, ReLU.
        batch_norm: Whether the generator's hidden layers are normalized over the batch.
        discriminator_hidden, discriminator_depth: Units and number of the discriminator's hidden layers.
        pieces: Linear maps of each of its units, maxout; 1: leaky ReLU units.
        objective: ``saturating``, ``non_saturating``, ``least_squares``, ``hinge`` or ``wasserstein``.
        schedule: ``fixed``: ``n_discriminator`` steps before each generator step; ``warm_up``: long rounds first, and
            now and then; ``best_response``: until the discriminator stops improving, at most ``n_discriminator`` steps
            (``models.gans.schedule``).
        n_discriminator: Discriminator steps for a generator step.
        packing: Examples that the discriminator sees at a time; divides the batch.
        classes, conditional: With ``conditional`` both networks see the class, of the data's ``classes``.

    Raises:
        ValueError: A number is out of range, the shape is neither a vector's nor an image's, or the data have no
            classes to condition on.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        latent_dim: int = 64,
        generator_hidden: int = 256,
        generator_depth: int = 3,
        batch_norm: bool = True,
        discriminator_hidden: int = 256,
        discriminator_depth: int = 3,
        pieces: int = 1,
        objective: ObjectiveName = "non_saturating",
        schedule: ScheduleName = "fixed",
        n_discriminator: int = 1,
        packing: int = 1,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        at_least(
            1, latent_dim=latent_dim, generator_hidden=generator_hidden, discriminator_hidden=discriminator_hidden,
            pieces=pieces,
        )  # fmt: skip
        at_least(0, generator_depth=generator_depth, discriminator_depth=discriminator_depth)
        shape, n_classes = checked(shape), class_context(classes, conditional)
        generator = dense_generator(
            shape, latent_dim + n_classes, hidden=generator_hidden, depth=generator_depth, batch_norm=batch_norm,
            bounded=levels is not None,
        )  # fmt: skip
        discriminator = dense_discriminator(
            seen_shape(shape, packing, n_classes), hidden=discriminator_hidden, depth=discriminator_depth, pieces=pieces
        )
        super().__init__(
            shape, levels, generator, discriminator, latent_dim=latent_dim, generator_optimizer=generator_optimizer,
            discriminator_optimizer=discriminator_optimizer, objective=objective, schedule=schedule,
            n_discriminator=n_discriminator, packing=packing, classes=n_classes,
        )  # fmt: skip
