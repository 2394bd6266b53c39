"""The entries of an example as its features: pixels of a picture, columns of a table, indicators of categories."""

import torch
from torch import Tensor

from bench.data.base import Data
from bench.features.base import Extractor, Note, Recipe
from bench.schema import DataSpec, Kind

__all__ = ["Entries", "Indicators", "Pixels"]


class Entries(Extractor):
    """``(N, *shape)`` to ``(N, D)``, in the data's own dtype."""

    name = "pixels"
    hash = ""

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Indicators(Extractor):
    """Categories ``(N, *shape)`` to one indicator for each category of each entry, ``(N, D L)`` uint8.

    Two examples differ by sqrt(2 m) where m entries differ, whatever their categories are called.

    Arguments:
        levels: L.
    """

    name = "one-hot"
    hash = ""

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def features(self, x: Tensor) -> Tensor:
        # one_hot would take int64, eight times the memory of what it is for.
        return (x.flatten(1)[:, :, None] == torch.arange(self.levels, dtype=x.dtype)).to(x.dtype).flatten(1)


class Pixels(Recipe):
    """Entries as they are, or their indicators where they are categories. They exist for all data."""

    def lacks(self, data: Data) -> str:
        return ""

    def name(self, spec: DataSpec) -> str:
        return Entries.name if spec.kind == Kind.NUMBERS else Indicators.name

    def extractor(self, data: Data, note: Note | None = None) -> Extractor:
        if data.spec.kind != Kind.NUMBERS and data.spec.levels is not None:
            return Indicators(data.spec.levels)
        return Entries()
