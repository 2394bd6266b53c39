"""The entries of an example as its features: pixels of a picture, columns of a table."""

from torch import Tensor

from bench.data.base import Data
from bench.features.base import Extractor, Note, Recipe
from bench.schema import DataSpec

__all__ = ["Entries", "Pixels"]


class Entries(Extractor):
    """``(N, *shape)`` to ``(N, D)``, in the data's own dtype."""

    name = "pixels"
    hash = ""

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Pixels(Recipe):
    """Entries as they are. They exist for all data."""

    def lacks(self, data: Data) -> str:
        return ""

    def name(self, spec: DataSpec) -> str:
        return Entries.name

    def extractor(self, data: Data, note: Note | None = None) -> Entries:
        return Entries()
