"""Rows on disk: one JSON object a line, written whole, read strictly.

Each run writes its own file, so any number of writers is safe; leaderboards are views that can be made again.
"""

import glob
import json
import logging
import math
import os
import stat
import types
import typing
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from bench.errors import UserError
from bench.files import durable_write
from bench.schema import ResultRow, Status

__all__ = ["collect", "read_rows", "write_rows"]

_MAX_FILE_BYTES = 1 << 28
_MAX_LINE_BYTES = 1 << 20
_MAX_INTEGER = 1 << 63

_log = logging.getLogger(__name__)


def _kinds(annotation: Any) -> tuple[type, ...]:
    """The types a field may have: ``float | None`` gives ``(float, NoneType)``."""
    return typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)


_FIELDS: dict[str, tuple[type, ...]] = {
    name: _kinds(typing.get_type_hints(ResultRow)[name]) for name in ResultRow.columns()
}
_ENUMS: dict[str, type[StrEnum]] = {
    name: kind for name, kinds in _FIELDS.items() for kind in kinds if issubclass(kind, StrEnum)
}


def write_rows(path: str | os.PathLike[str], rows: Iterable[ResultRow]) -> None:
    """Store rows as JSON lines: fields in the schema's order, numbers in full precision, never NaN or Infinity.

    The file is replaced as a whole and durably (``bench.files.durable_write``).

    Raises:
        ValueError: A row breaks the schema (a wrong type, a number that is not finite, a value without status ok).
        UserError: The file cannot be written.
    """
    lines = []
    for row in rows:
        record = {name: getattr(row, name) for name in _FIELDS}
        _check(record)
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        if len(line) * 4 > _MAX_LINE_BYTES and len(line.encode()) > _MAX_LINE_BYTES:
            raise ValueError(f"a row of {len(line)} characters is longer than any reader accepts")
        lines.append(line + "\n")
    durable_write(path, "".join(lines))


def read_rows(path: str | os.PathLike[str]) -> list[ResultRow]:
    """The rows of one file, in its order.

    A last line that is torn (no line end, no whole JSON) is dropped with a logged warning; every whole row is kept.

    Raises:
        UserError: The file is missing or too large, or a line is not a row: broken JSON, nesting, a missing, unknown or
            doubled field, a wrong type, a number that is not finite, a value without status ok. Names file and line.
    """
    path = Path(path)
    lines = _read_bytes(path).split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        is_last = number == len(lines)
        if is_last and not line:
            break
        try:
            record = _parse(line)
        except ValueError as error:
            if path.suffix in (".csv", ".md", ".tex"):
                raise UserError(f"{path}: is a table made from rows; give the rows, results/rows/NAME.jsonl") from error
            if is_last and line.startswith(b"{"):
                _log.warning("%s:%d: dropped the last line, which is torn (%d bytes)", path, number, len(line))
                break
            raise UserError(f"{path}:{number}: {error}; mend the line or remove it") from error
        try:
            rows.append(_row(record))
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}; mend the line or remove it") from error
    return rows


def collect(paths: Iterable[str | os.PathLike[str]]) -> list[ResultRow]:
    """The rows of many files: files, folders (searched for ``*.jsonl``, to any depth) and glob patterns.

    Files are read in the order of their resolved paths, each once. Where a run has the same number twice (same run_id,
    checkpoint and protocol), the last one wins.

    Raises:
        UserError: Nothing was found, or a file is not a file of rows.
    """
    files = sorted({file.resolve() for path in paths for file in _find(os.fspath(path))})
    latest = {}
    for file in files:
        for row in read_rows(file):
            latest[(row.run_id, row.checkpoint, row.protocol)] = row
    return list(latest.values())


def _find(path: str) -> list[Path]:
    if os.path.isdir(path):
        found = [file for file in Path(path).rglob("*.jsonl") if file.is_file()]
        if not found:
            raise UserError(f"{path}: no *.jsonl in this folder; give a file of rows or a folder of runs")
        return found
    if os.path.exists(path):
        return [Path(path)]
    matches = [file for match in sorted(glob.glob(path, recursive=True)) for file in _find(match)]
    if not matches:
        raise UserError(f"{path}: no such file or folder; give a file of rows or a folder of runs")
    return matches


def _read_bytes(path: Path) -> bytes:
    try:
        found = os.stat(path)
        # Asked before opening: to open a pipe would wait for its writer.
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: not a regular file; give a file of rows")
        if found.st_size > _MAX_FILE_BYTES:
            raise UserError(f"{path}: larger than {_MAX_FILE_BYTES >> 20} MiB; split it")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give a file of rows") from error


def _parse(line: bytes) -> dict[str, Any]:
    """One line's JSON object with unique keys. Every way in which it is not that is a ValueError."""
    if len(line) > _MAX_LINE_BYTES:
        raise ValueError(f"a line of {len(line)} bytes is no row")
    try:
        record = json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key stands twice")
    return record


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _row(record: dict[str, Any]) -> ResultRow:
    """The typed row of a JSON object; ValueError where it is none."""
    if record.keys() != _FIELDS.keys():
        missing, unknown = _FIELDS.keys() - record.keys(), record.keys() - _FIELDS.keys()
        what = [f"missing {sorted(missing)}"] * bool(missing) + [f"unknown {_short(sorted(unknown))}"] * bool(unknown)
        raise ValueError(f"fields do not match the schema: {', '.join(what)}")
    for name, kind in _ENUMS.items():
        if record[name] is not None:
            try:
                record[name] = kind(record[name])
            except ValueError:
                raise ValueError(f"{name} is {_short(record[name])}, not one of {[str(one) for one in kind]}") from None
    _check(record)
    for name, kinds in _FIELDS.items():
        if float in kinds and record[name] is not None:
            record[name] = float(record[name])
    return ResultRow(**record)


def _check(record: dict[str, Any]) -> None:
    """ValueError unless the fields have the schema's types and belong together."""
    for name, kinds in _FIELDS.items():
        value = record[name]
        kind = type(value)
        if kind is float or issubclass(kind, float):
            if float not in kinds or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}, not {_wanted(kinds)}")
        elif kind is int:
            if (int not in kinds and float not in kinds) or abs(value) >= _MAX_INTEGER:
                raise ValueError(f"{name} is {_short(value)}, not {_wanted(kinds)}")
        elif kind not in kinds:
            raise ValueError(f"{name} is {_short(value)}, not {_wanted(kinds)}")
        elif kind is str and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{name} is not valid Unicode") from None
    if (record["value"] is not None) != (record["status"] is Status.OK):
        raise ValueError(f"value is {record['value']!r} and status is {record['status']}: ok has a value, others none")
    if record["stderr"] is not None and record["stderr"] < 0:
        raise ValueError(f"stderr is {record['stderr']!r}, below 0")
    low, high = record["ci_low"], record["ci_high"]
    if low is not None and high is not None and low > high:
        raise ValueError(f"ci_low {low!r} is above ci_high {high!r}")


def _wanted(kinds: tuple[type, ...]) -> str:
    names = {float: "a finite number", int: "an integer", bool: "true or false", str: "text", types.NoneType: "null"}
    return " or ".join(names.get(kind, kind.__name__) for kind in kinds)


def _short(value: object) -> str:
    """A stranger's value in one short line."""
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        return "an integer beyond 64 bits"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
