"""Rows as CSV and back: every field that is stored, texts that a spreadsheet would run as formulas behind ``'``.

The configuration, which is long, stands in a row only where it is not that of the group's row before.
"""

import csv
import io
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.plain import plain
from bench.regular import read_regular
from bench.rows.wire import STORED, decode, to_row
from bench.schema import ResultRow

__all__ = ["from_csv", "to_csv"]

_MAX_BYTES = 1 << 28
_LONGEST = 1 << 20  # characters of a line's field
_FORMULAS = tuple("=+-@\uff1d\uff0b\uff0d\uff20'")
_HINTS = typing.get_type_hints(ResultRow)


def to_csv(rows: Iterable[ResultRow]) -> str:
    """One line a row, numbers in full precision. Characters that act on a terminal become spaces."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(STORED)
    configs: dict[str, str] = {}
    for row in rows:
        before = configs.get(row.group, "")
        configs[row.group] = row.config
        config = "" if row.config == before else _entry(row.config) or "'"  # a quote alone is an empty text
        writer.writerow([config if name == "config" else _entry(getattr(row, name)) for name in STORED])
    return file.getvalue()


def from_csv(path: Path) -> list[ResultRow]:
    """The rows of a file that ``to_csv`` wrote. Each goes through the checks of a stored row.

    Raises:
        UserError: The file cannot be read or holds something else; names the line.
    """
    try:
        lines = list(csv.reader(io.StringIO(read_regular(path, _MAX_BYTES).decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: is no CSV file of rows ({error}); give one that genbench check --update wrote"
        ) from error
    names = lines[0] if lines else []
    # A file of an earlier version of the rows lacks fields, which then have their defaults.
    if not names or len(set(names)) < len(names) or not {"schema", "config", "group"} <= set(names) <= set(STORED):
        raise UserError(f"{path}: is not a CSV file that genbench check --update wrote; give one, or a file of rows")
    rows, configs = [], dict[str, str]()
    for number, line in enumerate(lines[1:], start=2):
        try:
            if len(line) != len(names) or max(map(len, line)) > _LONGEST:
                raise ValueError(f"{len(line)} fields, and {len(names)} are needed")
            record = {name: _value(name, text) for name, text in zip(names, line, strict=True)}
            if line[names.index("config")] == "":
                record["config"] = configs.get(record["group"], "")
            configs[record["group"]] = record["config"]
            rows.append(to_row(decode(json.dumps(record, ensure_ascii=False).encode())))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: record {number}: {error}; mend it or write the baseline again") from error
    return rows


def _entry(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | int):
        return repr(value)
    text = plain(str(value))
    return f"'{text}" if text.lstrip().startswith(_FORMULAS) else text


def _value(name: str, text: str) -> Any:
    """A field of a record, as JSON has it."""
    hint = _HINTS[name]
    if hint is str:
        return text[1:] if text.startswith("'") else text
    if text == "":
        return None
    kinds = typing.get_args(hint) or (hint,)
    if bool in kinds:
        return {"true": True, "false": False}.get(text, text)
    if int in kinds:
        return int(text)
    if float in kinds:
        return float(text)
    return text
