"""A causal transformer over sequences of categories."""

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import one_hot

from ..base import OptimizerFactory
from ..entries import entries
from ..nn.causal_transformer import CausalTransformer
from ..options import at_least, sequence_of
from .base import Autoregressive, Emit

__all__ = ["Transformer"]


class Transformer(Autoregressive):
    r"""Each entry by a softmax over its categories, given those before it, in the order of the data.

    The network sees categories as indicators, so their numbers mean nothing. A sample takes one pass through every
    layer for each entry, with the keys and values of earlier entries kept.

    Source: Vaswani et al. (2017): Attention is all you need, arXiv:1706.03762.

    Arguments:
        shape: Of one example, ``(D,)``.
        levels: Number L of categories, 2 to 256.
        optimizer: Makes the optimizer from the parameters.
        channels, layers, heads: See :class:`~models.nn.causal_transformer.CausalTransformer`.

    Raises:
        ValueError: The data are real-valued or no sequences, or a number is out of range.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"numbers", "categories"})

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        channels: int = 128,
        layers: int = 3,
        heads: int = 4,
    ) -> None:
        at_least(1, channels=channels, layers=layers, heads=heads)
        length, self.categories = sequence_of(shape, levels, "the transformer")
        read = entries("categorical", self.categories)
        super().__init__((length,), levels, optimizer, read)
        self.network = CausalTransformer(
            self.categories, read.n_parameters, length, channels=channels, layers=layers, heads=heads
        )

    def seen(self, x: Tensor) -> Tensor:
        """Indicators, ``(..., L)``."""
        return one_hot(x.long(), self.categories).to(self.network.start.dtype)

    def outputs(self, seen: Tensor, context: Tensor | None) -> Tensor:
        return self.network(seen).movedim(2, 1)

    def generate(self, emit: Emit, batch: int, context: Tensor | None) -> None:
        self.network.generate(emit, batch)
