"""The contract of feature extractors: what turns examples into the features that distances are taken of."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from bench.data.base import Data
from bench.schema import DataSpec

__all__ = ["Classifier", "Extractor", "Note", "Recipe"]

Note = Callable[[str], None]
"""Told a line where something takes a while."""


class Extractor(ABC):
    """Features of examples, ready to be computed. Its name and hash stand in every number made from them.

    Attributes:
        name: As in ``fid[name]``.
        hash: Of what was learned; numbers of two hashes are never ranked together. Empty where nothing was learned.
    """

    name: str
    hash: str

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """``(N, *shape)`` examples in the data's own space to ``(N, F)`` features. Must not draw random numbers."""


class Classifier(Extractor):
    """An extractor that classifies, too.

    Attributes:
        accuracy: Share of the ``n_test`` labelled test examples that it classifies rightly.
    """

    accuracy: float
    n_test: int

    @abstractmethod
    def probabilities(self, x: Tensor) -> Tensor:
        """``(N, *shape)`` examples to ``(N, classes)`` float32 class probabilities; rows sum to 1."""

    @abstractmethod
    def classes(self, x: Tensor) -> Tensor:
        """``(N, *shape)`` examples to the most probable class of each, ``(N,)`` int64."""


class Recipe(ABC):
    """How an extractor for some data is had: loaded, or trained and then kept. One YAML in conf/features.

    A metric has a recipe, not an extractor, so that a number that does not apply costs nothing and has a name.
    """

    @abstractmethod
    def lacks(self, data: Data) -> str:
        """Say why there is no such extractor for these data; empty if there is one. Nothing is loaded or trained."""

    @abstractmethod
    def name(self, spec: DataSpec) -> str:
        """The name that the extractor will have."""

    @abstractmethod
    def extractor(self, data: Data, note: Note | None = None) -> Extractor:
        """The extractor for data that lack nothing."""
