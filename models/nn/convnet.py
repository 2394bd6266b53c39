"""The convolutional networks of Glow."""

import torch
from torch import Tensor, nn

from ..transforms.actnorm import ActNorm
from .context import as_pictures, needed
from .layout import channels_last_on_cpu

__all__ = ["ConvNet", "ZeroConv"]


class ZeroConv(nn.Module):
    r"""A 3x3 convolution that starts at zero, with a learned scale of each output channel.

    .. math:: y = (W * x + b)\,e^{3 l}

    ``(B, n_in, H, W)`` and context to ``(B, n_out, H, W)``. W, b and l start at 0; the factor 3 speeds up the learning
    of the scale l. (Kingma, Dhariwal 2018, Glow: Generative flow with invertible 1x1 convolutions, arXiv:1807.03039.)

    Arguments:
        n_in, n_out: Numbers of channels. Without inputs and context the output is a learned constant but for the
            borders, where zeros are padded.
        n_context: Numbers of the context, vectors ``(B, n_context)`` or pictures ``(B, n_context, H, W)``; 0: none.
    """

    def __init__(self, n_in: int, n_out: int, *, n_context: int = 0) -> None:
        super().__init__()
        self.n_context = n_context
        self.conv = nn.Conv2d(max(1, n_in + n_context), n_out, 3, padding=1)
        self.log_scale = nn.Parameter(torch.zeros(n_out))
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        y = self.conv(_with_context(x, context, self.n_context))
        return y * (3 * self.log_scale).exp().to(y.dtype)[:, None, None]


class ConvNet(nn.Module):
    """A 3x3, a 1x1 and a zero-initialized 3x3 convolution: ``(B, n_in, H, W)`` and context to ``(B, n_out, H, W)``.

    The first two are each followed by activation normalization and ReLU. (The conditioner of Kingma, Dhariwal 2018,
    Glow: Generative flow with invertible 1x1 convolutions, arXiv:1807.03039; without the channel that marks the borders
    in its code.)

    Arguments:
        n_in, n_out, n_context: As in :class:`ZeroConv`.
        channels: Channels inside.
    """

    def __init__(self, n_in: int, n_out: int, *, channels: int, n_context: int = 0) -> None:
        super().__init__()
        self.n_context = n_context
        self.layers = nn.Sequential(
            _NormalizedConv(max(1, n_in + n_context), channels, 3),
            nn.ReLU(inplace=True),
            _NormalizedConv(channels, channels, 1),
            nn.ReLU(inplace=True),
            ZeroConv(channels, n_out),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layers(channels_last_on_cpu(_with_context(x, context, self.n_context)))


class _NormalizedConv(nn.Module):
    """A convolution and activation normalization of its output in one: the scale goes into the weights.

    So the output before normalization need not be kept for the backward pass.
    """

    def __init__(self, n_in: int, n_out: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, size, padding=size // 2, bias=False)
        self.norm = ActNorm(n_out)
        nn.init.normal_(self.conv.weight, std=0.05)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm.waits_for_data:
            with torch.no_grad():
                self.norm.initialize(self.conv(x))
        weight = self.conv.weight * self.norm.log_scale.exp()[:, None, None, None]
        return nn.functional.conv2d(x, weight, self.norm.bias, padding=self.conv.padding)


def _with_context(x: Tensor, context: Tensor | None, n_context: int) -> Tensor:
    """x and the context as channels, or a channel of ones where there is neither."""
    if n_context > 0:
        pictures = as_pictures(needed(context, n_context), x)
        x = torch.cat([x, pictures.expand(-1, -1, *x.shape[2:])], 1)
    return x.new_ones(len(x), 1, *x.shape[2:]) if x.shape[1] == 0 else x
