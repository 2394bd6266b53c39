r"""GAN with a spectrally normalized discriminator and the hinge loss.

.. math::
    \min_D \; E[\max(0, 1 - D(x))] + E[\max(0, 1 + D(G(z)))], \qquad \min_G \; -E[D(G(z))], \qquad
    \bar W = W / \sigma(W) \text{ in every layer of } D

References:
    Miyato, Kataoka, Koyama, Yoshida (2018): Spectral normalization for generative adversarial networks,
    arXiv:1802.05957.
"""

from collections.abc import Iterable

from ..base import OptimizerFactory
from ..nn.dcgan import NetworkName
from ..nn.sngan import discriminator_network, generator_network
from ..options import at_least, class_context
from .adversarial import Adversarial, seen_shape
from .objectives import ObjectiveName

__all__ = ["SNGAN"]


class SNGAN(Adversarial):
    """GAN whose discriminator has layers of spectral norm 1, on the paper's standard CNN (dense networks for vectors).

    The weights of each layer, reshaped to a matrix, have spectral norm 1; a convolution's own gain may be up to the
    width of its kernel, so the discriminator's slope is bounded and not 1.

    The discriminator sees integer data on [-1, 1], where the generator ends in tanh; real data as they are, with a
    linear end. Noise is N(0, 1).

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels, or None for reals.
        generator_optimizer, discriminator_optimizer: Make an optimizer from the parameters.
        latent_dim: Dimension of the noise.
        width: Channels at the full resolution (``models.nn.sngan``).
        network: ``convolutional``, ``dense``, or ``auto``: convolutional for images whose sides are even and above 4.
        objective: ``hinge``, or another of ``saturating``, ``non_saturating``, ``least_squares``, ``wasserstein``.
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
        latent_dim: int = 128,
        width: int = 64,
        network: NetworkName = "auto",
        objective: ObjectiveName = "hinge",
        n_discriminator: int = 1,
        packing: int = 1,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        at_least(1, latent_dim=latent_dim, width=width)
        shape, n_classes = tuple(shape), class_context(classes, conditional)
        generator = generator_network(shape, latent_dim + n_classes, width, levels is not None, network)
        discriminator = discriminator_network(seen_shape(shape, packing, n_classes), width, network)
        super().__init__(
            shape, levels, generator, discriminator, latent_dim=latent_dim, generator_optimizer=generator_optimizer,
            discriminator_optimizer=discriminator_optimizer, objective=objective, n_discriminator=n_discriminator,
            packing=packing, classes=n_classes,
        )  # fmt: skip
