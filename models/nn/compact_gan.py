"""The small convolutional networks that are trained on stacked digits, for images of any size.

Pictures are halved three times, sides rounded up (28, 14, 7, 4), by convolutions of 3 x 3; the generator is the mirror.

References:
    Metz, Poole, Pfau, Sohl-Dickstein (2017): Unrolled generative adversarial networks, arXiv:1611.02163, appendix.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

from torch import nn

from .dcgan import initialized

__all__ = ["compact_discriminator", "compact_generator"]


def compact_generator(shape: Iterable[int], latent_dim: int, bounded: bool) -> nn.Sequential:
    """Noise ``(B, Z)`` to pictures ``(B, C, H, W)`` through 64, 32, 16 and 8 channels.

    Weights start as in He, Zhang, Ren, Sun (2015), arXiv:1502.01852, and not at N(0, 0.02): batch normalization makes
    the scale of all but the last layer irrelevant in training, and the running statistics are right sooner.

    Raises:
        ValueError: ``shape`` is not an image's.
    """
    channels, *sides = _image(shape)
    sizes = _sizes(sides)[::-1]
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, 64 * math.prod(sizes[0])), nn.Unflatten(1, (64, *sizes[0])), nn.BatchNorm2d(64),
        nn.ReLU(),
    ]  # fmt: skip
    for (n_in, n_out), (small, large) in zip(pairwise([64, 32, 16, 8]), pairwise(sizes), strict=True):
        extra = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)
        layers += [
            nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=extra), nn.BatchNorm2d(n_out),
            nn.ReLU(),
        ]  # fmt: skip
    layers.append(nn.Conv2d(8, channels, 3, padding=1))
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(*layers, *([nn.Tanh()] if bounded else []))


def compact_discriminator(shape: Iterable[int], width: int) -> nn.Sequential:
    """Pictures ``(B, C, H, W)`` to one unbounded number each, ``(B,)``, through w, 2 w and 4 w channels.

    Raises:
        ValueError: ``shape`` is not an image's.
    """
    channels, *sides = _image(shape)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise([channels, width, 2 * width, 4 * width]):
        layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm2d(n_out), nn.LeakyReLU(0.3)]
    final = nn.Linear(4 * width * math.prod(_sizes(sides)[-1]), 1)
    return initialized(nn.Sequential(*layers, nn.Flatten(), final, nn.Flatten(0)))


def _image(shape: Iterable[int]) -> tuple[int, ...]:
    shape = tuple(shape)
    if len(shape) != 3:
        raise ValueError(f"these networks are for images (C, H, W), not for examples of shape {shape}")
    return shape


def _sizes(sides: list[int]) -> list[tuple[int, ...]]:
    """Return both sides at full resolution and after each of three halvings."""
    return [tuple(math.ceil(side / 2**k) for side in sides) for k in range(4)]
