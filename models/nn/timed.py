"""Networks that see a time besides their input: of vectors a perceptron, of images a U-Net."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mlp import MLP
from .unet import UNet

__all__ = ["TimedMLP", "TimedUNet", "timed_network", "waves"]

WAVES = 16
FASTEST = 50.0  # slow enough for a velocity that a solver follows in few steps


def waves(t: Tensor) -> Tensor:
    r"""Sines and cosines of times ``(B,)`` at 8 frequencies from 1 to 50, in equal ratios: ``(B, 16)``.

    (Vaswani et al. 2017, Attention is all you need, arXiv:1706.03762, section 3.5; with times in [0, 1].)
    """
    frequencies = torch.logspace(0, math.log10(FASTEST), WAVES // 2, device=t.device, dtype=t.dtype)
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class TimedMLP(nn.Module):
    """t and vectors ``(B, n_in)`` to ``(B, n_out)``, by a perceptron that sees 16 waves of the time.

    Arguments:
        n_in, n_out: Numbers of inputs and outputs.
        hidden, depth: Units of each hidden layer, and number of hidden layers.
    """

    def __init__(self, n_in: int, n_out: int, *, hidden: int, depth: int) -> None:
        super().__init__()
        self.layers = MLP(n_in, n_out, hidden=hidden, depth=depth, n_context=WAVES)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``t``: one time for all, ``()``, or one for each, ``(B,)``, in [0, 1]."""
        made: Tensor = self.layers(x, waves(t.to(x.dtype).expand(len(x))))
        return made


class TimedUNet(nn.Module):
    """t and images ``(B, n_in, H, W)`` to ``(B, n_out, H, W)``, by a U-Net that sees waves of the time.

    Arguments:
        n_in, n_out: Numbers of channels of inputs and outputs.
        channels, multipliers, blocks: As in :class:`~models.nn.unet.UNet`.
    """

    def __init__(self, n_in: int, n_out: int, *, channels: int, multipliers: Sequence[int], blocks: int) -> None:
        super().__init__()
        n_time = 4 * channels
        self.embed = nn.Sequential(nn.Linear(WAVES, n_time), nn.SiLU(), nn.Linear(n_time, n_time), nn.SiLU())
        self.layers = UNet(n_in, n_out, channels=channels, multipliers=multipliers, blocks=blocks, n_context=n_time)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``t``: one time for all, ``()``, or one for each, ``(B,)``, in [0, 1]."""
        time = self.embed(waves(t.to(x.dtype).expand(len(x))))
        made: Tensor = self.layers(x, time)
        return made


def timed_network(
    shape: Sequence[int],
    *,
    n_in: int = 1,
    n_out: int = 1,
    hidden: int,
    depth: int,
    channels: int,
    multipliers: Sequence[int],
    blocks: int,
) -> nn.Module:
    """A network of a time and examples of ``shape``, for vectors :class:`TimedMLP`, for images :class:`TimedUNet`.

    Arguments:
        shape: ``(D,)`` or ``(C, H, W)``.
        n_in, n_out: Numbers that each entry comes as and becomes: ``(B, n_in D)`` to ``(B, n_out D)``, or the same of
            channels.
        hidden, depth: For vectors: units of each hidden layer, and hidden layers.
        channels, multipliers, blocks: For images: see :class:`~models.nn.unet.UNet`.

    Raises:
        ValueError: The shape is neither a vector's nor an image's, an image is too small for the scales, or a number is
            out of range.
    """
    if len(shape) == 1:
        if hidden < 1 or depth < 0:
            raise ValueError(f"hidden must be at least 1 and depth at least 0, not {hidden} and {depth}")
        return TimedMLP(n_in * shape[0], n_out * shape[0], hidden=hidden, depth=depth)
    if len(shape) != 3:
        raise ValueError(f"shape must be that of vectors (D,) or images (C, H, W), not {tuple(shape)}")
    least = 2 ** (len(multipliers) - 1)
    if min(shape[1:]) < least:
        raise ValueError(
            f"multipliers: {len(multipliers)} scales need images of at least {least} x {least} pixels, "
            f"not {shape[1]} x {shape[2]}; give fewer multipliers"
        )
    return TimedUNet(n_in * shape[0], n_out * shape[0], channels=channels, multipliers=multipliers, blocks=blocks)
