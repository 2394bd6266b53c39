"""Lines of a file of rows: decoded strictly by msgspec, encoded so that they read back as the same rows.

A block of complete lines of the present version (all with ``sampling_seed`` or all without, which means 0), or of the
one before, takes msgspec's fast way. Other lines (another version, missing fields, a mistake) are parsed one by one
with the standard library, which can say what is wrong.
"""

import dataclasses
import json
import math
import re
import types
import typing
from enum import StrEnum
from typing import Annotated, Any, Literal, NoReturn

import msgspec

from bench.rows import version1, version2
from bench.schema import SCHEMA, Relation, ResultRow, Source, Status

__all__ = ["STORED", "decode", "decode_block", "encode", "is_torn", "to_row"]

_MAX_LINE_BYTES = 1 << 20
_LONGEST_TEXT = 4096  # characters of any text but the reason

STORED = ResultRow.columns()[:-1]
"""The fields that every line has, but for a ``sampling_seed`` of 0, which is left out. What is in
``more``, the last field, follows them as fields of its own."""

_DEFAULTS = {
    field.name: field.default for field in dataclasses.fields(ResultRow) if field.default is not dataclasses.MISSING
}
_HINTS = typing.get_type_hints(ResultRow)
_ENUMS: dict[str, type[StrEnum]] = {"relation": Relation, "status": Status, "source": Source}
# The smallest numbers that mean something.
_LOWEST = {"schema": SCHEMA, "stderr": 0, "stderr_test": 0, "stderr_draws": 0, "load": 0, "sampling_seed": 0}


def _wire_type(name: str, annotation: Any) -> Any:
    """What msgspec is to accept for a field: integers of 64 bits, enumerations as their texts."""
    if isinstance(annotation, types.UnionType):
        return typing.Union[tuple(_wire_type(name, kind) for kind in typing.get_args(annotation))]  # noqa: UP007
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return Literal[tuple(one.value for one in annotation)]
    if annotation is str and name != "reason":  # names are short; a reason may quote what went wrong
        return Annotated[str, msgspec.Meta(max_length=_LONGEST_TEXT)]
    if annotation is int:
        return Annotated[int, msgspec.Meta(ge=_LOWEST.get(name, -(2**63) + 1), le=2**63 - 1)]
    if annotation is float and name in _LOWEST:
        return Annotated[float, msgspec.Meta(ge=_LOWEST[name])]
    return annotation


def _check(row: Any) -> None:
    """ValueError unless the fields belong together; msgspec has checked each for itself."""
    if (row.value is not None) != (row.status == "ok"):
        raise ValueError(f"value is {row.value!r} and status is {row.status}: ok has a value, others none")
    if row.ci_low is not None and row.ci_high is not None and row.ci_low > row.ci_high:
        raise ValueError(f"ci_low {row.ci_low!r} is above ci_high {row.ci_high!r}")


def _struct(names: list[str], **kinds: Any) -> Any:
    """A struct of these fields, all of them required, so that a line of as many keys has each key once."""
    fields = [(name, kinds.get(name) or _wire_type(name, _HINTS[name])) for name in names]
    checked = {"__post_init__": _check}
    return msgspec.defstruct("_Stored", fields, namespace=checked, forbid_unknown_fields=True, gc=False)


_Stored = _struct(STORED)
_DECODER = msgspec.json.Decoder(_Stored)
_STORED_3 = [name for name in STORED if name != "sampling_seed"]
_DECODER_3 = msgspec.json.Decoder(_struct(_STORED_3))
_STORED_2 = [name for name in STORED if name not in version2.SINCE]
_DECODER_2 = msgspec.json.Decoder(_struct(_STORED_2, schema=Literal[2]))


def decode_block(block: bytes) -> list[tuple[Any, ...]] | None:
    """The columns of whole lines: the fields of ``STORED``, enumerations as text, then ``more``.

    None if its lines are not all complete rows of the present version or all of the one before, or may be too long.
    """
    if len(block) > _MAX_LINE_BYTES:
        return None
    lines = block.removesuffix(b"\n").split(b"\n")
    for decoder, names in ((_DECODER, STORED), (_DECODER_3, _STORED_3), (_DECODER_2, _STORED_2)):
        try:
            rows = list(map(decoder.decode, lines))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        columns = dict(zip(names, zip(*map(msgspec.structs.astuple, rows), strict=True), strict=True))
        # msgspec keeps the last of doubled keys. A line has a colon for each key and those in its texts, where an
        # escape may hide one.
        texts = sum("".join(columns[name]).count(":") for name in names if _HINTS[name] is str)
        if block.count(b":") != len(lines) * len(names) + texts or (b"\\" in block and b"\\u" in block):
            return None
        if names is _STORED_2:
            columns |= {name: (value,) * len(lines) for name, value in version2.upgraded({}).items()}
        if names is _STORED_3:
            columns["sampling_seed"] = (_DEFAULTS["sampling_seed"],) * len(lines)
        return [*(columns[name] for name in STORED), ("",) * len(lines)]
    return None


def decode(line: bytes) -> tuple[Any, ...]:
    """The fields of one line, whatever its version: those of ``STORED``, enumerations as text, then ``more``.

    Raises:
        ValueError: The line is not a row, with what is wrong in one line.
    """
    line = line.removesuffix(b"\n")
    if len(line) > _MAX_LINE_BYTES:
        raise ValueError(f"a line of {len(line)} bytes is no row")
    record = _parse(line)
    if "schema" not in record:
        record = version1.upgraded(record)
    if record["schema"] == 2:
        record = version2.upgraded(record)
    is_newer = type(record["schema"]) is int and record["schema"] > SCHEMA
    unknown = {name: value for name, value in record.items() if name not in STORED}
    missing = sorted(name for name in STORED if name not in record and name not in _DEFAULTS)
    if missing or (unknown and not is_newer):
        what = [f"missing {missing}"] * bool(missing)
        what += [f"unknown {_short(sorted(unknown))}"] * bool(unknown and not is_newer)
        raise ValueError(f"fields do not match the schema: {', '.join(what)}")
    known = {name: record.get(name, _DEFAULTS.get(name)) for name in STORED}
    try:
        stored = msgspec.convert(known, _Stored)
    except msgspec.ValidationError as error:
        problem, _, name = str(error).partition(" - at `$.")
        raise ValueError(f"{name.rstrip('`')}: {_short(problem)}" if name else _short(problem)) from error
    return (*msgspec.structs.astuple(stored), json.dumps(unknown, ensure_ascii=False) if unknown else "")


def is_torn(line: bytes) -> bool:
    """Whether a line is the beginning of a row that was cut off: an object that is not whole."""
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return line.startswith(b"{")
    return False


def to_row(values: tuple[Any, ...]) -> ResultRow:
    """The row of decoded fields."""
    fields = dict(zip(_HINTS, values, strict=True))
    for name, kind in _ENUMS.items():
        if fields[name] is not None:
            fields[name] = kind(fields[name])
    return ResultRow(**fields)


def encode(row: ResultRow) -> str:
    """The line of a row without its end: stored fields in the schema's order, then the columns in ``more``.

    Raises:
        ValueError: The row breaks the schema: it would not be read back as it is.
    """
    try:
        names = STORED if row.sampling_seed else _STORED_3
        line = json.dumps({name: getattr(row, name) for name in names}, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if row.more:
        line = f"{line[:-1]}, {row.more[1:]}"
    again = to_row(decode(line.encode()))
    for name in ResultRow.columns():
        given, read = getattr(row, name), getattr(again, name)
        kinds = (float, int) if isinstance(read, float) else type(read)
        if given != read or not isinstance(given, kinds):
            raise ValueError(f"{name} is {_short(given)}, which would be read back as {_short(read)}")
    return line


def _parse(line: bytes) -> dict[str, Any]:
    """One line's JSON object with unique keys. Every way in which it is not that is a ValueError."""
    try:
        record = json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
        json.dumps(record, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text is not valid Unicode") from error
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


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{_short(text)} is not a finite number")
    return number


def _short(value: object) -> str:
    """A stranger's value in one short line."""
    text = value if isinstance(value, str) else repr(value)
    text = re.sub(r"[^\x20-\x7e\xa0-\uffff]|[\ud800-\udfff]", " ", text)
    return text if len(text) <= 200 else text[:197] + "..."
