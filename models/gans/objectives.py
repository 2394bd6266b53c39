r"""Adversarial objectives: losses of a discriminator or critic f and of a generator G, as functions of f's outputs.

Every function takes f's outputs on a batch, ``(B,)``, averages over the batch and returns one number to be minimized.
Real and generated batches may differ in size. An objective is a pair: a loss for f and a loss for G.

References:
    Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio (2014): Generative adversarial
    networks, arXiv:1406.2661.
    Arjovsky, Chintala, Bottou (2017): Wasserstein GAN, arXiv:1701.07875.
"""

from torch import Tensor
from torch.nn.functional import softplus

__all__ = [
    "minimax_discriminator_loss",
    "minimax_generator_loss",
    "non_saturating_generator_loss",
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
