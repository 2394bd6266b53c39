"""Networks from examples to codes and back: fully connected, and convolutional for images.

All of them take and give vectors, so that a model need not know which it has. Examples are flattened.
"""

import math
from itertools import pairwise
from typing import Protocol

from torch import nn

__all__ = [
    "DecoderNetwork",
    "EncoderNetwork",
    "conv_decoder",
    "conv_encoder",
    "dense_decoder",
    "dense_encoder",
]


class EncoderNetwork(Protocol):
    """Makes a network for examples of a shape with D entries: flattened examples ``(B, D)`` to ``(B, n_out)``."""

    def __call__(self, shape: tuple[int, ...], n_out: int) -> nn.Module: ...


class DecoderNetwork(Protocol):
    """Makes a network for examples of a shape with D entries: codes ``(B, n_in)`` to ``(B, per_entry * D)``.

    Its output unflattens to ``(B, per_entry, *shape)``.
    """

    def __call__(self, shape: tuple[int, ...], n_in: int, per_entry: int) -> nn.Module: ...


def dense_encoder(shape: tuple[int, ...], n_out: int, *, hidden: int = 200, depth: int = 2) -> nn.Sequential:
    """``depth`` hidden layers of ``hidden`` tanh units and a linear layer, with Glorot's initialization.

    (Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.) With depth 0 it is
    linear.

    Raises:
        ValueError: A size is out of range.
    """
    return _dense(math.prod(shape), n_out, hidden, depth)


def dense_decoder(
    shape: tuple[int, ...], n_in: int, per_entry: int, *, hidden: int = 200, depth: int = 2
) -> nn.Sequential:
    """The same for codes: as :func:`dense_encoder`."""
    return _dense(n_in, per_entry * math.prod(shape), hidden, depth)


def conv_encoder(shape: tuple[int, ...], n_out: int, *, width: int = 32, hidden: int = 256) -> nn.Sequential:
    """Strided 4x4 convolutions that halve a picture, and a fully connected hidden layer, with SiLU in between.

    A picture is halved as long as both sides are even and larger than 7: 28 -> 14 -> 7, 32 -> 16 -> 8 -> 4. There is no
    normalization: examples do not depend on their neighbours in the batch, and training and evaluation compute the
    same. Initial weights are torch's: with those of He et al. (2015), which keep the size of a signal through the
    layers, ``vae_small`` was 17 nats worse on mnist5k after 60,000 examples.

    Arguments:
        shape: ``(C, H, W)``.
        n_out: Numbers that the network puts out.
        width: Channels at half of the full resolution, doubled at the second halving and again at the third.
        hidden: Units of the fully connected layer after the smallest picture.

    Raises:
        ValueError: ``shape`` is no image or cannot be halved, or a size is below 1.
    """
    channels, smallest = _pyramid(shape, width, hidden)
    layers: list[nn.Module] = [nn.Unflatten(1, shape)]
    for before, after in pairwise([shape[0], *channels]):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
    layers += [nn.Flatten(), nn.Linear(math.prod(smallest), hidden), nn.SiLU(), nn.Linear(hidden, n_out)]
    return nn.Sequential(*layers)


def conv_decoder(
    shape: tuple[int, ...], n_in: int, per_entry: int, *, width: int = 32, hidden: int = 256
) -> nn.Sequential:
    """The mirror of :func:`conv_encoder`, with transposed convolutions; arguments and errors as there.

    It has ``width`` channels at the full resolution too, and ends in a 3x3 convolution.
    """
    channels, smallest = _pyramid(shape, width, hidden)
    layers: list[nn.Module] = [nn.Linear(n_in, hidden), nn.SiLU()]
    layers += [nn.Linear(hidden, math.prod(smallest)), nn.SiLU(), nn.Unflatten(1, smallest)]
    for before, after in pairwise([*reversed(channels), width]):
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
    layers += [nn.Conv2d(width, per_entry * shape[0], 3, padding=1), nn.Flatten()]
    return nn.Sequential(*layers)


def _dense(n_in: int, n_out: int, hidden: int, depth: int) -> nn.Sequential:
    if hidden < 1 or depth < 0:
        raise ValueError(f"hidden must be at least 1 and depth at least 0, not {hidden} and {depth}")
    network = nn.Sequential()
    for i, (before, after) in enumerate(pairwise([n_in, *[hidden] * depth, n_out])):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        network.append(linear)
        if i < depth:
            network.append(nn.Tanh())
    return network


def _pyramid(shape: tuple[int, ...], width: int, hidden: int) -> tuple[list[int], tuple[int, int, int]]:
    """Channels after each halving, finest first, and the shape of the smallest picture."""
    if min(width, hidden) < 1:
        raise ValueError(f"width and hidden must be at least 1, not {width} and {hidden}")
    channels: list[int] = []
    if len(shape) == 3:
        height, breadth = shape[1:]
        while height % 2 == 0 and breadth % 2 == 0 and min(height, breadth) > 7:
            channels.append(width * 2 ** min(len(channels), 2))
            height, breadth = height // 2, breadth // 2
    if not channels:
        raise ValueError(
            f"shape: convolutional networks take images (C, H, W) with even sides of at least 8, not {shape}"
        )
    return channels, (channels[-1], height, breadth)
