"""Read a table of numbers from a text file. Every problem is one line that names the row and the column."""

import csv
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.did_you_mean import nearest
from bench.errors import UserError

__all__ = ["leave_out", "read_table", "shown"]

_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "whitespace": None}
_SWAPPED = str.maketrans(",.", ".,")
_WANTED = "every cell must be a finite number, mend the file"


def read_table(
    name: str, path: Path, *, header: bool = True, delimiter: str = "comma", decimal: str = "point",
    drop: Sequence[object] | None = None, first: int | None = None,
) -> tuple[list[str], NDArray[np.float64]]:  # fmt: skip
    """Return the column names and the numbers ``(N, D)`` of a text file. Messages count rows from 1 below the header.

    A first line 0, 1, 2, ... holds names, as pandas writes them for an array; any other line of numbers is refused as a
    header. A quoted name may hold line breaks.

    Arguments:
        name: Name of the data set, for messages.
        path: The file, UTF-8 text.
        header: Whether the first line holds names; otherwise the columns are called 1, 2, ...
        delimiter: ``comma``, ``semicolon``, ``tab`` or ``whitespace``.
        decimal: ``point`` or ``comma``; a decimal comma excludes ``delimiter="comma"``.
        drop: Names of columns to leave out; they may hold text. None: the data set has no such option.
        first: Read only this many columns; further columns may hold text or be absent. None: read all.

    Raises:
        UserError: The file, the delimiter or a dropped column does not exist; a cell is not a finite number; rows
            differ in length; there are no rows.
    """
    if delimiter not in _DELIMITERS:
        raise UserError(f"{name}: no delimiter {delimiter!r}; set data.delimiter to one of: {', '.join(_DELIMITERS)}")
    if decimal not in ("point", "comma"):
        raise UserError(f"{name}: no decimal mark {decimal!r}; set data.decimal to point or to comma")
    swap = decimal == "comma"
    if swap and delimiter == "comma":
        raise UserError(f"{name}: commas cannot be both decimal and between cells; set data.delimiter to another mark")
    head: list[str] = []  # the physical lines of the first record
    names: list[str] = []
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for, a device never ends
            raise UserError(f"{name}: {path} is not a regular file; set data.path to a text file of numbers")
        with path.open(encoding="utf-8-sig") as stream:
            names = _first_record(stream, head, delimiter)[:first]
            if not header:
                names = [str(1 + j) for j in range(len(names))]
            left_out = _positions(name, path, names, drop)
            lines = stream if header else chain(head, stream)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "loadtxt: input contained no data")
                values = np.loadtxt(
                    (line.translate(_SWAPPED) for line in lines) if swap else lines, comments=None, quotechar='"',
                    delimiter=_DELIMITERS[delimiter], ndmin=2, usecols=None if first is None else range(first),
                    converters=dict.fromkeys(left_out, _zero) or None,
                )  # fmt: skip
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{name}: {path} cannot be read ({reason}); set data.path to a text file of numbers") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {path} is not UTF-8 text; set data.path to a plain text file of numbers") from error
    except csv.Error as error:
        raise UserError(
            f"{name}: {path} cannot be read, a quote that opens on line 1 is not closed; close it"
        ) from error
    except ValueError as error:
        other = _other_delimiter(head, names, delimiter)
        if other is not None and drop is not None:
            raise UserError(
                f"{name}: {path} has no {delimiter} on its first line; set data.delimiter={other}"
            ) from error
        complaint = _complaint(str(error), names, swap=swap, drops=drop is not None)
        raise UserError(f"{name}: {path}, {complaint}") from error
    if values.size == 0:
        if len(head) > 1:
            raise UserError(f"{name}: {path} has no rows: a quote that opens on line 1 is not closed; close it")
        raise UserError(f"{name}: {path} has no rows; set data.path to a text file of numbers")
    if header and all(map(_is_number, names)) and not _are_counted(names, values):
        raise UserError(
            f"{name}: {path} begins with a row of numbers instead of names; set data.header=false if they are an "
            "example; if they are names, write a letter before each"
        )
    if len(names) != values.shape[1]:
        raise UserError(f"{name}: {path} has {len(names)} names above {values.shape[1]} columns{_why(names, values)}")
    kept = [j for j in range(len(names)) if j not in left_out]
    if not kept:
        raise UserError(f"{name}: data.drop leaves out every column of {path}; name fewer")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad) > 0:
        row, column = bad[0]
        remedy = _or_leave_out(names, column) if drop is not None else ""
        cell = f"row {row + 1}, column {shown(names, column)} is {values[row, column]}"
        raise UserError(f"{name}: {path}, {cell}; {_WANTED}{remedy}")
    return [names[j] for j in kept], values if len(kept) == len(names) else values[:, kept]


def shown(names: Sequence[str], column: int) -> str:
    """Return a column's name for a message; its number stands with it if the name is empty or not the only one."""
    name = names[column]
    quoted = repr(name if len(name) <= 60 else f"{name[:60]}...")
    return quoted if name and names.count(name) == 1 else f"{quoted} (number {column + 1})"


def leave_out(names: Sequence[str], column: int) -> str:
    """Return what leaves a column out: the option, or an edit of the file where a shell would not take the name."""
    name = names[column]
    if names.count(name) > 1 or len(name) > 60 or not name.isprintable() or set(name) & set("'\"\\$`!"):
        return "take it out of the file"
    is_word = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*|[1-9][0-9]*|0", name)
    plain = is_word and name.lower() not in ("null", "true", "false", "nan", "inf")
    return f"leave it out with data.drop=[{name}]" if plain else f"leave it out with \"data.drop=['{name}']\""


def _or_leave_out(names: Sequence[str], column: int) -> str:
    return f", or {leave_out(names, column)}"


def _zero(cell: str) -> float:
    return 0.0


def _first_record(stream: Iterator[str], head: list[str], delimiter: str) -> list[str]:
    """Return the cells of the first record that is not blank; put the lines that it stands on into ``head``."""
    mark = _DELIMITERS[delimiter]

    def lines() -> Iterator[str]:
        for line in stream:
            head.append(line)
            yield " ".join(line.split()) + "\n" if mark is None else line

    for cells in csv.reader(lines(), delimiter=mark or " "):
        if any(map(str.strip, cells)):
            return [cell.strip() for cell in cells]
        head.clear()
    return []


def _positions(name: str, path: Path, names: list[str], drop: Sequence[object] | None) -> list[int]:
    """Return the positions of the columns to leave out."""
    wanted = [str(one) for one in ([drop] if isinstance(drop, str) else drop or ())]
    for one in wanted:
        if one not in names:
            known = ", ".join(repr(known) for known in names[:20]) + (", ..." if len(names) > 20 else "")
            raise UserError(
                f"{name}: data.drop names {one[:60]!r}, which is no column of {path}{nearest(one, names)}; "
                f"the columns are {known[:400]}"
            )
    return [j for j, known in enumerate(names) if known in wanted]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _are_counted(names: list[str], values: NDArray[np.float64]) -> bool:
    """Return whether the names are 0, 1, 2, ..., and could hardly be an example."""
    counted = names == [str(j) for j in range(len(names))]
    return counted and (len(names) > 2 or (len(names) == 2 and bool((values != np.floor(values)).any())))


def _other_delimiter(head: list[str], names: list[str], delimiter: str) -> str | None:
    """Return the delimiter that the first line has, if it is not the given one and that one does not occur."""
    if len(names) != 1 or not head:
        return None
    found = {word: head[0].count(mark) for word, mark in _DELIMITERS.items() if mark is not None and word != delimiter}
    likely = max(found, key=found.__getitem__)
    return likely if found[likely] > 0 else None


def _why(names: list[str], values: NDArray[np.float64]) -> str:
    columns = values.shape[1]
    if any("\n" in name for name in names):
        return "; is a quote on its first line not closed?"
    if columns == len(names) + 1:
        return "; if the first column holds names of the rows, write the table without it, else mend its first line"
    if columns == 2 * len(names):
        return "; write numbers with a decimal point and not with a comma, else mend its first line"
    return "; mend its first line"


def _complaint(text: str, names: list[str], *, swap: bool, drops: bool) -> str:
    """Rewrite an error of loadtxt so that rows count from 1 and columns have their names."""
    cell = re.fullmatch(r"could not convert string (.*) to float64 at row (\d+), column (\d+)\.", text, re.DOTALL)
    if cell is not None:
        content, row, column = cell[1].translate(_SWAPPED) if swap else cell[1], int(cell[2]) + 1, int(cell[3]) - 1
        known = column < len(names)
        what = "is empty" if content == "''" else f"is {content[:60]}{_kind(content[1:-1])}"
        where = f"row {row}, column {shown(names, column) if known else repr(str(column + 1))} {what}"
        return f"{where}; {_WANTED}{_or_leave_out(names, column) if drops and known else ''}"
    length = re.match(r"the number of columns changed from (\d+) to (\d+) at row (\d+)", text)
    if length is not None:
        return f"row {length[3]} has {length[2]} cells instead of {length[1]}; {_WANTED}"
    return f"{' '.join(text.split())[:150]}; {_WANTED}"


def _kind(cell: str) -> str:
    """Return what a cell seems to be, in parentheses."""
    cell = cell.strip()
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+|[+-]?\d{1,3}([ ,.'\u2019\u00a0\u202f]\d{3})+([.,]\d+)?", cell):
        ambiguous = re.fullmatch(r"[+-]?\d{1,3},\d{3}", cell) is not None
        return " (a thousands separator" + (", or a decimal comma: data.decimal=comma)" if ambiguous else ")")
    if re.fullmatch(r"[+-]?\d*,\d+([eE][+-]?\d+)?", cell):
        return " (a decimal comma: data.decimal=comma, if cells are not divided by commas)"
    if re.fullmatch(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?|\d{1,2}:\d{2}(:\d{2}.*)?", cell):
        return " (a date or a time)"
    if cell.lower() in ("true", "false", "yes", "no"):
        return " (write 1 and 0)"
    return ""
