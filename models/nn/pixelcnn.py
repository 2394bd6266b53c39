"""The network of PixelCNN."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from .causal_conv import CausalConv, groups_of

__all__ = ["PixelCNNNetwork"]


class PixelCNNNetwork(nn.Module):
    r"""Masked convolutions: ``(B, C, H, W)`` to P outputs for each entry, ``(B, P, C, H, W)``.

    Outputs of an entry depend on the entries before it: pixels row after row, the channels of a pixel one after
    another. A 7x7 convolution with mask A, then residual blocks with mask B, 2h features wide,

    .. math:: f \leftarrow f + W_3\, \phi(W_{k \times k} * \phi(W_1\, \phi(f))), \quad \phi = \mathrm{ReLU},

    with h features inside, and two 1x1 convolutions (van den Oord, Kalchbrenner, Kavukcuoglu 2016, Pixel recurrent
    neural networks, arXiv:1601.06759, figure 5 and table 1). Some entries above and to the right are never read: the
    blind spot of this network, which a gated one has not (van den Oord et al. 2016, arXiv:1606.05328, figure 1).

    Arguments:
        n_in: C, channels of the data.
        n_out: P.
        channels: h.
        blocks: Number of residual blocks.
        head: Features between the last two convolutions.
        first_kernel, kernel: Sizes of the first kernel and of the blocks', odd.

    Raises:
        ValueError: A kernel is even, or there are fewer features than channels of the data.
    """

    def __init__(
        self, n_in: int, n_out: int, *, channels: int, blocks: int, head: int, first_kernel: int = 7, kernel: int = 3
    ) -> None:
        super().__init__()
        for name, size in (("first_kernel", first_kernel), ("kernel", kernel)):
            if size < 1 or size % 2 == 0:
                raise ValueError(f"{name} must be odd, not {size}")
        self.n_in, self.n_out = n_in, n_out
        data, inside, wide = torch.arange(n_in), groups_of(channels, n_in), groups_of(2 * channels, n_in)
        middle = groups_of(head, n_in)
        outputs = data.repeat_interleave(n_out)
        half = first_kernel // 2
        self.first = CausalConv(data, wide, strict=True, above=half, reach=half)
        self.blocks = nn.ModuleList([_Block(wide, inside, kernel // 2) for _ in range(blocks)])
        self.head = CausalConv(wide, middle)
        self.last = CausalConv(middle, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = block(h)
        h = self.last(relu(self.head(relu(h))))
        return h.unflatten(1, (self.n_in, self.n_out)).transpose(1, 2)

    def generate(self, emit: Callable[[int, Tensor], Tensor], batch: int, height: int, width: int) -> None:
        """Entries one after another, each made from its own outputs. Each pixel of each layer is computed once.

        Arguments:
            emit: Number i of an entry of the flattened picture, and its outputs ``(B, P)``, to that entry, ``(B,)``.
            batch: B.
            height, width: H and W.
        """
        seen = self.first.memory(batch, height, width)
        memories = [block.middle.memory(batch, height, width) for block in self._blocks]
        for i in range(height):
            for j in range(width):
                pixel = seen.new_zeros(batch, self.n_in)
                for c in range(self.n_in):
                    h = self.first.at(seen, pixel, i, j)
                    for block, memory in zip(self._blocks, memories, strict=True):
                        h = block.at(memory, h, i, j)
                    outputs = self.last.point(relu(self.head.point(relu(h))))
                    pixel[:, c] = emit((c * height + i) * width + j, outputs.unflatten(1, (self.n_in, -1))[:, c])
                self.first.write(seen, pixel, i, j)

    @property
    def _blocks(self) -> "list[_Block]":
        return list(self.blocks)  # type: ignore[arg-type]  # a ModuleList forgets the type of its modules


class _Block(nn.Module):
    def __init__(self, wide: Tensor, inside: Tensor, half: int) -> None:
        super().__init__()
        self.narrow = CausalConv(wide, inside)
        self.middle = CausalConv(inside, inside, above=half, reach=half)
        self.widen = CausalConv(inside, wide)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.widen(relu(self.middle(relu(self.narrow(relu(h))))))

    def at(self, memory: Tensor, h: Tensor, i: int, j: int) -> Tensor:
        inner = self.middle.at(memory, relu(self.narrow.point(relu(h))), i, j)
        return h + self.widen.point(relu(inner))
