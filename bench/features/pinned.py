"""What networks have in common whose weights are one file that is known by its hash: for pictures, from somewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.data.base import Data
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Source
from bench.features.base import Recipe, lacks_pictures
from bench.schema import DataSpec

__all__ = ["PinnedNetwork", "pinned"]


class PinnedNetwork(Recipe):
    """Recipe of a known network. Subclasses are final: they say how an extractor is made of its weights.

    Arguments:
        weights: The file, or where it lies; None: wherever the network's own sources have it.

    Attributes:
        label: Name of the extractor.
    """

    label: ClassVar[str]

    def __init__(self, weights: str | None = None) -> None:
        self._weights = weights

    def lacks(self, data: Data) -> str:
        return lacks_pictures(data.spec, self.label)

    def name(self, spec: DataSpec) -> str:
        return self.label


def pinned(name: str, file: DataFile, sources: Sequence[Source], given: str | None) -> Path:
    """Return where the weights are: the file that the user gives, or what ``fetch`` finds.

    Raises:
        UserError: No source has them, or the file holds other bytes.
    """
    if given is not None and file.matches(Path(given).expanduser()):
        return Path(given).expanduser()
    (path,) = fetch(name, [file], sources, given, setting="features.weights")
    return path
