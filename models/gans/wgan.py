r"""Wasserstein GAN with weight clipping.

.. math:: W(p, p_G) \propto \max_{f \in [-c, c]^W} E[f(x)] - E[f(G(z))], \qquad \min_G \; -E[f(G(z))]

References:
    Arjovsky, Chintala, Bottou (2017): Wasserstein GAN, arXiv:1701.07875 (Algorithm 1).
"""

from collections.abc import Iterable
from typing import Literal

from ..base import OptimizerFactory
from ..nn.dcgan import NetworkName, discriminator_network, generator_network
from ..options import at_least, class_context
from .adversarial import Adversarial, seen_shape

__all__ = ["WGAN"]


class WGAN(Adversarial):
    """Wasserstein GAN: a critic with clipped weights instead of a discriminator, on DCGAN's networks.

    Algorithm 1 of the paper: every batch is one critic step, after which all critic parameters (those of batch
    normalization too, as in the paper's experiments) are clipped to [-clip, clip]; every ``n_critic``-th batch is
    also one generator step, on fresh noise.

    The critic sees integer data on [-1, 1], where the generator ends in tanh; real data as they are, with a linear
    end. Noise is N(0, 1).

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        levels: Number of integer levels, or None for reals.
        generator_optimizer: Makes the optimizer of the generator from its parameters.
        critic_optimizer: Makes the optimizer of the critic from its parameters. Use one without momentum: the paper
            found Adam unstable here.
        latent_dim: Dimension of the noise.
        width: Channels at half of the full resolution (``models.nn.dcgan``).
        network: ``convolutional``, ``dense``, or ``auto``: convolutional for images whose sides are even and above 4.
        clip: c, largest absolute critic parameter.
        schedule: ``fixed``, as in the paper; or ``warm_up``, as in the authors' program: 100 critic steps before each
            of the first 25 generator steps and before every 500th.
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
        latent_dim: int = 100,
        width: int = 64,
        network: NetworkName = "auto",
        clip: float = 0.01,
        schedule: Literal["fixed", "warm_up"] = "fixed",
        n_critic: int = 5,
        packing: int = 1,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        if not clip > 0:
            raise ValueError(f"clip must be above 0, not {clip}")
        at_least(1, latent_dim=latent_dim, width=width, n_critic=n_critic)
        shape, n_classes = tuple(shape), class_context(classes, conditional)
        generator = generator_network(shape, latent_dim + n_classes, width, levels is not None, network)
        critic = discriminator_network(seen_shape(shape, packing, n_classes), width, network)
        super().__init__(
            shape, levels, generator, critic, latent_dim=latent_dim, generator_optimizer=generator_optimizer,
            discriminator_optimizer=critic_optimizer, objective="wasserstein", schedule=schedule,
            n_discriminator=n_critic, packing=packing, classes=n_classes, clip=clip,
        )  # fmt: skip
