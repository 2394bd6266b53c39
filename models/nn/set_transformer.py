"""A transformer over the elements of a set, as a conditioner of flows."""

import torch
from torch import Tensor, nn

from .causal_transformer import TransformerLayer
from .context import as_pictures, needed

__all__ = ["SetTransformer"]


class SetTransformer(nn.Module):
    r"""Sets ``(B, n_in, n, 1)`` and context to ``(B, n_out, n, 1)``: n elements of n_in numbers, each sees all.

    Elements are projected to the channels, go through layers of attention and perceptrons, and are projected to the
    outputs, which start small. Nothing tells the elements' places apart, so that permuted elements have permuted
    outputs; with ``places`` a learned embedding of the place is added. (Vaswani et al. 2017, Attention is all you need,
    arXiv:1706.03762; without places it is the encoder of Lee et al. 2019, Set transformer, arXiv:1810.00825.)

    Arguments:
        n_in, n_out: Numbers of each element.
        n: Elements, needed for ``places``.
        channels, layers, heads: Sizes inside; the heads divide the channels.
        places: Whether places differ.
        n_context: Numbers of the context, vectors ``(B, n_context)`` or one for each element ``(B, n_context, n, 1)``.

    Raises:
        ValueError: The heads do not divide the channels.
    """

    def __init__(
        self, n_in: int, n_out: int, n: int, *, channels: int, layers: int, heads: int, places: bool, n_context: int = 0
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} attention heads do not divide {channels} channels")
        self.n_context = n_context
        self.first = nn.Linear(n_in, channels)
        if places:
            self.place = nn.Parameter(0.01 * torch.randn(n, channels))
        if n_context > 0:
            self.project = nn.Linear(n_context, channels, bias=False)
        self.layers = nn.ModuleList([TransformerLayer(channels, heads, causal=False) for _ in range(layers)])
        self.norm = nn.LayerNorm(channels)
        self.last = nn.Linear(channels, n_out)
        with torch.no_grad():
            for parameter in self.last.parameters():
                parameter.mul_(0.1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(x.squeeze(3).mT)  # (B, n, channels)
        if hasattr(self, "place"):
            h = h + self.place
        if self.n_context > 0:
            told = as_pictures(needed(context, self.n_context), self.first.weight)  # (B, n_context, n or 1, 1)
            h = h + self.project(told.squeeze(3).mT)
        for layer in self.layers:
            h, _ = layer(h, None)
        made: Tensor = self.last(self.norm(h)).mT.unsqueeze(3)
        return made
