"""A recurrent network over sequences of categories."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from ..base import OptimizerFactory
from ..entries import entries
from ..options import at_least, sequence_of
from .base import Autoregressive, Emit

__all__ = ["LSTM"]


class LSTM(Autoregressive):
    r"""Each entry by a softmax over its categories, given a summary of those before it that an LSTM carries along.

    Source: Hochreiter, Schmidhuber (1997): Long short-term memory, Neural Computation 9(8).

    Arguments:
        shape: Of one example, ``(D,)``.
        levels: Number L of categories, 2 to 256.
        optimizer: Makes the optimizer from the parameters.
        hidden: Units of each layer.
        layers: Number of layers.

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
        hidden: int = 256,
        layers: int = 1,
    ) -> None:
        at_least(1, hidden=hidden, layers=layers)
        length, self.categories = sequence_of(shape, levels, "the LSTM")
        read = entries("categorical", self.categories)
        super().__init__((length,), levels, optimizer, read)
        self.recurrent = nn.LSTM(self.categories, hidden, layers, batch_first=True)
        self.last = nn.Linear(hidden, read.n_parameters)

    def seen(self, x: Tensor) -> Tensor:
        """Indicators, ``(..., L)``."""
        return one_hot(x.long(), self.categories).to(self.last.weight.dtype)

    def outputs(self, seen: Tensor, context: Tensor | None) -> Tensor:
        # The first entry is preceded by no category: an input of zeros.
        hidden, _ = self.recurrent(pad(seen[:, :-1], (0, 0, 1, 0)))
        made: Tensor = self.last(hidden)
        return made.movedim(2, 1)

    def generate(self, emit: Emit, batch: int, context: Tensor | None) -> None:
        token = torch.zeros(batch, self.categories, dtype=self.last.weight.dtype, device=self.last.weight.device)
        state = None
        for i in range(self.dim):
            hidden, state = self.recurrent(token[:, None], state)
            token = emit(i, self.last(hidden[:, 0]))
