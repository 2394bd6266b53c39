"""Causal transformer over sequences of real vectors."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .context import needed

__all__ = ["CausalTransformer", "TransformerLayer"]

Cache = tuple[Tensor, Tensor]
"""Keys and values of the tokens so far, ``(B, heads, t, channels / heads)`` each."""


class CausalTransformer(nn.Module):
    r"""Sequences ``(B, T, n_in)`` and context to ``(B, T, n_out)``: outputs i depend on the tokens before i alone.

    What stands at position i is token i-1, or a learned start at i = 0, projected to the channels, with a learned
    embedding of the position and a projection of the context added. Then come layers of

    .. math:: h \leftarrow h + \mathrm{Attention}(\mathrm{LN}(h)), \quad h \leftarrow h + \mathrm{MLP}(\mathrm{LN}(h))

    with causal attention in several heads and four times as many hidden units, GELU, as channels; then LN and a linear
    map that starts at zero. (Vaswani et al. 2017, Attention is all you need, arXiv:1706.03762; normalization as in
    Radford et al. 2019, Language models are unsupervised multitask learners. The last keeps outputs bounded whatever
    the inputs, so that tokens made of earlier outputs cannot grow from one to the next.)

    Arguments:
        n_in, n_out: Numbers of each token, and of the outputs for it.
        length: T.
        channels: Channels inside.
        layers: Number of layers.
        heads: Number of attention heads, a divisor of ``channels``.
        n_context: Numbers of the context, vectors ``(B, n_context)``; 0: none is read.

    Raises:
        ValueError: The heads do not divide the channels.
    """

    def __init__(
        self, n_in: int, n_out: int, length: int, *, channels: int, layers: int, heads: int, n_context: int = 0
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} attention heads do not divide {channels} channels")
        self.n_in = n_in
        self.n_out = n_out
        self.length = length
        self.n_context = n_context
        self.start = nn.Parameter(0.01 * torch.randn(channels))
        self.positions = nn.Parameter(0.01 * torch.randn(length, channels))
        # The last token is never read: where it is the only one, there is nothing to project.
        self.first = nn.Linear(n_in, channels) if length > 1 else None
        self.layers = nn.ModuleList([TransformerLayer(channels, heads) for _ in range(layers)])
        last = nn.Linear(channels, n_out)
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.last = nn.Sequential(nn.LayerNorm(channels), last)
        if n_context > 0:
            self.project = nn.Linear(n_context, channels, bias=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.start.expand(len(x), 1, -1)
        if self.first is not None:
            h = torch.cat([h, self.first(x[:, :-1])], 1)
        h = h + self._added(context)
        for layer in self.layers:
            h, _ = layer(h, None)
        return self.last(h)

    def generate(self, emit: Callable[[int, Tensor], Tensor], batch: int, context: Tensor | None = None) -> Tensor:
        """Tokens one after another, each made from its own outputs: ``(B, T, n_in)``, x_i = emit(i, outputs_i(x)).

        Keys and values of earlier tokens are kept, so that every token goes through every layer once: T small steps
        with the arithmetic of one pass. Differentiable. Always in the precision of the weights, also under autocast: an
        error in one token would be carried to all that follow.

        Arguments:
            emit: i and outputs i, ``(B, n_out)``, to token i, ``(B, n_in)``.
            batch: B.
            context: ``(B, n_context)``.
        """
        tokens: list[Tensor] = []
        caches: list[Cache | None] = [None] * len(self.layers)
        with torch.autocast(self.start.device.type, enabled=False):
            added = self._added(context)
            h = self.start.expand(batch, 1, -1)
            for i in range(self.length):
                if i > 0 and self.first is not None:
                    h = self.first(tokens[-1])[:, None]
                h = h + added[:, i : i + 1]
                for n, layer in enumerate(self.layers):
                    h, caches[n] = layer(h, caches[n])
                tokens.append(emit(i, self.last(h)[:, 0]))
        return torch.stack(tokens, 1)

    def _added(self, context: Tensor | None) -> Tensor:
        """What is added to every sequence, ``(1, T, channels)``, or to each, ``(B, T, channels)``."""
        if self.n_context == 0:
            return self.positions[None]
        return self.positions + self.project(needed(context, self.n_context).to(self.positions.dtype))[:, None]


class TransformerLayer(nn.Module):
    """Attention and a perceptron, each added to its input.

    Arguments:
        channels: Of every token.
        heads: Number of attention heads, a divisor of ``channels``.
        causal: Whether a token attends to itself and those before it alone, or to all.
    """

    def __init__(self, channels: int, heads: int, *, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(channels), nn.LayerNorm(channels)])
        self.queries_keys_values = nn.Linear(channels, 3 * channels)
        self.mix = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, h: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """A whole sequence without a cache, or the token after those of the cache; and the cache with them."""
        attention_norm, mlp_norm = self.norms
        heads = self.queries_keys_values(attention_norm(h)).unflatten(2, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, heads, t, channels / heads)
        if cache is not None:
            key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
        # One token attends to all that are in the cache, which are none of those after it.
        mixed = scaled_dot_product_attention(query, key, value, is_causal=self.causal and cache is None)
        h = h + self.mix(mixed.transpose(1, 2).flatten(2))
        return h + self.mlp(mlp_norm(h)), (key, value)
