"""Convolutions that read pictures in raster order, and their evaluation one pixel after another."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from .masked import Masked

__all__ = ["CausalConv", "RowsConv", "groups_of"]


def groups_of(channels: int, entries: int) -> Tensor:
    """The entry of a pixel that each of ``channels`` features belongs to, ``(channels,)``, spread evenly.

    Raises:
        ValueError: There are fewer features than entries.
    """
    if channels < entries:
        raise ValueError(f"channels must be at least {entries}, one for each channel of the data, not {channels}")
    return torch.arange(channels) * entries // channels


class CausalConv(nn.Module, Masked):
    r"""A convolution whose output at (i, j) reads rows above i, and row i up to column j.

    ``(B, n_in, H, W) -> (B, n_out, H, W)``. The kernel has ``above`` rows above the current one; in these it reads
    ``reach`` columns to the left, the same one and, with ``above`` > 0, ``reach`` to the right. At (i, j) itself, a
    feature of group g reads those of the groups up to g, or of the groups before g where ``strict``. Groups are the
    channels of the data, so that a channel of a pixel reads those before it (van den Oord, Kalchbrenner, Kavukcuoglu
    2016, Pixel recurrent neural networks, arXiv:1601.06759, section 3.4: masks A, which is strict, and B).

    Arguments:
        groups_in, groups_out: The group of each feature, ``(n_in,)`` and ``(n_out,)``.
        strict: Mask A.
        above, reach: Size of the kernel; both 0 is a 1x1 convolution.
        dilation: Distance between the pixels that it reads.
    """

    def __init__(
        self,
        groups_in: Tensor,
        groups_out: Tensor,
        *,
        strict: bool = False,
        above: int = 0,
        reach: int = 0,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.above, self.reach, self.dilation = above, reach, dilation
        width = 2 * reach + 1 if above > 0 else reach + 1
        # Made by a layer of torch, which starts the weights as it does.
        like = nn.Conv2d(len(groups_in), len(groups_out), (above + 1, width))
        self.weight = like.weight
        assert like.bias is not None
        self.bias = like.bias
        mask = torch.ones_like(self.weight)
        mask[:, :, above, reach + 1 :] = 0
        before, after = groups_in[None, :], groups_out[:, None]
        mask[:, :, above, reach] = (before < after if strict else before <= after).to(mask)
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)

    @property
    def n_masked(self) -> int:
        return int((self.mask == 0).sum())

    def forward(self, x: Tensor) -> Tensor:
        padding = (self.above * self.dilation, self.reach * self.dilation)
        y = conv2d(x, self.weight * self.mask, self.bias, padding=padding, dilation=self.dilation)
        return y[:, :, : x.shape[2], : x.shape[3]]  # what is padded below, and to the right of a row, is cut off

    def memory(self, batch: int, height: int, width: int) -> Tensor:
        """A padded picture of inputs, all 0: ``at`` writes them one pixel after another."""
        down, across = self.above * self.dilation, self.reach * self.dilation
        return self.weight.new_zeros(batch, self.weight.shape[1], height + down, width + 2 * across)

    def at(self, memory: Tensor, x: Tensor, i: int, j: int) -> Tensor:
        """The output at (i, j), ``(B, n_out)``, of inputs ``(B, n_in)`` there and those that ``memory`` holds.

        The inputs are remembered. All pixels before (i, j) in raster order must have been given.
        """
        self.write(memory, x, i, j)
        d = self.dilation
        _, _, rows, columns = self.weight.shape
        patch = memory[:, :, i : i + (rows - 1) * d + 1 : d, j : j + (columns - 1) * d + 1 : d]
        return linear(patch.flatten(1), (self.weight * self.mask).flatten(1), self.bias)

    def point(self, x: Tensor) -> Tensor:
        """Of a 1x1 convolution: inputs of any one pixel ``(B, n_in)`` to outputs ``(B, n_out)``."""
        return linear(x, (self.weight * self.mask).flatten(1), self.bias)

    def write(self, memory: Tensor, x: Tensor, i: int, j: int) -> None:
        """Remember inputs ``(B, n_in)`` at (i, j)."""
        memory[:, :, i + self.above * self.dilation, j + self.reach * self.dilation] = x


class RowsConv(nn.Conv2d):
    """A convolution whose output at (i, j) reads rows above i, and row i too unless ``strict``.

    ``(B, n_in, H, W) -> (B, n_out, H, W)``. Of each row it reads ``reach`` pixels on both sides of column j. Nothing is
    masked: the kernel has the rows alone that are read.

    Arguments:
        n_in, n_out: Numbers of features.
        reach: Rows above that are read, and columns on either side.
        strict: Row i is not read.
        dilation: Distance between the pixels that it reads.
    """

    def __init__(self, n_in: int, n_out: int, reach: int, *, strict: bool = False, dilation: int = 1) -> None:
        rows = reach if strict else reach + 1
        super().__init__(n_in, n_out, (rows, 2 * reach + 1), padding=reach * dilation, dilation=dilation)
        self.strict = strict
        self.margin = reach * dilation

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, : x.shape[2]]

    def memory(self, batch: int, height: int, width: int) -> Tensor:
        """A padded picture of inputs, all 0: ``row`` writes them one row after another."""
        return self.weight.new_zeros(batch, self.in_channels, height + self.margin, width + 2 * self.margin)

    def row(self, memory: Tensor, x: Tensor, i: int) -> Tensor:
        """Row i of the output, ``(B, n_out, W)``, of inputs ``(B, n_in, W)`` there and those that ``memory`` holds.

        The inputs are remembered; where ``strict`` they are not read, and ``write_row`` gives them afterwards.
        """
        if not self.strict:
            self.write_row(memory, x, i)
        _, _, rows, _ = self.weight.shape
        across = self.dilation[0]
        slab = memory[:, :, i : i + (rows - 1) * across + 1 : across]
        return conv2d(slab, self.weight, self.bias, dilation=(1, across))[:, :, 0]

    def write_row(self, memory: Tensor, x: Tensor, i: int) -> None:
        """Remember inputs ``(B, n_in, W)`` of row i."""
        memory[:, :, i + self.margin, self.margin : self.margin + x.shape[2]] = x
