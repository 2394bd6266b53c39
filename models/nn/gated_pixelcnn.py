"""The network of the gated PixelCNN."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, linear

from .causal_conv import CausalConv, RowsConv, groups_of
from .context import needed

__all__ = ["GatedPixelCNNNetwork"]


class GatedPixelCNNNetwork(nn.Module):
    r"""Two stacks of masked convolutions: ``(B, C, H, W)`` to P outputs for each entry, ``(B, P, C, H, W)``.

    The vertical stack reads the rows above a pixel, all of each; the horizontal stack reads the pixels to its left and,
    through a 1x1 convolution, the vertical stack. Together they read every entry before an entry, as far as their
    kernels reach, without a blind spot, and no other. A layer of either stack is a gated convolution

    .. math:: y = \tanh(W_f * x + V_f c) \odot \sigma(W_g * x + V_g c);

    in the horizontal stack, but for the first layer, :math:`W_1 y` is added to x (van den Oord, Kalchbrenner, Vinyals,
    Espeholt, Graves, Kavukcuoglu 2016, Conditional image generation with PixelCNN decoders, arXiv:1606.05328, figure 2
    and equation 4). Kernels may be dilated, so that few layers reach far.

    Arguments:
        n_in: C, channels of the data.
        n_out: P.
        channels: Features of each stack.
        dilations: Of each layer after the first.
        first_kernel, kernel: Sizes of the first layer's kernel and of the others, odd.
        n_context: Numbers of the context c, vectors ``(B, n_context)``; 0: none.

    Raises:
        ValueError: A kernel is even or too small, or there are fewer features than channels of the data.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        channels: int,
        dilations: Sequence[int],
        first_kernel: int = 7,
        kernel: int = 3,
        n_context: int = 0,
    ) -> None:
        super().__init__()
        for name, size in (("first_kernel", first_kernel), ("kernel", kernel)):
            if size < 3 or size % 2 == 0:
                raise ValueError(f"{name} must be odd and at least 3, not {size}")
        self.n_in, self.n_out, self.n_context = n_in, n_out, n_context
        data, features = torch.arange(n_in), groups_of(channels, n_in)
        outputs = data.repeat_interleave(n_out)
        self.first = _Layer(data, features, first_kernel, n_context=n_context, first=True)
        self.layers = nn.ModuleList(
            [_Layer(features, features, kernel, dilation=dilation, n_context=n_context) for dilation in dilations]
        )
        self.last = CausalConv(features, outputs)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        c = None if self.n_context == 0 else needed(context, self.n_context)
        above, before = x, x
        for layer in self._layers:
            above, before = layer(above, before, c)
        return self.last(elu(before)).unflatten(1, (self.n_in, self.n_out)).transpose(1, 2)

    def generate(
        self,
        emit: Callable[[int, Tensor], Tensor],
        batch: int,
        height: int,
        width: int,
        context: Tensor | None = None,
    ) -> None:
        """Entries one after another, each made from its own outputs. The vertical stack is computed row by row, the
        horizontal one pixel by pixel, each once.

        Arguments:
            emit: Number i of an entry of the flattened picture, and its outputs ``(B, P)``, to that entry, ``(B,)``.
            batch: B.
            height, width: H and W.
            context: ``(B, n_context)``.
        """
        c = None if self.n_context == 0 else needed(context, self.n_context)
        layers = self._layers
        vertical = [layer.vertical.memory(batch, height, width) for layer in layers]
        horizontal = [layer.horizontal.memory(batch, 1, width) for layer in layers]
        row = vertical[0].new_zeros(batch, self.n_in, width)
        for i in range(height):
            above, down = row.new_zeros(row.shape), []
            for layer, memory in zip(layers, vertical, strict=True):
                above, to_horizontal = layer.row(memory, above, i, c)
                down.append(to_horizontal)
            row = row.new_zeros(row.shape)
            for j in range(width):
                for k in range(self.n_in):
                    before = row[:, :, j]
                    for layer, memory, from_vertical in zip(layers, horizontal, down, strict=True):
                        before = layer.pixel(memory, before, from_vertical[:, :, j], j)
                    outputs = self.last.point(elu(before)).unflatten(1, (self.n_in, self.n_out))
                    row[:, k, j] = emit((k * height + i) * width + j, outputs[:, k])
                layers[0].horizontal.write(horizontal[0], row[:, :, j], 0, j)
            layers[0].vertical.write_row(vertical[0], row, i)

    @property
    def _layers(self) -> "list[_Layer]":
        return [self.first, *self.layers]


class _Layer(nn.Module):
    """One layer of both stacks.

    Arguments:
        groups_in, groups_out: The channel of the data that each feature of the horizontal stack belongs to.
        first: The inputs are the data: the vertical stack reads the rows above the current one, the horizontal stack
            what is before the current entry.
    """

    def __init__(
        self,
        groups_in: Tensor,
        groups_out: Tensor,
        kernel: int,
        *,
        dilation: int = 1,
        n_context: int = 0,
        first: bool = False,
    ) -> None:
        super().__init__()
        half, n_out = kernel // 2, len(groups_out)
        self.residual = not first
        self.vertical = RowsConv(len(groups_in), 2 * n_out, half, strict=first, dilation=dilation)
        gates = torch.cat([groups_out, groups_out])
        self.horizontal = CausalConv(groups_in, gates, strict=first, reach=half, dilation=dilation)
        self.down = nn.Conv2d(2 * n_out, 2 * n_out, 1)
        self.mix = CausalConv(groups_out, groups_out)
        if n_context > 0:
            self.to_vertical = nn.Linear(n_context, 2 * n_out, bias=False)
            self.to_horizontal = nn.Linear(n_context, 2 * n_out, bias=False)

    def forward(self, above: Tensor, before: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        v, h = self.vertical(above), self.horizontal(before)
        if context is not None:
            v = v + self.to_vertical(context)[:, :, None, None]
            h = h + self.to_horizontal(context)[:, :, None, None]
        h = h + self.down(v)
        mixed = self.mix(_gate(h))
        return _gate(v), before + mixed if self.residual else mixed

    def row(self, memory: Tensor, above: Tensor, i: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Row i of the vertical stack, ``(B, n_in, W)`` to ``(B, n_out, W)``, and what it gives to the horizontal one.

        The first layer reads the rows that were remembered alone, and not ``above``.
        """
        v = self.vertical.row(memory, above, i)
        if context is not None:
            v = v + self.to_vertical(context)[:, :, None]
        h = linear(v.transpose(1, 2), self.down.weight[:, :, 0, 0], self.down.bias).transpose(1, 2)
        if context is not None:
            h = h + self.to_horizontal(context)[:, :, None]
        return _gate(v), h

    def pixel(self, memory: Tensor, before: Tensor, from_vertical: Tensor, j: int) -> Tensor:
        """Pixel j of the horizontal stack, ``(B, n_in)`` to ``(B, n_out)``."""
        mixed = self.mix.point(_gate(self.horizontal.at(memory, before, 0, j) + from_vertical))
        return before + mixed if self.residual else mixed


def _gate(x: Tensor) -> Tensor:
    """The tanh of the first half of the features times the sigmoid of the other."""
    f, g = x.chunk(2, 1)
    return f.tanh() * g.sigmoid()
