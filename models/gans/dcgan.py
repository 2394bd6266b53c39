r"""Deep convolutional GAN.

.. math::
    \min_D \; E[-\log \sigma(D(x))] + E[-\log \sigma(-D(G(z)))], \qquad \min_G \; E[-\log \sigma(D(G(z)))]

with the paper's objective; there are others in ``models.gans.objectives``.

References:
    Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014): Generative adversarial
    networks, arXiv:1406.2661.
    Radford, Metz, Chintala (2016): Unsupervised representation learning with deep convolutional generative adversarial
    networks, arXiv:1511.06434.
"""

from collections.abc import Iterable

from ..base import OptimizerFactory
from ..nn.dcgan import NetworkName, discriminator_network, generator_network
from ..options import at_least, class_context
from .adversarial import Adversarial, seen_shape
from .objectives import ObjectiveName
from .schedule import ScheduleName

__all__ = ["DCGAN"]


class DCGAN(Adversarial):
    """Non-saturating GAN on logits with convolutional networks (fully connected ones for vectors).

    The discriminator sees integer data on [-1, 1], where the generator ends in tanh; real data as they are, with a
    linear end. Noise is N(0, 1); the paper's is uniform on [-1, 1], which has no temperature.

    Unless ``n_discriminator`` or ``schedule`` says otherwise, each batch is one discriminator step and one generator
    step on the same noise.

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels, or None for reals.
        generator_optimizer, discriminator_optimizer: Make an optimizer from the parameters.
        latent_dim: Dimension of the noise.
        width: Channels at half of the full resolution (``models.nn.dcgan``).
        discriminator_width: The same of the discriminator; None: ``width``.
        network: ``convolutional``, ``dense``, or ``auto``: convolutional for images whose sides are even and above 4.
        objective: ``saturating``, ``non_saturating``, ``least_squares``, ``hinge`` or ``wasserstein``.
        schedule: ``fixed``: ``n_discriminator`` steps before each generator step; ``warm_up``: long rounds first, and
            now and then; ``best_response``: until the discriminator stops improving, at most ``n_discriminator`` steps
            (``models.gans.schedule``).
        n_discriminator: Discriminator steps for a generator step.
        packing: Examples that the discriminator sees at a time; divides the batch.
        classes, conditional: With ``conditional`` both networks see the class, of the data's ``classes``.

    Raises:
        ValueError: A number is out of range, the shape does not suit the network, or the data have no classes to
            condition on.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        latent_dim: int = 100,
        width: int = 64,
        discriminator_width: int | None = None,
        network: NetworkName = "auto",
        objective: ObjectiveName = "non_saturating",
        schedule: ScheduleName = "fixed",
        n_discriminator: int = 1,
        packing: int = 1,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        judging = width if discriminator_width is None else discriminator_width
        at_least(1, latent_dim=latent_dim, width=width, discriminator_width=judging)
        shape, n_classes = tuple(shape), class_context(classes, conditional)
        generator = generator_network(shape, latent_dim + n_classes, width, levels is not None, network)
        discriminator = discriminator_network(seen_shape(shape, packing, n_classes), judging, network)
        super().__init__(
            shape, levels, generator, discriminator, latent_dim=latent_dim, generator_optimizer=generator_optimizer,
            discriminator_optimizer=discriminator_optimizer, objective=objective, schedule=schedule,
            n_discriminator=n_discriminator, packing=packing, classes=n_classes,
            shared_noise=schedule == "fixed" and n_discriminator == 1,
        )  # fmt: skip
