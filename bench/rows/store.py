"""Rows on disk: one JSON object a line, written whole, read strictly.

Each run writes its own file, so any number of writers is safe; leaderboards are views that can be made again.
"""

import glob
import io
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.files import durable_write
from bench.paths import at_home
from bench.regular import open_regular
from bench.rows.wire import decode, decode_block, encode, is_torn, to_row
from bench.schema import ResultRow

__all__ = ["collect", "find_files", "read_columns", "read_rows", "write_rows"]

_MAX_FILE_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 18  # whose rows fit into the processor's cache, which makes reading twice as fast

_log = logging.getLogger(__name__)
_MODEL, _FAMILY = (ResultRow.columns().index(name) for name in ("model", "model_family"))


def write_rows(path: str | os.PathLike[str], rows: Iterable[ResultRow]) -> None:
    """Store rows as JSON lines: fields in the schema's order, numbers in full precision, never NaN or Infinity.

    The file is replaced as a whole and durably (``bench.files.durable_write``).

    Raises:
        ValueError: A row breaks the schema (a wrong type, a number that is not finite, a value without status ok).
        UserError: The file cannot be written.
    """
    durable_write(path, "".join(encode(row) + "\n" for row in rows))


def read_rows(path: str | os.PathLike[str]) -> list[ResultRow]:
    """The rows of one file, in its order. Rows of older versions are read as rows of the present one.

    A last line that is torn (no line end, no whole JSON) is dropped with a logged warning; every whole row is kept.

    Raises:
        UserError: The file is missing or too large, or a line is not a row: broken JSON, nesting, a missing, unknown or
            doubled field, a wrong type, a number that is not finite, a value without status ok. Names file and line.
    """
    return [to_row(values) for columns in read_columns(path) for values in zip(*columns, strict=True)]


def read_columns(path: str | os.PathLike[str]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of one file, a block of them at a time, as columns in the order of the schema; else as ``read_rows``."""
    path, number = Path(path), 1
    for block in _blocks(path):
        columns = decode_block(block) or list(zip(*_rows_of_lines(block, path, number), strict=True))
        if columns:
            yield _with_controls(columns)
        number += block.count(b"\n")


def _with_controls(columns: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Columns in which training copies are a control, as older rows do not have it, so that no table ranks them."""
    if "resampler" in columns[_MODEL]:
        pairs = zip(columns[_MODEL], columns[_FAMILY], strict=True)
        columns[_FAMILY] = tuple("control" if pair == ("resampler", "baseline") else pair[1] for pair in pairs)
    return columns


def _rows_of_lines(block: bytes, path: Path, first: int) -> Iterator[tuple[Any, ...]]:
    """The rows of a block that begins with line ``first`` of the file."""
    for number, line in enumerate(io.BytesIO(block), start=first):
        try:
            yield decode(line)
        except ValueError as error:
            if path.suffix in (".csv", ".md", ".tex"):
                raise UserError(f"{path}: is a table made from rows; give the rows, results/rows/NAME.jsonl") from error
            if not line.endswith(b"\n") and is_torn(line):
                _log.warning("%s:%d: dropped the last line, which is torn (%d bytes)", path, number, len(line))
                return
            raise UserError(f"{path}:{number}: {error}; mend the line or remove it") from error


def collect(paths: Iterable[str | os.PathLike[str]]) -> list[ResultRow]:
    """The rows of many files: files, folders (searched for ``*.jsonl``, to any depth) and glob patterns.

    Files are read in the order of their resolved paths, each once. The last one wins where a number stands twice: the
    same training under the same name of the model, checkpoint, measuring and metric, or the same run, checkpoint and
    protocol in rows that do not name their measuring.

    Raises:
        UserError: Nothing was found, or a file is not a file of rows.
    """
    latest: dict[tuple[object, ...], ResultRow] = {}
    for file in find_files(paths):
        for row in read_rows(file):
            of_run = (row.run_id, row.checkpoint, row.protocol)
            of_training = (row.training_key, row.model, row.checkpoint, row.measuring_key, row.metric)
            key = of_training if row.measuring_key else of_run
            latest.pop(key, None)  # the last one stands in its own place
            latest[key] = row
    return list(latest.values())


def find_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that ``collect`` reads, in its order.

    Raises:
        UserError: A path leads to no file.
    """
    return sorted({file.resolve() for path in paths for file in _find(str(at_home("rows", path)))})


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


def _blocks(path: Path) -> Iterator[bytes]:
    """A file's bytes in pieces that end at line ends."""
    try:
        with open_regular(path, _MAX_FILE_BYTES) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block + file.readline()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give a file of rows") from error
