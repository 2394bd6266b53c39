r"""Generator and discriminator networks of GANs, for images of any size and for vectors.

Images (C, H, W) are halved as long as both sides are even and larger than 4: 28 -> 14 -> 7, 32 -> 16 -> 8 -> 4. The
generator projects the noise to that smallest picture and doubles it with strided transposed convolutions; the
discriminator is its mirror. Images that cannot be halved (odd or tiny ones) and vectors take fully connected networks.
One rule, ``is_convolutional``, decides for both networks.

References:
    Radford, Metz, Chintala (2016): Unsupervised representation learning with deep convolutional generative adversarial
    networks, arXiv:1511.06434.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

from torch import nn

__all__ = ["NetworkName", "discriminator_network", "generator_network", "is_convolutional"]

NetworkName = Literal["auto", "convolutional", "dense"]


def is_convolutional(shape: Iterable[int], network: str = "auto") -> bool:
    """Whether examples of this shape take convolutional networks.

    Arguments:
        shape: ``(C, H, W)`` or ``(D,)``.
        network: ``auto``: images whose sides are even and above 4 do. ``dense``: none do. ``convolutional``: these do.

    Raises:
        ValueError: ``convolutional`` is asked for examples that cannot be halved, or ``network`` is none of the three.
    """
    shape = tuple(shape)
    if network not in ("auto", "convolutional", "dense"):
        raise ValueError(f"network {network!r}: there are auto, convolutional, dense")
    can = bool(pyramid(shape, 1))
    if network == "convolutional" and not can:
        raise ValueError(
            f"network=convolutional needs images whose height and width are even and above 4, not examples of shape"
            f" {shape}; network=auto takes fully connected networks for them"
        )
    return can and network != "dense"


def generator_network(
    shape: Iterable[int], latent_dim: int, width: int, bounded: bool, network: str = "auto"
) -> nn.Sequential:
    """Noise ``(B, Z)`` to examples ``(B, *shape)``.

    Arguments:
        shape: ``(C, H, W)`` or ``(D,)``.
        latent_dim: Z.
        width: Channels at half of the full resolution, doubled at every further halving up to eight times; fully
            connected networks have three hidden layers of ``4 * width`` units.
        bounded: Whether outputs end in tanh and lie in [-1, 1], or are linear.
        network: As in ``is_convolutional``.

    Raises:
        ValueError: If a size is below 1, shape has another length than 1 or 3, or ``network`` does not suit it.
    """
    shape = checked(shape, latent_dim, width)
    end: list[nn.Module] = [nn.Tanh()] if bounded else []
    channels = pyramid(shape, width)
    if not is_convolutional(shape, network):
        sizes = [latent_dim, *[4 * width] * 3, math.prod(shape)]
        return nn.Sequential(*dense(sizes, nn.ReLU()), nn.Unflatten(1, shape), *end)

    start = smallest(shape, len(channels))
    channels.reverse()
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, channels[0] * math.prod(start), bias=False),
        nn.Unflatten(1, (channels[0], *start)),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(inplace=True),
    ]
    for previous, following in pairwise(channels):
        layers += [
            nn.ConvTranspose2d(previous, following, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(following),
            nn.ReLU(inplace=True),
        ]
    layers.append(nn.ConvTranspose2d(channels[-1], shape[0], 4, stride=2, padding=1))
    return initialized(nn.Sequential(*layers, *end))


def discriminator_network(
    shape: Iterable[int], width: int, network: str = "auto", batch_norm: bool = True
) -> nn.Sequential:
    """Examples ``(B, *shape)`` to one unbounded number each, ``(B,)``: a logit, or a critic's value.

    Arguments:
        shape: ``(C, H, W)`` or ``(D,)``.
        width: As in the generator.
        network: As in ``is_convolutional``.
        batch_norm: Batch normalization on all convolutions but the first. Fully connected networks have none.

    Raises:
        ValueError: If a size is below 1, shape has another length than 1 or 3, or ``network`` does not suit it.
    """
    shape = checked(shape, width)
    channels = pyramid(shape, width)
    if not is_convolutional(shape, network):
        sizes = [math.prod(shape), *[4 * width] * 3, 1]
        return nn.Sequential(nn.Flatten(), *dense(sizes, nn.LeakyReLU(0.2)), nn.Flatten(0))

    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], channels[0], 4, stride=2, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
    ]
    for previous, following in pairwise(channels):
        layers += [
            nn.Conv2d(previous, following, 4, stride=2, padding=1, bias=not batch_norm),
            *([nn.BatchNorm2d(following)] if batch_norm else []),
            nn.LeakyReLU(0.2, inplace=True),
        ]
    final = nn.Linear(channels[-1] * math.prod(smallest(shape, len(channels))), 1)
    return initialized(nn.Sequential(*layers, nn.Flatten(), final, nn.Flatten(0)))


def checked(shape: Iterable[int], *sizes: int) -> tuple[int, ...]:
    shape = tuple(shape)
    if len(shape) not in (1, 3) or min((*shape, *sizes)) < 1:
        raise ValueError(f"expected a shape (C, H, W) or (D,) and sizes of at least 1, not {shape} and {sizes}")
    return shape


def pyramid(shape: tuple[int, ...], width: int) -> list[int]:
    """Channels after each halving of an image, finest first; empty where nothing can be halved."""
    channels: list[int] = []
    if len(shape) == 3:
        height, breadth = shape[1:]
        while height % 2 == 0 and breadth % 2 == 0 and min(height, breadth) > 4:
            channels.append(width * 2 ** min(len(channels), 3))
            height, breadth = height // 2, breadth // 2
    return channels


def smallest(shape: tuple[int, ...], halvings: int) -> tuple[int, int]:
    return shape[1] // 2**halvings, shape[2] // 2**halvings


def dense(sizes: list[int], activation: nn.Module) -> list[nn.Module]:
    """Linear layers with activations in between, initialized as in He, Zhang, Ren, Sun (2015), arXiv:1502.01852.

    There is no batch normalization here, and with smaller weights the noise would fade from layer to layer.
    """
    layers: list[nn.Module] = []
    for previous, following in pairwise(sizes[:-1]):
        hidden = nn.Linear(previous, following)
        nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu")
        nn.init.zeros_(hidden.bias)
        layers += [hidden, activation]
    return [*layers, nn.Linear(sizes[-2], sizes[-1])]


def initialized(network: nn.Sequential) -> nn.Sequential:
    """N(0, 0.02) weights, N(1, 0.02) gains of batch normalization, zero biases."""
    for module in network:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
