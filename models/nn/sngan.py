"""The networks of spectrally normalized GANs: the standard CNN of the paper for images, DCGAN's dense ones otherwise.

Images (C, H, W) are halved as in ``models.nn.dcgan``. The discriminator has a 3x3 convolution at every size, each but
the last followed by a strided 4x4 convolution; the generator is DCGAN's with one more 3x3 convolution at its end.

References:
    Miyato, Kataoka, Koyama, Yoshida (2018): Spectral normalization for generative adversarial networks,
    arXiv:1802.05957 (table 3).
"""

import math
from collections.abc import Iterable
from itertools import pairwise

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from . import dcgan

__all__ = ["discriminator_network", "generator_network", "spectrally_normalized"]


def generator_network(
    shape: Iterable[int], latent_dim: int, width: int, bounded: bool, network: str = "auto"
) -> nn.Sequential:
    """Noise ``(B, Z)`` to examples ``(B, *shape)``.

    Arguments:
        shape: ``(C, H, W)`` or ``(D,)``.
        latent_dim: Z.
        width: Channels at the full resolution, doubled at every halving up to eight times.
        bounded: Whether outputs end in tanh and lie in [-1, 1], or are linear.
        network: As in ``models.nn.dcgan.is_convolutional``.

    Raises:
        ValueError: If a size is below 1, shape has another length than 1 or 3, or ``network`` does not suit it.
    """
    shape = dcgan.checked(shape, latent_dim, width)
    if not dcgan.is_convolutional(shape, network):
        return dcgan.generator_network(shape, latent_dim, width, bounded, network)
    sizes = _channels(shape, width)[::-1]
    start = dcgan.smallest(shape, len(sizes) - 1)
    layers: list[nn.Module] = [nn.Linear(latent_dim, sizes[0] * math.prod(start)), nn.Unflatten(1, (sizes[0], *start))]
    for previous, following in pairwise(sizes):
        layers += [
            nn.ConvTranspose2d(previous, following, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(following),
            nn.ReLU(inplace=True),
        ]
    layers.append(nn.Conv2d(sizes[-1], shape[0], 3, padding=1))
    return dcgan.initialized(nn.Sequential(*layers, *([nn.Tanh()] if bounded else [])))


def discriminator_network(shape: Iterable[int], width: int, network: str = "auto") -> nn.Sequential:
    """Examples ``(B, *shape)`` to one unbounded number each, ``(B,)``, every layer spectrally normalized.

    Arguments:
        shape: ``(C, H, W)`` or ``(D,)``.
        width: As in the generator.
        network: As in ``models.nn.dcgan.is_convolutional``.

    Raises:
        ValueError: If a size is below 1, shape has another length than 1 or 3, or ``network`` does not suit it.
    """
    shape = dcgan.checked(shape, width)
    if not dcgan.is_convolutional(shape, network):
        return spectrally_normalized(dcgan.discriminator_network(shape, width, network))
    sizes = _channels(shape, width)
    layers: list[nn.Module] = []
    channels = shape[0]
    for size in sizes[:-1]:
        layers += [nn.Conv2d(channels, size, 3, padding=1), nn.LeakyReLU(0.1, inplace=True)]
        layers += [nn.Conv2d(size, size, 4, stride=2, padding=1), nn.LeakyReLU(0.1, inplace=True)]
        channels = size
    layers += [nn.Conv2d(channels, sizes[-1], 3, padding=1), nn.LeakyReLU(0.1, inplace=True)]
    final = nn.Linear(sizes[-1] * math.prod(dcgan.smallest(shape, len(sizes) - 1)), 1)
    return spectrally_normalized(dcgan.initialized(nn.Sequential(*layers, nn.Flatten(), final, nn.Flatten(0))))


def spectrally_normalized(network: nn.Sequential) -> nn.Sequential:
    r"""Divide the weight of every linear and convolutional layer by its largest singular value, :math:`W / \sigma(W)`.

    A convolution's weight is taken as the matrix ``(n_out, n_in k k)``, as in the paper. The value is
    :math:`u^T W v` with vectors from power iterations, one at every forward in training. They are buffers, and
    evaluation leaves them as they are.

    Returns:
        The network, changed in place.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            spectral_norm(module)
    return network


def _channels(shape: tuple[int, ...], width: int) -> list[int]:
    """Channels at the full resolution and after each halving."""
    halvings = len(dcgan.pyramid(shape, width))
    return [width * 2 ** min(i, 3) for i in range(halvings + 1)]
