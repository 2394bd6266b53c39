r"""GAN with very small convolutional networks, in which a discriminator too small for the data is studied.

.. math::
    \min_D \; E[-\log \sigma(D(x))] + E[-\log \sigma(-D(G(z)))], \qquad \min_G \; E[-\log \sigma(D(G(z)))]

References:
    Metz, Poole, Pfau, Sohl-Dickstein (2017): Unrolled generative adversarial networks, arXiv:1611.02163.
    Lin, Khetan, Fanti, Oh (2018): PacGAN: The power of two samples in generative adversarial networks,
    arXiv:1712.04086, table 3.
"""

from collections.abc import Iterable

from ..base import OptimizerFactory
from ..nn.compact_gan import compact_discriminator, compact_generator
from ..options import at_least
from .adversarial import Adversarial, seen_shape

__all__ = ["CompactGAN"]


class CompactGAN(Adversarial):
    """Non-saturating GAN for images; each batch is one discriminator step and one generator step on the same noise.

    On stacked digits the discriminator has 585 parameters with a width of 2 and 1,889 with one of 4: a quarter and half
    of the generator's channels.

    Arguments:
        shape: Of one example, ``(C, H, W)``.
        levels: Number of integer levels, or None for reals.
        generator_optimizer, discriminator_optimizer: Make an optimizer from the parameters.
        latent_dim: Dimension of the noise.
        discriminator_width: Channels of the discriminator at half of the resolution, doubled at either further halving.
        packing: Examples that the discriminator sees at a time; divides the batch.

    Raises:
        ValueError: A number is out of range, or the shape is no image's.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        latent_dim: int = 256,
        discriminator_width: int = 2,
        packing: int = 1,
    ) -> None:
        at_least(1, latent_dim=latent_dim, discriminator_width=discriminator_width, packing=packing)
        shape = tuple(shape)
        super().__init__(
            shape, levels, compact_generator(shape, latent_dim, bounded=levels is not None),
            compact_discriminator(seen_shape(shape, packing, 0), discriminator_width), latent_dim=latent_dim,
            generator_optimizer=generator_optimizer, discriminator_optimizer=discriminator_optimizer,
            objective="non_saturating", packing=packing, shared_noise=True,
        )  # fmt: skip
