"""The contract of feature extractors: what turns examples into the features that distances are taken of."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from bench.data.base import Data
from bench.errors import UserError
from bench.schema import DataSpec

__all__ = ["Classifier", "Extractor", "Note", "Recipe", "check_features", "check_name", "lacks_pictures"]

Note = Callable[[str], None]
"""Told a line where something takes a while."""


class Extractor(ABC):
    """Features of examples, ready to be computed. Its name and hash stand in every number made from them.

    Attributes:
        name: As in ``fid[name]``.
        hash: Of what was learned; numbers of two hashes are never ranked together. Empty where nothing was learned.
        is_slow: Whether features cost so much that those of the data are kept on disk for later commands.
        caveat: What a reader of every number that is made from it must know; usually nothing. Such numbers are not
            ranked.
    """

    name: str
    hash: str
    is_slow: bool = False
    caveat: str = ""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """``(N, *shape)`` examples in the data's own space to ``(N, F)`` features. Must not draw random numbers."""


class Classifier(Extractor):
    """An extractor that classifies, too.

    Attributes:
        accuracy: Share of the ``n_test`` labelled test examples that it classifies rightly; None where its classes are
            not those of the data.
    """

    accuracy: float | None
    n_test: int

    @abstractmethod
    def probabilities(self, x: Tensor) -> Tensor:
        """``(N, *shape)`` examples to ``(N, classes)`` float32 class probabilities; rows sum to 1."""

    @abstractmethod
    def classes(self, x: Tensor) -> Tensor:
        """``(N, *shape)`` examples to the most probable class of each, ``(N,)`` int64."""


class Recipe(ABC):
    """How an extractor for some data is obtained: loaded, or trained and then kept. One YAML in conf/features.

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


def check_name(name: str) -> None:
    """Raise UserError unless a name has only letters, digits, ``_``, ``.`` and ``-``, and a letter or digit."""
    if re.fullmatch(r"[_.-]*[A-Za-z0-9][A-Za-z0-9_.-]*", name) is None:  # . and .. are folders
        raise UserError(f"features: name {name!r} may hold only letters, digits, _, . and -, and a letter or digit")


def check_features(name: str, made: Tensor, n: int) -> Tensor:
    """Return what a user's network made of n examples, if these are features.

    Raises:
        ValueError: They are not ``(n, F)`` floating-point numbers.
    """
    if not isinstance(made, Tensor) or made.ndim != 2 or len(made) != n or not made.is_floating_point():
        what = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(f"features {name!r} of {n} examples are {what}; wanted is (N, F), float")
    return made


def lacks_pictures(spec: DataSpec, name: str) -> str:
    """Return why a network of colour photographs cannot see these data; empty if it can."""
    if not spec.is_image or spec.levels is None:
        return f"{spec.name}: the features {name} are of pictures with integer levels"
    if spec.shape[0] not in (1, 3):
        return f"{spec.name}: the features {name} are of pictures with 1 or 3 channels, not {spec.shape[0]}"
    return ""
