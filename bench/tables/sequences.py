"""Sequences of categories as pictures: a row of coloured cells each. Needs no torch."""

import math
from typing import Any

import numpy as np

__all__ = ["SEQUENCES", "sequence_grid", "violations"]

SEQUENCES = 64  # in a picture
_CELL, _BAR = 6, 4  # pixels: the side of a cell, and the width of the mark before a sequence
_PAPER, _INK = 255, 0


def sequence_grid(
    sequences: np.ndarray[Any, Any], levels: int, valid: np.ndarray[Any, Any] | None = None
) -> np.ndarray[Any, Any]:
    """Draw the first ``SEQUENCES`` sequences, ``(N, D)`` integers 0 .. levels-1, as ``(H, W, 3)`` uint8.

    Each is a row of D cells, whose colours stand for categories; the rows are in as many columns as make the picture
    about square. A black bar before a sequence says that it violates the data's constraint.

    Arguments:
        valid: Which sequences satisfy the constraint, ``(N,)`` bool; None: there is none, or all do.
    """
    shown = sequences[:SEQUENCES].reshape(len(sequences[:SEQUENCES]), -1)
    n, length = shown.shape
    wide, high = _BAR + _CELL * length + _CELL, _CELL + 1
    columns = max(1, round(math.sqrt(n * high / wide)))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * high, columns * wide - _CELL, 3), _PAPER, np.uint8)
    cells = _colours(levels)[shown.astype(np.int64).clip(0, levels - 1)].repeat(_CELL, 1)  # (N, D * _CELL, 3)
    for index, line in enumerate(cells):
        y, x = index % rows * high, index // rows * wide
        sheet[y : y + _CELL, x + _BAR : x + _BAR + len(line)] = line
        if valid is not None and not valid[index]:
            sheet[y : y + _CELL, x : x + _BAR - 1] = _INK
    return sheet


def violations(valid: np.ndarray[Any, Any] | None) -> str:
    """How many of the sequences shown violate the constraint, in words; nothing where none can."""
    if valid is None:
        return ""
    shown = valid[:SEQUENCES]
    return f"{int((~shown).sum())} of {len(shown)} violate the constraint (black bar)"


def _colours(levels: int) -> np.ndarray[Any, Any]:
    """A colour for each category, ``(levels, 3)`` uint8: twenty that are told apart easily, or a scale of more."""
    from matplotlib import colormaps

    index = np.arange(levels)
    if levels <= 20:  # of the palette's pairs of a dark and a light colour all dark ones first
        found = colormaps["tab20"](2 * index % 20 + index // 10)
    else:
        found = colormaps["turbo"](index / (levels - 1))
    return (255 * found[:, :3]).round().astype(np.uint8)
