r"""Wasserstein GAN with gradient penalty.

.. math::
    \min_f \; E[f(G(z))] - E[f(x)] + \lambda\, E\big[(\|\nabla f(\hat x)\|_2 - 1)^2\big], \qquad \min_G \; -E[f(G(z))]

with x-hat on the line between a real and a generated example.

References:
    Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville (2017): Improved training of Wasserstein GANs, arXiv:1704.00028
    (Algorithm 1).
"""

from collections.abc import Iterable

from ..base import OptimizerFactory
from ..nn.dcgan import NetworkName, discriminator_network, generator_network
from ..options import at_least, class_context
from .adversarial import Adversarial, seen_shape

__all__ = ["WGANGP"]


class WGANGP(Adversarial):
    """Wasserstein GAN whose critic is held to slope 1 by a penalty, on DCGAN's networks without batch normalization in
    the critic.

    Algorithm 1 of the paper: every batch is one critic step; every ``n_critic``-th batch is also one generator step,
    on fresh noise. The penalty's norm is over all entries of what the critic sees (``models.gans.penalty``). Its
    gradients under DDP are those of the joined batch. DDP waits for a gradient of every parameter; one that the penalty
    does not depend on gets its gradient from the rest of the loss (pytorch issue 47562).

    The critic sees integer data on [-1, 1], where the generator ends in tanh; real data as they are, with a linear
    end. Noise is N(0, 1).

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels, or None for reals.
        generator_optimizer, critic_optimizer: Make an optimizer from the parameters.
        latent_dim: Dimension of the noise.
        width: Channels at half of the full resolution (``models.nn.dcgan``).
        network: ``convolutional``, ``dense``, or ``auto``: convolutional for images whose sides are even and above 4.
        penalty: Lambda, weight of the gradient penalty.
        n_critic: Critic steps for one generator step.
        packing: Examples that the critic sees at a time; divides the batch.
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
        critic_optimizer: OptimizerFactory,
        latent_dim: int = 128,
        width: int = 64,
        network: NetworkName = "auto",
        penalty: float = 10.0,
        n_critic: int = 5,
        packing: int = 1,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        if not penalty > 0:
            raise ValueError(f"penalty must be above 0, not {penalty}")
        at_least(1, latent_dim=latent_dim, width=width, n_critic=n_critic)
        shape, n_classes = tuple(shape), class_context(classes, conditional)
        generator = generator_network(shape, latent_dim + n_classes, width, levels is not None, network)
        critic = discriminator_network(seen_shape(shape, packing, n_classes), width, network, batch_norm=False)
        super().__init__(
            shape, levels, generator, critic, latent_dim=latent_dim, generator_optimizer=generator_optimizer,
            discriminator_optimizer=critic_optimizer, objective="wasserstein", n_discriminator=n_critic,
            packing=packing, classes=n_classes, penalty=penalty,
        )  # fmt: skip
