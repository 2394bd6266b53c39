"""Convolutional residual network that keeps the size of its input."""

from torch import Tensor, nn

from .context import as_pictures, needed
from .layout import channels_last_on_cpu

__all__ = ["ResNet"]


class ResNet(nn.Module):
    """Images to images of the same height and width: ``(B, n_in, H, W)`` and context to ``(B, n_out, H, W)``.

    A 3x3 convolution, residual blocks of two 3x3 convolutions, and a 1x1 convolution; each convolution after the first
    is preceded by normalization and ReLU (He, Zhang, Ren, Sun 2016, Identity mappings in deep residual networks,
    arXiv:1603.05027). The normalization is over all channels and positions of one example, so examples stay independent
    and training and evaluation compute the same.

    Arguments:
        n_in, n_out: Numbers of channels. Without inputs (0) the output depends on the context at most.
        channels: Channels inside.
        blocks: Number of residual blocks.
        n_context: Numbers of the context, vectors ``(B, n_context)`` or pictures ``(B, n_context, H, W)``; 0: none.
            A 1x1 convolution adds it to the output of the first convolution.
        zero_last: Start the last layer at zero, as conditioners of flows want it.
    """

    def __init__(
        self, n_in: int, n_out: int, *, channels: int, blocks: int, n_context: int = 0, zero_last: bool = False
    ) -> None:
        super().__init__()
        self.n_context = n_context
        self.constant_input = n_in == 0
        self.first = nn.Conv2d(max(1, n_in), channels, 3, padding=1)
        if n_context > 0:
            self.project = nn.Conv2d(n_context, channels, 1, bias=False)
        last = nn.Conv2d(channels, n_out, 1)
        if zero_last:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.layers = nn.Sequential(
            *[_Block(channels) for _ in range(blocks)],
            nn.GroupNorm(1, channels),
            nn.ReLU(inplace=True),
            last,
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(x.new_ones(len(x), 1, *x.shape[2:]) if self.constant_input else x)
        if self.n_context > 0:
            h = h + self.project(as_pictures(needed(context, self.n_context), x))
        return self.layers(channels_last_on_cpu(h))


class _Block(nn.Module):
    """x plus two convolutions of it, each after normalization and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.GroupNorm(1, channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(1, channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)
