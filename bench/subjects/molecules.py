"""Molecules that are given: a file of SMILES, or the controls that every table of molecules has."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator

from bench.data.formats.smiles_files import Line
from bench.seeds import derive_seed
from bench.subjects.base import Origin, Subject

__all__ = ["ControlMolecules", "GivenMolecules"]


class GivenMolecules(Subject):
    """SMILES of others, in random order: a file may be sorted.

    Arguments:
        lines: All that was given, refused ones included.
        seed: Of the order.
    """

    def __init__(self, lines: Sequence[Line], seed: int, origin: Origin) -> None:
        generator = Generator().manual_seed(derive_seed(seed, "given samples", "order"))
        self.lines = [lines[i] for i in torch.randperm(len(lines), generator=generator).tolist()]
        self.origin = origin

    def smiles(self, n: int) -> Sequence[Line]:
        return self.lines[:n]


class ControlMolecules(Subject):
    """Molecules of which is known what a metric should say.

    Arguments:
        draw: Gives n of them, or fewer where there are no more; the first ones are the same for every n.
    """

    def __init__(self, draw: Callable[[int], Sequence[Line]], origin: Origin) -> None:
        self.draw = draw
        self.origin = origin

    def smiles(self, n: int) -> Sequence[Line]:
        return self.draw(n)
