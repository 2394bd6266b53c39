"""What a data set hands to the harness: a specification and three splits."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from bench.errors import UserError
from bench.schema import DataSpec

__all__ = ["ClassifiedModes", "Classify", "Data", "Modes", "Split", "titled"]

Classify = Callable[[Tensor], Tensor]
"""The most probable class of each picture of a labelled data set, ``(N, C, H, W) -> (N,)`` int64."""


@dataclass(frozen=True)
class Split:
    """Examples ``x`` ``(N, *shape)`` (uint8 levels or float32 reals) and labels ``y`` ``(N,)`` int64 or None.

    Attributes:
        redraw: ``(index (B,), generator) -> (B, *shape)`` for examples that are drawn anew at every visit (dynamic
            binarization), None where they are fixed. Index and generator are on the CPU, and so is what comes out,
            like ``x`` in all but its values. Only training redraws; ``x`` holds one fixed draw, which everything else
            sees.
        factors: What each example was generated from, ``(N, F)`` int64, one column a factor of variation; None where
            that is not known.
    """

    x: Tensor
    y: Tensor | None = None
    redraw: Callable[[Tensor, Generator], Tensor] | None = None
    factors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Modes:
    """The modes of a distribution, where it is known what they are: for counting those that a model has found.

    Attributes:
        n: How many there are.
        assign: The mode of each example, ``(N, *shape) -> (N,)`` int64 in 0 .. n-1, or -1 where it belongs to none.
        probabilities: Of the modes, ``(n,)`` float64 that sums to 1; None where all are equally likely.
    """

    n: int
    assign: Callable[[Tensor], Tensor]
    probabilities: Tensor | None = None


@dataclass(frozen=True)
class ClassifiedModes:
    """Modes that only a classifier can tell apart: every example is in the one that the classifier says.

    Attributes:
        labelled: The data set whose in-domain classifier that is.
        read: From that classifier's ``Classify`` to the modes.
    """

    labelled: "Data"
    read: Callable[[Classify], Modes]


@dataclass(frozen=True)
class Data:
    """A data set in memory. Splits are fixed by the data set: they never move with a run's seed.

    Attributes:
        spec: What it is.
        train, val, test: Its splits; models are selected on val and reported on test.
        log_density: The true log-density ``(B, *shape) -> (B,)`` in nats (float64), where it is known in closed form.
        modes: The modes of the distribution, where they are known.
    """

    spec: DataSpec
    train: Split
    val: Split
    test: Split
    log_density: Callable[[Tensor], Tensor] | None = None
    modes: Modes | ClassifiedModes | None = None


def titled(kind: str, title: str | None) -> str:
    """What results call data of the user's own: ``kind``, or ``kind-TITLE``. UserError where a title is no name."""
    if title is not None and re.fullmatch(r"[A-Za-z0-9_.]+", title) is None:
        raise UserError(f"{kind}: title {title!r} may hold only letters, digits, _ and .; change data.title")
    return kind if title is None else f"{kind}-{title}"
