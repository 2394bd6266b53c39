r"""Adversarial objectives: losses of a discriminator or critic f and of a generator G, as functions of f's outputs.

Every function takes f's outputs on a batch, ``(B,)``, averages over the batch and returns one number to be minimized.
Real and generated batches may differ in size. An objective is a pair: a loss for f and a loss for G.

==================  =====================================  ================================================
name                losses of f and of G                   f at the optimum, p being the data and q the model
==================  =====================================  ================================================
``saturating``      minimax, minimax                       log p - log q
``non_saturating``  minimax, non-saturating                log p - log q
``least_squares``   least squares, least squares           p / (p + q)
``hinge``           hinge, that of Wasserstein             sign(p - q)
``wasserstein``     Wasserstein, Wasserstein               a potential of slope at most 1, if f is held to that
==================  =====================================  ================================================

References:
    Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014): Generative adversarial
    networks, arXiv:1406.2661.
    Mao, Li, Xie, Lau, Wang, Smolley (2017): Least squares generative adversarial networks, arXiv:1611.04076.
    Lim, Ye (2017): Geometric GAN, arXiv:1705.02894.
    Arjovsky, Chintala, Bottou (2017): Wasserstein GAN, arXiv:1701.07875.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import relu, softplus

__all__ = [
    "OBJECTIVES",
    "Objective",
    "ObjectiveName",
    "hinge_discriminator_loss",
    "least_squares_discriminator_loss",
    "least_squares_generator_loss",
    "minimax_discriminator_loss",
    "minimax_generator_loss",
    "non_saturating_generator_loss",
    "objective_named",
    "wasserstein_critic_loss",
    "wasserstein_generator_loss",
]


def minimax_discriminator_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    r"""Cross-entropy of telling real from generated examples, in nats; f's outputs are logits.

    .. math:: E_x[-\log \sigma(f(x))] + E_z[-\log \sigma(-f(G(z)))]

    It is 2 ln 2 = 1.386 for a discriminator that outputs 0. Its minimum over f is
    :math:`2 \ln 2 - 2\,\mathrm{JS}(p, p_G)`, JS being the Jensen-Shannon divergence, where
    :math:`f = \log p - \log p_G` (Goodfellow et al. 2014, section 4.1).
    """
    return softplus(-on_real).mean() + softplus(on_fake).mean()


def minimax_generator_loss(on_fake: Tensor) -> Tensor:
    r"""The generator's part of the minimax game, :math:`E_z[\log \sigma(-f(G(z)))]`, in nats.

    It saturates: its derivative by a logit is :math:`-\sigma(f)`, which vanishes where the discriminator is sure that
    an example is generated (Goodfellow et al. 2014, section 3).
    """
    return -softplus(on_fake).mean()


def non_saturating_generator_loss(on_fake: Tensor) -> Tensor:
    r"""The generator's loss of practical GANs, :math:`E_z[-\log \sigma(f(G(z)))]`, in nats.

    Its derivative by a logit is :math:`-\sigma(-f)`, largest where the discriminator is sure that an example is
    generated (Goodfellow et al. 2014, section 3). It is ln 2 for a discriminator that outputs 0.
    """
    return softplus(-on_fake).mean()


def least_squares_discriminator_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    r"""Half the squared distance of f from 1 on real and from 0 on generated examples.

    .. math:: \tfrac12 E_x[(f(x) - 1)^2] + \tfrac12 E_z[f(G(z))^2]

    It is 1/4 for the best constant, 1/2. Its minimum over f is :math:`\tfrac12 \int \frac{p\,q}{p + q}`, where
    :math:`f = p / (p + q)` (Mao et al. 2017, equation 9 with a = 0, b = c = 1).
    """
    return ((on_real - 1).square().mean() + on_fake.square().mean()) / 2


def least_squares_generator_loss(on_fake: Tensor) -> Tensor:
    r"""Half the squared distance of f from 1 on generated examples, :math:`\tfrac12 E_z[(f(G(z)) - 1)^2]`.

    Its derivative by f is f - 1: it grows with the distance, and vanishes for examples that f takes for real (Mao et
    al. 2017).
    """
    return (on_fake - 1).square().mean() / 2


def hinge_discriminator_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    r"""How far f falls short of a margin of 1 on either side.

    .. math:: E_x[\max(0, 1 - f(x))] + E_z[\max(0, 1 + f(G(z)))]

    It is 2 for a discriminator that outputs 0. Its minimum over f is :math:`2 \int \min(p, q)`, which is 2 minus twice
    the total variation distance, where :math:`f = \mathrm{sign}(p - q)` (Lim, Ye 2017). The generator's loss is that of
    Wasserstein GANs, :math:`-E_z[f(G(z))]`.
    """
    return relu(1 - on_real).mean() + relu(1 + on_fake).mean()


def wasserstein_critic_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    r"""Minus the critic's estimate of the Wasserstein distance between data and generated examples.

    .. math:: E_z[f(G(z))] - E_x[f(x)], \qquad
        W_1(p, p_G) = \max_{\mathrm{Lip}(f) \le 1} \big(E_x[f(x)] - E_z[f(G(z))]\big)

    in the critic's own unit. A critic with Lipschitz constant K estimates K times the distance (Arjovsky et al. 2017,
    section 3). Adding a constant to f changes nothing.
    """
    return on_fake.mean() - on_real.mean()


def wasserstein_generator_loss(on_fake: Tensor) -> Tensor:
    """The part of the Wasserstein distance that depends on the generator, :math:`-E_z[f(G(z))]`."""
    return -on_fake.mean()


@dataclass(frozen=True)
class Objective:
    """What the two networks minimize.

    Attributes:
        discriminator: Of f's outputs on real and on generated examples.
        generator: Of f's outputs on generated examples.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


ObjectiveName = Literal["saturating", "non_saturating", "least_squares", "hinge", "wasserstein"]

OBJECTIVES: dict[str, Objective] = {
    "saturating": Objective(minimax_discriminator_loss, minimax_generator_loss),
    "non_saturating": Objective(minimax_discriminator_loss, non_saturating_generator_loss),
    "least_squares": Objective(least_squares_discriminator_loss, least_squares_generator_loss),
    "hinge": Objective(hinge_discriminator_loss, wasserstein_generator_loss),
    "wasserstein": Objective(wasserstein_critic_loss, wasserstein_generator_loss),
}


def objective_named(name: str) -> Objective:
    """The objective of this name, one of ``OBJECTIVES``.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective {name!r}: there are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
