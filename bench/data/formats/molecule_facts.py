"""What metrics of molecules must know of a data set besides its graphs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from bench.data.formats.smiles import Chemistry, key_of

__all__ = ["MoleculeFacts"]


@dataclass(frozen=True)
class MoleculeFacts:
    """The molecules that there are, and those that the training split holds.

    Attributes:
        chemistry: Which molecules a graph vector can stand for.
        known: Keys of the canonical SMILES of the training split, ascending, ``(M,)`` uint64.
        refused: How many molecules of the test split were left out for which reason.
    """

    chemistry: Chemistry
    known: NDArray[np.uint64]
    refused: Mapping[str, int]

    def halves(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places of n test molecules in two halves, the same always: one to compare with, one as control."""
        order = RandomState(0).permutation(n)
        return order[: n // 2], order[n // 2 :]

    def is_known(self, smiles: str) -> bool:
        """Return whether a canonical SMILES is one of the training split."""
        key = np.uint64(key_of(smiles))
        place = int(np.searchsorted(self.known, key))
        return place < len(self.known) and bool(self.known[place] == key)
