"""The interface of a data set: a specification and three splits."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from bench.data.formats.molecule_facts import MoleculeFacts
from bench.data.formats.moments import Moments
from bench.errors import UserError
from bench.schema import DataSpec
from bench.titles import TITLE_RULE, is_title

__all__ = ["ClassifiedModes", "Classify", "Data", "Modes", "Split", "titled"]

Classify = Callable[[Tensor], Tensor]
"""A classifier that returns the most probable class of each picture, ``(N, C, H, W) -> (N,)`` int64."""


@dataclass(frozen=True)
class Split:
    """Examples ``x`` ``(N, *shape)`` (uint8 levels or float32 reals) and labels ``y`` ``(N,)`` int64 or None.

    Attributes:
        redraw: ``(index (B,), generator) -> (B, *shape)`` draws examples anew at every visit (dynamic binarization);
            None if the examples are fixed. Index, generator and result are on the CPU; the result has the dtype and
            shape of ``x``. Only training redraws. Everything else uses ``x``, which holds one fixed draw.
        factors: Factors of variation that each example was generated from, ``(N, F)`` int64, one column per factor;
            None if they are unknown.
    """

    x: Tensor
    y: Tensor | None = None
    redraw: Callable[[Tensor, Generator], Tensor] | None = None
    factors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Modes:
    """The known modes of a distribution, used to count the modes that a model covers.

    Attributes:
        n: Number of modes.
        assign: Returns the mode of each example, ``(N, *shape) -> (N,)`` int64 in 0 .. n-1, or -1 for no mode.
        probabilities: Probabilities of the modes, ``(n,)`` float64 with sum 1; None if all are equally likely.
    """

    n: int
    assign: Callable[[Tensor], Tensor]
    probabilities: Tensor | None = None


@dataclass(frozen=True)
class ClassifiedModes:
    """Modes that a classifier assigns to the examples.

    Attributes:
        labelled: The data set that the classifier is trained on (the in-domain classifier).
        read: Returns the modes, given the ``Classify`` function of that classifier.
    """

    labelled: "Data"
    read: Callable[[Classify], Modes]


@dataclass(frozen=True)
class Data:
    """A data set in memory. The data set fixes the splits; a run's seed does not change them.

    Attributes:
        spec: Specification of the data.
        train, val, test: The splits. Models are selected on val and reported on test.
        log_density: The true log-density ``(B, *shape) -> (B,)`` in nats (float64), if it has a closed form.
        modes: The modes of the distribution, if they are known.
        valid: Which examples satisfy the constraint of the data, ``(N, *shape) -> (N,)`` bool, if there is one.
        variables: Number of variables of each example that are modelled, ``(N, *shape) -> (N,)``, where it is not the
            number of entries: bits/dim are then the mean over examples of bits over variables.
        notes: Lines for the user about data of the user's own: what is unusual and may be a mistake.
        split: What rows call the test split.
        moments: Mean and covariance of features that are known in place of the test split, which is then empty.
        learned: The data that extractors are made for, where a reference has taken the place of their test split.
        molecules: Which molecules the graphs stand for, if they do.
    """

    spec: DataSpec
    train: Split
    val: Split
    test: Split
    log_density: Callable[[Tensor], Tensor] | None = None
    modes: Modes | ClassifiedModes | None = None
    valid: Callable[[Tensor], Tensor] | None = None
    variables: Callable[[Tensor], Tensor] | None = None
    notes: tuple[str, ...] = ()
    split: str = "test"
    moments: Moments | None = None
    learned: "Data | None" = None
    molecules: MoleculeFacts | None = None


def titled(kind: str, title: str | None) -> str:
    """Return the name of the user's data in results: ``kind``, or ``kind-TITLE`` with a title.

    Raises:
        UserError: The title is not as ``TITLE_RULE`` says.
    """
    if title is not None and not is_title(title):
        raise UserError(f"{kind}: title {str(title)[:80]!r} may hold {TITLE_RULE}; change data.title")
    return kind if title is None else f"{kind}-{title}"
