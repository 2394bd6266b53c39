"""Pairs of networks from examples to codes and back: fully connected, and convolutional for images.

All of them take and give vectors, so that a model need not know which it has. Examples are flattened.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from torch import nn

__all__ = ["Convolutional", "FullyConnected", "Networks"]


class Networks(Protocol):
    """Makes the two networks of an autoencoder for examples of a shape ``(*shape)`` with D entries."""

    def encoder(self, shape: tuple[int, ...], n_out: int) -> nn.Module:
        """Flattened examples ``(B, D)`` to ``(B, n_out)``."""

    def decoder(self, shape: tuple[int, ...], n_in: int, per_entry: int) -> nn.Module:
        """Codes ``(B, n_in)`` to ``(B, per_entry * D)``, which unflatten to ``(B, per_entry, *shape)``."""


@dataclass(frozen=True)
class FullyConnected:
    """``depth`` hidden layers of ``hidden`` tanh units and a linear layer, with Glorot's initialization.

    (Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural networks.) With depth 0 both
    networks are linear.

    Raises:
        ValueError: A size is out of range.
    """

    hidden: int = 200
    depth: int = 2

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.depth < 0:
            raise ValueError(f"hidden must be at least 1 and depth at least 0, not {self.hidden} and {self.depth}")

    def encoder(self, shape: tuple[int, ...], n_out: int) -> nn.Sequential:
        return self._network(math.prod(shape), n_out)

    def decoder(self, shape: tuple[int, ...], n_in: int, per_entry: int) -> nn.Sequential:
        return self._network(n_in, per_entry * math.prod(shape))

    def _network(self, n_in: int, n_out: int) -> nn.Sequential:
        network = nn.Sequential()
        for i, (before, after) in enumerate(pairwise([n_in, *[self.hidden] * self.depth, n_out])):
            linear = nn.Linear(before, after)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            network.append(linear)
            if i < self.depth:
                network.append(nn.Tanh())
        return network


@dataclass(frozen=True)
class Convolutional:
    """Strided 4x4 convolutions that halve a picture, a hidden layer, and the mirror of both; SiLU in between.

    A picture is halved as long as both sides are even and larger than 7: 28 -> 14 -> 7, 32 -> 16 -> 8 -> 4. There is no
    normalization: examples do not depend on their neighbours in the batch, and training and evaluation compute the
    same.

    Arguments:
        width: Channels at half of the full resolution, doubled at every further halving up to four times. The decoder
            has ``width`` channels at the full resolution too, and ends in a 3x3 convolution.
        hidden: Units of the fully connected layer between the smallest picture and the code.

    Raises:
        ValueError: A size is below 1. ``encoder`` and ``decoder`` raise it for a ``shape`` that cannot be halved.
    """

    width: int = 32
    hidden: int = 256

    def __post_init__(self) -> None:
        if min(self.width, self.hidden) < 1:
            raise ValueError(f"width and hidden must be at least 1, not {self.width} and {self.hidden}")

    def encoder(self, shape: tuple[int, ...], n_out: int) -> nn.Sequential:
        channels, smallest = self._pyramid(shape)
        layers: list[nn.Module] = [nn.Unflatten(1, shape)]
        for before, after in pairwise([shape[0], *channels]):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
        size = math.prod(smallest)
        return nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(size, self.hidden), nn.SiLU(), nn.Linear(self.hidden, n_out)
        )

    def decoder(self, shape: tuple[int, ...], n_in: int, per_entry: int) -> nn.Sequential:
        channels, smallest = self._pyramid(shape)
        layers: list[nn.Module] = [nn.Linear(n_in, self.hidden), nn.SiLU()]
        layers += [nn.Linear(self.hidden, math.prod(smallest)), nn.SiLU(), nn.Unflatten(1, smallest)]
        for before, after in pairwise([*reversed(channels), self.width]):
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
        return nn.Sequential(*layers, nn.Conv2d(self.width, per_entry * shape[0], 3, padding=1), nn.Flatten())

    def _pyramid(self, shape: tuple[int, ...]) -> tuple[list[int], tuple[int, int, int]]:
        """Channels after each halving, finest first, and the shape of the smallest picture."""
        channels: list[int] = []
        if len(shape) == 3:
            height, breadth = shape[1:]
            while height % 2 == 0 and breadth % 2 == 0 and min(height, breadth) > 7:
                channels.append(self.width * 2 ** min(len(channels), 2))
                height, breadth = height // 2, breadth // 2
        if not channels:
            raise ValueError(
                f"shape: convolutional networks take images (C, H, W) with even sides of at least 8, not {shape}"
            )
        return channels, (channels[-1], height, breadth)
