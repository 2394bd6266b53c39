"""The convolutional network of Flow++: gated residual blocks and attention over positions."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, glu, scaled_dot_product_attention

from .context import as_pictures, needed

__all__ = ["GatedConvNet"]


class GatedConvNet(nn.Module):
    r"""Images to images of the same height and width: ``(B, n_in, H, W)`` and context to ``(B, n_out, H, W)``.

    A 3x3 convolution, then blocks of

    .. math:: h \leftarrow \mathrm{LN}(h + \mathrm{Gate}(\mathrm{Conv}(\phi(h)) + W\phi(c))), \quad
        h \leftarrow \mathrm{LN}(h + \mathrm{Gate}(\mathrm{Attention}(h + e)))

    and a 3x3 convolution. The nonlinearity :math:`\phi(h) = \mathrm{ELU}([h, -h])` doubles the channels, a gate is a
    1x1 convolution whose one half of channels multiplies the sigmoid of the other, attention has several heads and is
    over all positions, with learned embeddings e of the positions that all blocks share, and layers are normalized over
    the channels of each position. Examples stay independent. (Ho, Chen, Srinivas, Duan, Abbeel 2019, Flow++: Improving
    flow-based generative models with variational dequantization and architecture design, arXiv:1902.00275, section
    3.3.)

    Gates and outputs start small, with a standard deviation of about 0.1 in place of the data-dependent initialization
    of the paper's code. There is no dropout.

    Arguments:
        n_in, n_out: Numbers of channels.
        size: H and W.
        channels: Channels inside.
        blocks: Number of blocks.
        heads: Number of attention heads, a divisor of ``channels``; 0: blocks have neither attention nor normalization.
        n_context: Numbers of the context c, vectors ``(B, n_context)`` or pictures ``(B, n_context, H, W)``; 0: none.

    Raises:
        ValueError: The heads do not divide the channels.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: tuple[int, int],
        *,
        channels: int,
        blocks: int,
        heads: int,
        n_context: int = 0,
    ) -> None:
        super().__init__()
        if heads > 0 and channels % heads:
            raise ValueError(f"{heads} attention heads do not divide {channels} channels")
        self.n_context = n_context
        self.first = nn.Conv2d(n_in, channels, 3, padding=1)
        self.blocks = nn.ModuleList([_Block(channels, heads, n_context) for _ in range(blocks)])
        self.last = _small(nn.Conv2d(channels, n_out, 3, padding=1))
        self.positions = nn.Parameter(0.01 * torch.randn(math.prod(size), channels)) if heads > 0 else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        pictures = None if self.n_context == 0 else as_pictures(needed(context, self.n_context), x)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, pictures, self.positions)
        return self.last(h)


class _Block(nn.Module):
    """A gated convolution, and gated attention where there are heads."""

    def __init__(self, channels: int, heads: int, n_context: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 3, padding=1)
        if n_context > 0:
            self.project = nn.Conv2d(2 * n_context, channels, 1, bias=False)
        self.gate = _small(nn.Conv2d(2 * channels, 2 * channels, 1))
        if heads > 0:
            self.heads = heads
            self.norms = nn.ModuleList([nn.LayerNorm(channels), nn.LayerNorm(channels)])
            self.queries_keys_values = nn.Linear(channels, 3 * channels)
            self.attention_gate = _small(nn.Linear(channels, 2 * channels))

    def forward(self, h: Tensor, context: Tensor | None, positions: Tensor | None) -> Tensor:
        inner = self.conv(_concat_elu(h))
        if context is not None:
            inner = inner + self.project(_concat_elu(context))
        h = h + glu(self.gate(_concat_elu(inner)), 1)
        return h if positions is None else self._attend(h, positions)

    def _attend(self, h: Tensor, positions: Tensor) -> Tensor:
        before, after = self.norms
        size = h.shape[2:]
        tokens = before(h.flatten(2).transpose(1, 2))  # (B, HW, C)
        heads = self.queries_keys_values(tokens + positions).unflatten(2, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, heads, HW, C / heads)
        mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = after(tokens + glu(self.attention_gate(mixed), 2))
        return tokens.transpose(1, 2).unflatten(2, size)


def _concat_elu(h: Tensor) -> Tensor:
    return elu(torch.cat([h, -h], 1))


def _small(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer, started so that inputs of variance 1 give outputs of standard deviation 0.1."""
    nn.init.normal_(layer.weight, std=0.1 / math.sqrt(layer.weight[0].numel()))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
