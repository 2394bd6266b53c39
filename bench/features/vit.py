r"""The vision transformer of DINOv2: pictures ``(N, 3, H, W)`` to the class token after the last normalization.

Each patch of 14 x 14 pixels becomes a token by a linear map; a learned class token comes first; learned positions are
added. Every block computes

.. math::
    x \leftarrow x + \gamma_1 \, \mathrm{attention}(\mathrm{norm}(x)), \quad
    x \leftarrow x + \gamma_2 \, \mathrm{perceptron}(\mathrm{norm}(x)),

with one factor :math:`\gamma` for each channel. Parameters have the names and shapes of the published files.

Dosovitskiy et al. 2020, "An image is worth 16x16 words: transformers for image recognition at scale", arXiv 2010.11929;
Touvron et al. 2021, "Going deeper with image transformers", arXiv 2103.17239 (the factors); Oquab et al. 2023, "DINOv2:
learning robust visual features without supervision", arXiv 2304.07193.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GRID", "PATCH", "VisionTransformer"]

PATCH = 14
GRID = 37
"""Patches along a side of the pictures of 518 x 518 pixels that the published positions were learned on."""
EPSILON = 1e-6
OFFSET = 0.1


class PatchEmbedding(nn.Module):
    """Maps pictures ``(N, 3, H, W)`` to tokens ``(N, H W / 196, width)``, row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention; queries, keys and values come from one linear map, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self._heads = heads

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.qkv(x).unflatten(2, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)  # (N, heads, tokens, width / heads)
        made: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return made


class Perceptron(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return made


class Scale(nn.Module):
    """A factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and perceptron, each on normalized tokens, scaled and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = Attention(width, heads)
        self.ls1 = Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = Perceptron(width)
        self.ls2 = Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        made: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return made


class VisionTransformer(nn.Module):
    """Maps normalized pictures ``(N, 3, H, W)``, whose sides are multiples of 14, to ``(N, width)``.

    Arguments:
        width: Of a token.
        depth: Number of blocks.
        heads: Of each attention; divides ``width``.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the files; only DINOv2's training uses it
        self.patch_embed = PatchEmbedding(width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return what is added to the tokens of a grid: ``(1, 1 + rows * columns, width)``, the class token's first.

        The learned 37 x 37 are returned as they are. For another grid they are interpolated, bicubic with a = -0.75 and
        without smoothing, as the published code does: there the ratio of sides is (rows + 0.1) / 37, a margin against
        rounding when the number of rows is computed from it, and the ratio also says where the points lie.
        """
        if rows == columns == GRID:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (GRID, GRID)).permute(0, 3, 1, 2)
        ratios = ((rows + OFFSET) / GRID, (columns + OFFSET) / GRID)
        made = functional.interpolate(grid, scale_factor=ratios, mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], made.flatten(2).transpose(1, 2)], 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], 1)
        tokens = tokens + self.positions(x.shape[2] // PATCH, x.shape[3] // PATCH)
        for block in self.blocks:
            tokens = block(tokens)
        made: Tensor = self.norm(tokens[:, 0])
        return made
