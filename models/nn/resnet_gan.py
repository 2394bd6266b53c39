r"""Residual generator and discriminator networks of GANs, for images of 32 x 32, 64 x 64 and the like.

Images are halved as in ``models.nn.dcgan``: 28 -> 14 -> 7, 32 -> 16 -> 8 -> 4, 64 -> ... -> 4. Up to three halvings the
sizes are those of Miyato et al. for CIFAR-10 (their table 4, ``width`` 128): every block of the generator has
``2 * width`` channels, and the discriminator has two blocks that halve, two that do not, and a sum over positions. With
more halvings they are those of Gulrajani et al. for 64 x 64 (``width`` 64): from ``8 * width`` channels at the smallest
picture to ``width`` at the full resolution in both networks.

The generator has batch normalization. The discriminator has no normalization: a gradient penalty wants none, and
``models.nn.sngan.spectrally_normalized`` adds the spectral one. (Gulrajani et al. have layer normalization there for
64 x 64.)

References:
    Miyato, Kataoka, Koyama, Yoshida (2018): Spectral normalization for generative adversarial networks,
    arXiv:1802.05957.
    Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville (2017): Improved training of Wasserstein GANs, arXiv:1704.00028.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor, nn

from .dcgan import checked, pyramid, smallest

__all__ = ["DownBlock", "UpBlock", "discriminator_network", "generator_network"]

SMALLEST_SIDE = 16
FEW_HALVINGS = 3


def generator_network(shape: Iterable[int], latent_dim: int, width: int, bounded: bool) -> nn.Sequential:
    """Noise ``(B, Z)`` to examples ``(B, C, H, W)``.

    Arguments:
        shape: ``(C, H, W)``; H and W at least 16 and multiples of 4.
        latent_dim: Z.
        width: Half the channels of every block (up to three halvings), or the channels at the full resolution.
        bounded: Whether outputs end in tanh and lie in [-1, 1], or are linear.

    Raises:
        ValueError: ``shape`` is no image, or too small, or cannot be halved twice; or a size is below 1.
    """
    shape, halvings = _image(shape, latent_dim, width)
    sizes = [2 * width] * (halvings + 1)
    if halvings > FEW_HALVINGS:
        sizes = [8 * width, *(width * 2 ** min(i, 3) for i in reversed(range(halvings)))]
    start = smallest(shape, halvings)
    return _initialized(
        nn.Sequential(
            nn.Linear(latent_dim, sizes[0] * math.prod(start)),
            nn.Unflatten(1, (sizes[0], *start)),
            *(UpBlock(before, after) for before, after in pairwise(sizes)),
            nn.BatchNorm2d(sizes[-1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(sizes[-1], shape[0], 3, padding=1),
            *([nn.Tanh()] if bounded else []),
        )
    )


def discriminator_network(shape: Iterable[int], width: int) -> nn.Sequential:
    """Examples ``(B, C, H, W)`` to one unbounded number each, ``(B,)``: a logit, or a critic's value.

    Arguments:
        shape: As in the generator.
        width: Channels of every block (up to three halvings), or those at the full resolution.

    Raises:
        ValueError: As the generator.
    """
    shape, halvings = _image(shape, width)
    if halvings <= FEW_HALVINGS:
        return _initialized(
            nn.Sequential(
                DownBlock(shape[0], width, first=True),
                DownBlock(width, width),
                DownBlock(width, width, halve=False),
                DownBlock(width, width, halve=False),
                nn.ReLU(),
                SumOverPositions(),
                nn.Linear(width, 1),
                nn.Flatten(0),
            )
        )
    sizes = [width * 2 ** min(i, 3) for i in range(halvings + 1)]
    return _initialized(
        nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1),
            *(DownBlock(before, after) for before, after in pairwise(sizes)),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(sizes[-1] * math.prod(smallest(shape, halvings)), 1),
            nn.Flatten(0),
        )
    )


class UpBlock(nn.Module):
    """Doubles height and width: ``(B, n_in, H, W)`` to ``(B, n_out, 2H, 2W)``.

    Batch normalization, ReLU, nearest-neighbour upsampling and a 3x3 convolution, then the same without upsampling,
    beside a shortcut of upsampling and a 1x1 convolution.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(n_in), nn.ReLU(inplace=True), nn.Upsample(scale_factor=2),
            nn.Conv2d(n_in, n_out, 3, padding=1),
            nn.BatchNorm2d(n_out), nn.ReLU(inplace=True), nn.Conv2d(n_out, n_out, 3, padding=1),
        )  # fmt: skip
        # A 1x1 convolution commutes with nearest-neighbour upsampling, and costs a quarter before it.
        self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1), nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.residual(x) + self.shortcut(x)
        return made


class DownBlock(nn.Module):
    """``(B, n_in, H, W)`` to ``(B, n_out, H/2, W/2)``, or to the same height and width.

    ReLU and a 3x3 convolution, twice, and the mean of 2x2 positions, beside a shortcut of a 1x1 convolution and the
    mean. Without a change of size or channels the shortcut is the identity.

    Arguments:
        halve: Whether the means are taken.
        first: The block that reads the image: no ReLU comes before its first convolution.
    """

    def __init__(self, n_in: int, n_out: int, *, halve: bool = True, first: bool = False) -> None:
        super().__init__()
        mean = [nn.AvgPool2d(2)] if halve else []
        # Not in place: the shortcut reads the block's input too.
        self.residual = nn.Sequential(
            *([] if first else [nn.ReLU()]), nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(n_out, n_out, 3, padding=1), *mean,
        )  # fmt: skip
        changes = halve or n_in != n_out
        # A 1x1 convolution commutes with the mean, and costs a quarter after it.
        self.shortcut = nn.Sequential(*mean, *([nn.Conv2d(n_in, n_out, 1)] if changes else []))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.residual(x) + self.shortcut(x)
        return made


class SumOverPositions(nn.Module):
    """``(B, C, H, W)`` to ``(B, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3))


def _image(shape: Iterable[int], *sizes: int) -> tuple[tuple[int, ...], int]:
    """The shape of an image that is large enough, and how often it is halved."""
    shape = checked(shape, *sizes)
    if len(shape) != 3 or min(shape[1:]) < SMALLEST_SIDE or shape[1] % 4 or shape[2] % 4:
        raise ValueError(
            f"shape {shape}: residual networks need images (C, H, W) of at least {SMALLEST_SIDE} x {SMALLEST_SIDE}"
            " whose height and width are multiples of 4"
        )
    return shape, len(pyramid(shape, 1))


def _initialized(network: nn.Sequential) -> nn.Sequential:
    r"""Glorot's uniform weights (Glorot, Bengio 2010), with gain :math:`\sqrt 2` before a ReLU, and zero biases."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, math.sqrt(2) if ".residual." in f".{name}" else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
