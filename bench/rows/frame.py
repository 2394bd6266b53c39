"""Rows as a pandas frame: one line a row, the schema's fields as columns, small enough for a million rows."""

import operator
import os
import typing
from array import array
from collections import defaultdict
from collections.abc import Iterable
from itertools import count, islice
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import UserError
from bench.rows.store import find_files, read_columns
from bench.schema import PROTOCOL, ResultRow

__all__ = ["as_frame", "load_rows", "protocol_of", "read_frame", "to_frame", "with_texts"]

_BLOCK = 250  # rows: Python objects that fit into the processor's cache
_AT_ONCE = 20_000  # numbers that exist as Python objects at a time

_HINTS = typing.get_type_hints(ResultRow)
# How each field is stored. Text, enumerations too, is categorical; numbers that may be missing are nullable.
_DTYPES = {int: "int64", int | None: "Int64", bool | None: "boolean", float: "float64", float | None: "float64"}
_KINDS = {name: _DTYPES.get(hint, "category") for name, hint in _HINTS.items()}
_TEXTS = [name for name, kind in _KINDS.items() if kind == "category"]


def read_frame(paths: Iterable[str | os.PathLike[str]]) -> pd.DataFrame:
    """The rows that ``bench.rows.store.collect`` reads from ``paths``, as a frame with categorical texts.

    Raises:
        UserError: Nothing was found, or a file is not a file of rows.
    """
    return _without_repetitions(_framed(block for file in find_files(paths) for block in read_columns(file)))


def load_rows(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> pd.DataFrame:
    """The rows of files, folders and patterns as a frame for a notebook: one line a row, the schema's columns.

    Texts and enumerations are text (a missing relation is missing), numbers that may be missing are ``Int64`` or floats
    with NaN. The last one wins where a number stands twice.

    Raises:
        UserError: Nothing was found, or a file is not a file of rows.
    """
    return with_texts(read_frame([paths] if isinstance(paths, str | os.PathLike) else paths))


def with_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of rows with texts in place of categories, as a notebook wants it."""
    return frame.astype({name: frame[name].cat.categories.dtype for name in _TEXTS})


def to_frame(rows: Iterable[ResultRow]) -> pd.DataFrame:
    """The rows as a frame with categorical texts, in their order; repeated ones stay."""
    records = map(operator.attrgetter(*_KINDS), rows)
    return _framed(list(zip(*block, strict=True)) for block in iter(lambda: list(islice(records, _BLOCK)), []))


def as_frame(rows: pd.DataFrame | Iterable[ResultRow]) -> pd.DataFrame:
    """Rows in either form as a frame with categorical texts.

    Raises:
        UserError: A frame lacks columns of the schema.
    """
    if not isinstance(rows, pd.DataFrame):
        return to_frame(rows)
    missing = [name for name in _KINDS if name not in rows.columns]
    if missing:
        raise UserError(f"the frame lacks the columns {', '.join(missing)}; take a frame of load_rows")
    return rows[list(_KINDS)].astype({name: kind for name, kind in _KINDS.items() if rows[name].dtype != kind})


def protocol_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The parts of ``ResultRow.protocol`` of each row, as columns."""
    quoted = frame["source"].to_numpy() == "quoted"
    source = pd.Categorical.from_codes(quoted.astype(np.int8), categories=pd.Index(["measured", "quoted"]))
    return frame[list(PROTOCOL)].assign(source=source)


def _framed(blocks: Iterable[list[tuple[Any, ...]]]) -> pd.DataFrame:
    """Blocks of columns, in the order of the schema, as a frame."""
    columns = {name: _Texts() if kind == "category" else _Numbers(kind) for name, kind in _KINDS.items()}
    for block in blocks:
        for column, values in zip(columns.values(), block, strict=True):
            column.extend(values)
    return pd.DataFrame({name: column.whole() for name, column in columns.items()}, copy=False)


class _Texts:
    """A column of texts that grows, each text stored once."""

    def __init__(self) -> None:
        self._numbers: defaultdict[Any, int] = defaultdict(count().__next__)
        self._codes = array("i")

    def extend(self, values: tuple[Any, ...]) -> None:
        # Most columns have one text for long: comparing is faster than looking up.
        if values[0] == values[-1] and values.count(values[0]) == len(values):
            self._codes.extend(array("i", [self._numbers[values[0]]]) * len(values))
        else:
            self._codes.extend(map(self._numbers.__getitem__, values))

    def whole(self) -> pd.Categorical:
        texts = [None if value is None else str(value) for value in self._numbers]  # of an enumeration the value
        places = {text: place for place, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
        place_of = np.array([-1 if text is None else places[text] for text in texts], np.int32)
        codes = place_of[np.frombuffer(self._codes, np.int32)]
        return pd.Categorical.from_codes(codes, categories=pd.Index(list(places), dtype="str"))


class _Numbers:
    """A column of numbers that grows, converted before many of them exist as Python objects."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._values: list[Any] = []
        self._parts: list[pd.Series] = []

    def extend(self, values: tuple[Any, ...]) -> None:
        self._values.extend(values)
        if len(self._values) >= _AT_ONCE:
            self._convert()

    def whole(self) -> pd.Series:
        self._convert()
        return pd.concat(self._parts, ignore_index=True)

    def _convert(self) -> None:
        values: Any = self._values
        if values and (values[0] is None or self._kind != "float64") and values.count(values[0]) == len(values):
            part = pd.Series(values[0], index=range(len(values)), dtype=self._kind)
        else:
            # In numpy None becomes NaN, which no stored number is.
            is_plain = self._kind in ("float64", "int64")
            part = pd.Series(np.array(values, self._kind) if is_plain else values, dtype=self._kind)
        self._parts.append(part)
        self._values = []


def _without_repetitions(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the rows that are the same number, the last."""
    named = frame["measuring_key"].to_numpy() != ""
    rest = frame[~named]
    of_measuring = frame.loc[named, ["training_key", "model", "checkpoint", "measuring_key", "metric"]]
    of_run = protocol_of(rest).assign(run_id=rest["run_id"], checkpoint=rest["checkpoint"])
    is_last = np.empty(len(frame), bool)
    is_last[named] = ~of_measuring.duplicated(keep="last")
    is_last[~named] = ~of_run.duplicated(keep="last")
    return frame if is_last.all() else frame[is_last].reset_index(drop=True)
