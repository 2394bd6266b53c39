"""U-Net: residual blocks at several scales, downwards and upwards again, with connections across."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["UNet"]


class UNet(nn.Module):
    r"""Images and a context to images of the same size: ``(B, n_in, H, W)`` and ``(B, K)`` to ``(B, n_out, H, W)``.

    At each scale there are residual blocks of two 3x3 convolutions, each after group normalization and SiLU, between
    which a projection of the context is added. From one scale to the next a convolution of stride 2 halves height and
    width, rounding up; on the way back pixels are repeated. Each block on the way up also reads the output of a block
    on the way down. Self-attention stands between two blocks at the coarsest scale. The last convolution, the second of
    each block and the end of the attention start at zero.

    (Ronneberger, Fischer, Brox 2015, U-Net: Convolutional networks for biomedical image segmentation,
    arXiv:1505.04597; Ho, Jain, Abbeel 2020, Denoising diffusion probabilistic models, arXiv:2006.11239, appendix B,
    which has attention at 16 x 16 pixels as well, and dropout.)

    Arguments:
        n_in, n_out: Numbers of channels of inputs and outputs.
        channels: Channels of the finest scale are these times the first of the multipliers.
        multipliers: One for each scale.
        blocks: Residual blocks at each scale on the way down; one more on the way up.
        n_context: K.

    Raises:
        ValueError: A number is below 1, or there are no multipliers.
    """

    def __init__(
        self, n_in: int, n_out: int, *, channels: int, multipliers: Sequence[int], blocks: int, n_context: int
    ) -> None:
        super().__init__()
        if len(multipliers) == 0 or min(channels, blocks, *multipliers) < 1:
            raise ValueError(
                f"channels, blocks and each of the multipliers must be at least 1, not {channels}, {blocks}, "
                f"{list(multipliers)}"
            )
        widths = [channels * multiplier for multiplier in multipliers]
        self.first = nn.Conv2d(n_in, channels, 3, padding=1)
        n, skips = channels, [channels]
        self.down = nn.ModuleList()
        for scale, width in enumerate(widths):
            if scale > 0:
                self.down.append(nn.Conv2d(n, n, 3, stride=2, padding=1))
                skips.append(n)
            for _ in range(blocks):
                self.down.append(_Block(n, width, n_context))
                skips.append(width)
                n = width
        self.middle = nn.ModuleList([_Block(n, n, n_context), _Attention(n), _Block(n, n, n_context)])
        self.up = nn.ModuleList()
        for scale, width in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(_Block(n + skips.pop(), width, n_context))
                n = width
            if scale > 0:
                self.up.append(nn.Conv2d(n, n, 3, padding=1))
        self.last = nn.Sequential(_norm(n), nn.SiLU(), _zero(nn.Conv2d(n, n_out, 3, padding=1)))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.first(x)
        skips = [h]
        for part in self.down:
            h = part(h, context) if isinstance(part, _Block) else part(h)
            skips.append(h)
        for part in self.middle:
            h = part(h, context) if isinstance(part, _Block) else part(h)
        for part in self.up:
            if isinstance(part, _Block):
                h = part(torch.cat([h, skips.pop()], 1), context)
            else:
                h = part(_resized(h, skips[-1]))
        made: Tensor = self.last(h)
        return made


class _Block(nn.Module):
    """A shortcut plus two convolutions, between which a projection of the context is added."""

    def __init__(self, n_in: int, n_out: int, n_context: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1))
        self.project = nn.Linear(n_context, n_out)
        self.second = nn.Sequential(_norm(n_out), nn.SiLU(), _zero(nn.Conv2d(n_out, n_out, 3, padding=1)))
        self.shortcut = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.first(x) + self.project(context)[:, :, None, None]
        made: Tensor = self.shortcut(x) + self.second(h)
        return made


class _Attention(nn.Module):
    """Every pixel attends to every pixel; the result is added."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm = _norm(n)
        self.queries_keys_values = nn.Conv2d(n, 3 * n, 1)
        self.mix = _zero(nn.Conv2d(n, n, 1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.queries_keys_values(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        seen = functional.scaled_dot_product_attention(query, key, value)  # (B, H W, n)
        made: Tensor = x + self.mix(seen.transpose(1, 2).unflatten(2, x.shape[2:]))
        return made


def _norm(n: int) -> nn.GroupNorm:
    """At least 4 channels a group: alone, a channel would lose what the context adds to it."""
    return nn.GroupNorm(math.gcd(n, min(32, max(1, n // 4))), n)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _resized(h: Tensor, like: Tensor) -> Tensor:
    """Each pixel repeated to 2 x 2, less what is beyond an odd height or width."""
    return h.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, : like.shape[2], : like.shape[3]]
