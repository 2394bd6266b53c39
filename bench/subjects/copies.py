"""Samples that are examples of the data, or each other, value for value."""

from torch import Tensor

from bench.data.base import Data
from bench.schema import Kind

__all__ = ["CHECKED", "LIMIT", "USUAL", "said_of_copies"]

CHECKED = 1000
"""So many samples are looked at, the first ones."""

LIMIT = 0.1
"""The largest share of copies that needs no mention."""

USUAL = 0.01
"""The largest share of real examples that may be equal, where nothing else would be said of samples that are."""


def said_of_copies(samples: Tensor, data: Data) -> str:
    """Say how many of the samples are copies, if that is more than a tenth of them; else nothing.

    Nothing is said of data whose own examples are equal to each other (integers of few levels), nor of graphs:
    molecules are few enough to be drawn again. A copy that differs in one value is none here; ``bench.metrics.copying``
    finds it.

    Arguments:
        samples: ``(N, *shape)``, in the data's own dtype.
    """
    if data.spec.kind not in (Kind.NUMBERS, Kind.CATEGORIES) or len(samples) == 0:
        return ""
    made = _rows(samples[:CHECKED])
    said = []
    for name, split in (("training", data.train), ("validation", data.val), (data.split, data.test)):
        others = data.val if split is data.test else data.test
        share, usual = (_share(one, split.x) for one in (made, _rows(others.x[:CHECKED])))
        if share > LIMIT and usual <= USUAL:
            said.append(f"{100 * share:.0f} % of the samples are {name} examples, value for value")
    repeated, usual = (1 - len(set(one)) / max(1, len(one)) for one in (made, _rows(data.test.x[:CHECKED])))
    if repeated > LIMIT and usual <= USUAL:
        said.append(f"{100 * repeated:.0f} % of the samples repeat another one, value for value")
    return "; ".join(said)


def _rows(x: Tensor) -> list[bytes]:
    return [row.tobytes() for row in x.numpy()]


def _share(made: list[bytes], x: Tensor) -> float:
    """The share of ``made`` that x has, too; x may be too large to keep a copy of its rows."""
    wanted = set(made)
    found = {row for row in (one.tobytes() for one in x.numpy()) if row in wanted}
    return sum(one in found for one in made) / max(1, len(made))
