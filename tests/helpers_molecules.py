"""Small sets of molecules for tests, and a ChemNet with random weights in the place of the one that is fetched."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from bench.data.base import Data
from bench.data.formats.smiles import Chemistry
from bench.data.molecules import prepared

__all__ = ["CHEMISTRY", "TEST", "TRAIN", "small_chemnet", "small_molecules"]

CHEMISTRY = Chemistry(9, ("C", "N", "O", "F"))
_HEADS = ("C", "CC", "N", "O", "CCC", "CO", "CN", "F", "C#C", "OC", "NC", "C=C")
_RINGS = ("c1ccccc1", "C1CCCC1", "c1cc[nH]c1", "C1CC1", "c1ccoc1", "C1CCNC1", "C1COC1", "C1CNC1")
_ALL = [head + ring for ring in _RINGS for head in _HEADS if len(head) < 3 or ring != "c1ccccc1"]
TRAIN, TEST = _ALL[::2], _ALL[1::2]
"""SMILES that are all different molecules of ``CHEMISTRY``."""


def small_molecules(name: str = "toy", extra: Sequence[str] = (), chemistry: Chemistry = CHEMISTRY) -> Data:
    """A data set of some forty molecules a split; ``extra`` are further SMILES of the test split."""
    return prepared(
        name, ["toy", *extra], chemistry, lambda: list(TRAIN), lambda: [*TEST, *extra], whole=9, limits=(None, None),
        licence="none needed", source="made up",
    )  # fmt: skip


class SmallChemNet:
    """Features: how often each of 20 letters occurs."""

    name, hash = "chemnet", "small"

    def __init__(self, weights: str | None = None) -> None:
        pass

    def features(self, smiles: Sequence[str]) -> Tensor:
        counts = [[one.count(letter) for letter in "CNOFcno1()=#[]H23+-@"] for one in smiles]
        return torch.tensor(counts, dtype=torch.float32).reshape(-1, 20)


def small_chemnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test fetch the network."""
    for module in ("fcd", "library_size"):
        monkeypatch.setattr(f"bench.metrics.{module}.ChemNet", SmallChemNet)
