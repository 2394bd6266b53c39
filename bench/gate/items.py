"""Rows to what the gate compares: the values of one metric of one model on one data set, by seed."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.schema import PROTOCOL, Relation, ResultRow, Source, Status

__all__ = ["Item", "Items", "Key", "Line", "changed", "items_of", "matched"]

# Costs depend on the machine; metrics from 300 on have no direction.
_FIRST_COST = 200
_NEVER_BLOCKING = ("data", "control", "molecule control")  # families: the data's own density, copies of training data


@dataclass(frozen=True, order=True)
class Line:
    """One configuration of a model on one data set, at one checkpoint. Samples of others are lines, too."""

    dataset: str
    model: str
    checkpoint: str
    group: str

    @property
    def place(self) -> tuple[str, str, str]:
        """The line without its configuration."""
        return self.dataset, self.model, self.checkpoint

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.model} on {self.dataset}" + ("" if self.checkpoint == "best" else f", {self.checkpoint}")


@dataclass
class Item:
    """All rows of one metric of a line.

    Attributes:
        row: One of them, for what they share.
        values: By seed, then by measuring key: several keys are several draws from one training.
        draws: Standard error of a value from the run's own draws, by seed, where rows state it.
        reasons: Why there is no value, by seed.
        notes: What a reader must know of a value, by seed: it is not ranked.
        failed: Seeds whose measurement or training broke; the others without a value were skipped.
        relations: How the values relate to the true ones.
    """

    row: ResultRow
    values: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    draws: dict[int, float] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    relations: set[Relation | None] = field(default_factory=set)

    @property
    def is_exact(self) -> bool:
        """Whether the same input must give the same number: stored samples of others, no training."""
        return self.row.source is Source.EXTERNAL_SAMPLES

    @property
    def sign(self) -> int:
        """1 where larger is worse, -1 where smaller is, 0 where order means nothing."""
        return {True: -1, False: 1, None: 0}[self.row.higher_is_better]

    @property
    def is_blocking(self) -> bool:
        """Whether a regression fails the gate: it has a direction, is no cost, and may be ranked."""
        row = self.row
        return self.sign != 0 and row.rank < _FIRST_COST and not row.reason and row.model_family not in _NEVER_BLOCKING

    def panel(self, seeds: Iterable[int], keys: Iterable[str]) -> NDArray[np.float64]:
        """The values of these seeds, of shape (seeds, draws)."""
        keys = list(keys)
        return np.array([[self.values[seed][key] for key in keys] for seed in seeds])

    @property
    def seeds(self) -> list[int]:
        """Those that have a value."""
        return sorted(self.values)

    @property
    def keys(self) -> set[str]:
        """Measuring keys that every seed with a value has."""
        return set.intersection(*map(set, self.values.values())) if self.values else set()


Key = tuple[str, tuple[object, ...]]
"""A metric's name; number of draws K and protocol."""

Items = dict[Line, dict[Key, Item]]


def items_of(rows: Iterable[ResultRow], what: str) -> Items:
    """Rows by line, and by metric with its number of draws K.

    Arguments:
        what: What the rows are called in errors.

    Raises:
        UserError: There are none, or one number stands twice with different values.
    """
    found: defaultdict[Line, dict[Key, Item]] = defaultdict(dict)
    for row in rows:
        line = Line(row.dataset, row.model, row.checkpoint, row.group)
        item = found[line].setdefault((row.metric, (row.n_draws, *row.protocol)), Item(row))
        if item.row.status is not Status.OK and row.status is Status.OK:
            item.row = row
        if row.value is None:
            item.reasons[row.seed] = row.reason
            if row.status is Status.FAILED:
                item.failed.add(row.seed)
            continue
        if not math.isfinite(row.value):
            raise UserError(f"{what}: {line.name}: {row.metric} of seed {row.seed} is {row.value}; measure it again")
        before = item.values[row.seed].setdefault(row.measuring_key, row.value)
        if before != row.value:
            raise UserError(
                f"{what}: {line.name}: {row.metric} of seed {row.seed} stands there twice, {before!r} and "
                f"{row.value!r}; remove one of the rows"
            )
        item.relations.add(row.relation)
        if row.reason:
            item.notes[row.seed] = row.reason
        if row.stderr_draws is not None:
            item.draws[row.seed] = row.stderr_draws
    if not found:
        raise UserError(f"{what}: has no rows; give a file that genbench run or genbench check --update wrote")
    for items in found.values():
        _without_lost(items)
    return dict(found)


def _without_lost(items: dict[Key, Item]) -> None:
    """What has no value states no number of samples: it belongs to the items of its metric that have values."""
    for key, item in list(items.items()):
        others = [other for (metric, _), other in items.items() if metric == key[0] and other.values]
        if not item.values and others:
            for other in others:
                other.reasons |= {seed: why for seed, why in item.reasons.items() if seed not in other.values}
                other.failed |= item.failed - set(other.values)
            del items[key]


def matched(base: Iterable[Line], new: Iterable[Line]) -> dict[Line, Line | None]:
    """The new line of each line of the baseline.

    It is the one with the same group. Where a model has one line that is left on either side, its configuration has
    changed, and these are compared.
    """
    base, new = set(base), set(new)
    lost, added = _by_place(base - new), _by_place(new - base)
    pairs: dict[Line, Line | None] = {}
    for line in sorted(base):
        is_replaced = len(lost[line.place]) == len(added[line.place]) == 1
        pairs[line] = line if line in new else (added[line.place][0] if is_replaced else None)
    return pairs


def _by_place(lines: Iterable[Line]) -> dict[tuple[str, str, str], list[Line]]:
    found = defaultdict(list)
    for line in lines:
        found[line.place].append(line)
    return found


def changed(base: Item, new: Item) -> str:
    """Which parts of the protocol differ, with both values; empty where none does."""
    names = ("draws K", *PROTOCOL[:-1], "source")
    before, now = ((item.row.n_draws, *item.row.protocol) for item in (base, new))
    parts = [
        f"{name} {_shown(one)} -> {_shown(other)}"
        for name, one, other in zip(names, before, now, strict=True)
        if one != other
    ]
    if base.sign != new.sign:
        words = {1: "smaller", -1: "larger", 0: "neither"}
        parts.append(f"better is {words[base.sign]} -> {words[new.sign]}")
    if not base.relations & new.relations:
        parts.append(f"relation {_shown(min(map(str, base.relations)))} -> {_shown(min(map(str, new.relations)))}")
    return ", ".join(parts)


def _shown(value: object) -> str:
    return "none" if value is None or value == "" else str(value)
