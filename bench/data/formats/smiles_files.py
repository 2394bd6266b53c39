"""Files of SMILES: one a line, or a column of a table. Nothing that they hold is trusted, and no line is left out."""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.data.formats.smiles import LONGEST, Refused
from bench.errors import UserError
from bench.regular import open_regular

__all__ = ["SUFFIXES", "Line", "is_smiles_file", "read_column", "read_smiles", "sha256_of_lines"]

SUFFIXES = (".smi", ".smiles")
Line = str | Refused

_MOST_LINES = 10_000_000
_LARGEST = 1 << 30  # bytes
_CHUNK = 1 << 16
_HEADERS = ("smiles", "SMILES", "Smiles")


def is_smiles_file(path: Path) -> bool:
    """Return whether the name says that it is a file of SMILES."""
    return path.suffix.lower() in SUFFIXES


def read_smiles(path: Path, key: str = "samples") -> list[Line]:
    """Return the first word of each line, in order; a header ``smiles`` is none.

    An empty line is an empty SMILES, and a line longer than ``LONGEST`` is refused without being kept: both count.

    Arguments:
        key: What messages call the file.

    Raises:
        UserError: The file is missing, no regular file, or has fewer than two or more than ten million lines.
    """
    lines: list[Line] = []
    with open_regular(path.expanduser(), _LARGEST) as stream:
        while line := stream.readline(_CHUNK):
            rest = line
            while not rest.endswith(b"\n") and (rest := stream.readline(_CHUNK)):
                pass  # a SMILES this long is refused by its beginning
            words = line.decode("utf-8", "replace").split(maxsplit=1)
            word = words[0] if words else ""
            lines.append(word if len(word) <= LONGEST else Refused("too long"))
            if len(lines) > _MOST_LINES:
                raise UserError(f"{key} {path} has more than {_MOST_LINES} lines; bring fewer samples")
    if lines and lines[0] in _HEADERS:
        del lines[0]
    if len(lines) < 2:
        raise UserError(f"{key} {path} has {len(lines)} SMILES; give at least two, one a line")
    return lines


def read_column(name: str, files: Sequence[Path], column: str) -> Iterator[str]:
    """Yield the cells of one column of CSV files with headers, less the space around them.

    Raises:
        UserError: A file cannot be read, or has no such column.
    """
    for file in files:
        try:
            with file.open(newline="", encoding="utf-8", errors="replace") as stream:
                rows = csv.reader(stream)
                header = next(rows, [])
                if column not in header:
                    raise UserError(f"{name}: {file} has no column {column}; take the published file")
                place = header.index(column)
                for row in rows:
                    yield row[place].strip() if place < len(row) else ""
        except (OSError, csv.Error) as error:
            raise UserError(f"{name}: {file} cannot be read ({error}); take the published file") from error


def sha256_of_lines(lines: Sequence[Line]) -> str:
    """Return the SHA-256 of what was read, 64 hexadecimal digits."""
    digest = hashlib.sha256(b"SMILES\n")
    for line in lines:
        digest.update((line if isinstance(line, str) else f" {line.reason}").encode() + b"\n")
    return digest.hexdigest()
