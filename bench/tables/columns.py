"""Which rows share a column: one metric under one protocol."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bench.rows.frame import protocol_of
from bench.schema import PROTOCOL
from bench.tables.model import Column

__all__ = ["in_columns", "numbered", "plain_value"]


def in_columns(rows: pd.DataFrame, configuration: "np.ndarray[Any, Any]") -> tuple[pd.DataFrame, tuple[Column, ...]]:
    """Rows in their columns: the positions of rows beside the numbers of columns, and the columns in their order.

    Protocols come from values. A row without a value may not know its whole protocol (nothing was counted yet). It goes
    to the columns of its metric that agree with what it states, to those that hold its model's other seeds where there
    are such, and only has a column of its own where no other agrees.

    Arguments:
        configuration: ``(N,)`` which configuration each row belongs to.
    """
    parts = protocol_of(rows)
    protocol = numbered(parts, list(PROTOCOL))
    stated = _firsts(parts, protocol)
    valued = rows["status"].to_numpy() == "ok"
    kinds = pd.DataFrame({"protocol": protocol, "configuration": configuration, "valued": valued}).drop_duplicates()
    goes_to = _assigned(list(kinds.itertuples(index=False, name=None)), stated)
    targets = pd.DataFrame(goes_to, columns=["protocol", "configuration", "valued", "column"])
    placed = pd.DataFrame(
        {"row": np.arange(len(rows)), "protocol": protocol, "configuration": configuration, "valued": valued}
    ).merge(targets, on=["protocol", "configuration", "valued"])
    columns = _described(rows, placed, stated)
    order = sorted(columns, key=lambda number: _order(columns[number]))
    place = np.empty(len(stated), np.int64)
    place[order] = np.arange(len(order))
    return (
        pd.DataFrame({"row": placed["row"], "column": place[placed["column"].to_numpy()]}),
        tuple(columns[number] for number in order),
    )


def numbered(frame: pd.DataFrame, names: list[str]) -> "np.ndarray[Any, Any]":
    """A number for each row, from 0: rows have the same one if they agree in the columns ``names``."""
    number = np.zeros(len(frame), np.int64)
    for name in names:
        codes, found = pd.factorize(frame[name], use_na_sentinel=False)
        if len(found) > 1:
            number = pd.factorize(number * len(found) + codes)[0]
    return number


def plain_value(value: Any) -> Any:
    """A number or text of pandas as Python's own, None where it is missing."""
    if value is None or value is pd.NA or value != value:
        return None
    return value.item() if isinstance(value, np.generic) else value


def _firsts(frame: pd.DataFrame, number: "np.ndarray[Any, Any]") -> list[tuple[Any, ...]]:
    """The values of the first row of each number, in the order of the numbers."""
    first = frame.iloc[np.unique(number, return_index=True)[1]]
    return [tuple(map(plain_value, values)) for values in first.itertuples(index=False, name=None)]


def _assigned(
    kinds: list[tuple[int, int, bool]], stated: list[tuple[Any, ...]]
) -> list[tuple[int, int, bool, int]]:  # fmt: skip
    """Of each kind of row (protocol, configuration, whether it has a value) the columns, known by their protocols."""
    columns = {protocol for protocol, _, valued in kinds if valued}
    holders = {(protocol, configuration) for protocol, configuration, valued in kinds if valued}
    assigned = [(protocol, configuration, True, protocol) for protocol, configuration in holders]
    rest: dict[int, list[int]] = defaultdict(list)
    for protocol, configuration, valued in kinds:
        if not valued:
            rest[protocol].append(configuration)
    for protocol in sorted(rest, key=lambda one: (sum(map(_unstated, stated[one])), repr(stated[one]))):
        agreeing = {one for one in columns if _agree(stated[protocol], stated[one])} or {protocol}
        columns |= agreeing
        for configuration in rest[protocol]:
            own = {one for one in agreeing if (one, configuration) in holders}
            assigned += [(protocol, configuration, False, one) for one in own or agreeing]
    return assigned


def _unstated(part: object) -> bool:
    return part is None or part == ""


def _agree(stated: tuple[Any, ...], protocol: tuple[Any, ...]) -> bool:
    return all(_unstated(mine) or mine == theirs for mine, theirs in zip(stated, protocol, strict=True))


def _described(rows: pd.DataFrame, placed: pd.DataFrame, stated: list[tuple[Any, ...]]) -> dict[int, Column]:
    """The columns by number."""
    names = ["metric_title", "extractor", "higher_is_better", "rank"]
    of_column: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    described = rows[names].assign(column=numbered(rows, names))
    kinds = _firsts(described[names], described["column"].to_numpy())
    pairs = pd.DataFrame({"column": placed["column"], "kind": described["column"].to_numpy()[placed["row"]]})
    for column, kind in pairs.drop_duplicates().itertuples(index=False, name=None):
        of_column[column].append(kinds[kind])
    columns = {}
    for number, found in of_column.items():
        titles, extractors, directions, ranks = (set(values) for values in zip(*found, strict=True))
        metric: str = stated[number][PROTOCOL.index("metric")]
        # The order of these says nothing of quality alone. Rows before version 3 gave them a direction.
        is_directed = not (metric.startswith("support[") or metric == "mode_kl")
        columns[number] = Column(
            protocol=stated[number],
            title=min(titles - {""}, default=metric),
            extractor=max(extractors),
            higher_is_better=directions.pop() if len(directions) == 1 and is_directed else None,
            rank=min(ranks),
        )
    return {number: _distinguished(column, list(columns.values())) for number, column in columns.items()}


def _distinguished(column: Column, columns: list[Column]) -> Column:
    """The column with what sets it apart from its namesakes."""
    metric = column.part("metric")
    namesakes = [other for other in columns if other.part("metric") == metric]
    differs = tuple(part for part in PROTOCOL if len({other.part(part) for other in namesakes}) > 1)
    ambiguous = any(other.title == column.title and other.part("metric") != metric for other in columns)
    return replace(column, title=metric if ambiguous else column.title, differs=differs)


def _order(column: Column) -> tuple[Any, ...]:
    # None sorts before every number.
    protocol = [(part is not None, part if part is not None else 0) for part in column.protocol]
    return (column.rank, column.part("metric"), protocol)
