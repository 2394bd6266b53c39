"""What in a user's table would give a number that misleads: refused or noted, by the name of the column.

A column that has no density makes the likelihood grow without limit, or hides the other columns' part of it. Such
columns are refused. What only might be a mistake is a note of one line, which the run shows.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.data.formats.text_table import leave_out, shown
from bench.errors import UserError

__all__ = ["check_dependence", "check_noise", "check_row_numbers", "note_header", "note_repeats"]

_FEWEST = 10  # rows; fewer show nothing
_LEVELS = 16  # numbers that the noise of one whole number must at least be able to take
_SHARE = 0.01  # of the rows: fewer that are the same do not matter
_NEAR = 1e-2  # standard deviation that may remain of a column; above it, it is surely independent of the others
_FLOAT32 = 2e-7  # what of a standardized column float32 does not show
_ROWS = 2000  # rows on which dependence is looked for; it is then checked on all

Reals = NDArray[np.float64]


def note_header(columns: Sequence[str], values: Reals, *, header: bool) -> list[str]:
    """Return a note if names are numbers, or if the first row, 0, 1, 2, ..., looks like names."""
    d = len(columns)
    if header and columns[:3] == ["0", "1", "2"][:d]:
        return ["the first line (0, 1, 2, ...) is taken as names; data.header=false makes it an example"]
    if not header and d > 2 and np.array_equal(values[0], np.arange(d)):
        return ["the first line (0, 1, 2, ...) is taken as an example; if it holds names, set data.header=true"]
    return []


def check_row_numbers(name: str, columns: Sequence[str], values: Reals) -> list[str]:
    """Refuse columns that number the rows; note columns that look like identifiers or times.

    Arguments:
        values: ``(N, D)``, in the order of the file.

    Raises:
        UserError: A column holds each of N consecutive whole numbers once.
    """
    notes: list[str] = []
    n = len(values)
    if n < _FEWEST:
        return notes
    for j, x in enumerate(values.T):
        steps = np.diff(x)
        whole = bool((x == np.floor(x)).all())
        grows = bool((steps > 0).all() or (steps < 0).all())
        if whole and x.max() - x.min() == n - 1 and len(np.unique(x)) == n:
            raise UserError(
                f"{name}: column {shown(columns, j)} numbers the rows ({x.min():.0f} to {x.max():.0f}, each once) and "
                f"has no density of its own; {leave_out(columns, j)}"
            )
        even = grows and float(np.ptp(steps)) <= 1e-9 * float(np.abs(x).max())
        if (whole and grows) or even:
            notes.append(
                f"column {shown(columns, j)} {'grows' if steps[0] > 0 else 'falls'} from each row to the next, as a "
                f"row number, an identifier or a time does; if it is one, {leave_out(columns, j)}"
            )
        elif whole and columns[j].lower().endswith("id") and len(np.unique(x)) == n:
            notes.append(
                f"column {shown(columns, j)} has another number in every row, as an identifier does; if it is one, "
                f"{leave_out(columns, j)}"
            )
    return notes


def check_noise(name: str, columns: Sequence[str], raw: Reals, x: NDArray[np.float32], std: Reals) -> None:
    """Refuse columns of whole numbers whose noise from U[0, 1) is lost in the standardized float32 numbers.

    A whole number that occurs often then is one number again, an atom without a density. The noise of a number
    standardized to z takes 1 / (std ulp(z)) values. That is too few below 16, and wherever the values that repeat make
    up 1 % of the rows.

    Arguments:
        raw: The train split of the columns of whole numbers before noise, ``(N, D)``.
        x: The same columns with noise, standardized.
        std: Their standard deviations ``(D,)``.

    Raises:
        UserError: The noise of a column is lost.
    """
    n = len(raw)
    for j in range(raw.shape[1]):
        levels = np.minimum(1 / (std[j] * np.spacing(np.abs(x[:, j]))), 1 / np.spacing(np.abs(raw[:, j]) + 1))
        if levels.min() >= 1000:  # then no value can have 1 % of the rows for reasons of rounding
            continue
        _, inverse, counts = np.unique(raw[:, j], return_inverse=True, return_counts=True)
        lost = int(((counts[inverse] > 1) & (levels < _LEVELS)).sum())
        atom = int(np.unique(x[:, j], return_counts=True)[1].max())
        if lost >= max(2, _SHARE * n) or atom >= max(3, _SHARE * n):
            raise UserError(
                f"{name}: column {shown(columns, j)} of whole numbers ranges so widely (standard deviation "
                f"{std[j]:.3g}) that its noise is lost in float32, {max(lost, atom)} of {n} training rows have no "
                f"density; write it as whole numbers of a larger unit, or {leave_out(columns, j)}"
            )


def check_dependence(name: str, columns: Sequence[str], values: Reals, whole: NDArray[np.bool_]) -> list[str]:
    """Refuse columns that are linear combinations of columns before them, up to the rounding of their decimals.

    Such a table lies on a plane, where it has no density: the likelihood of a good model grows without limit. Columns
    of whole numbers have noise of their own, so they are independent; those that repeat another are noted.

    Arguments:
        values: ``(N, D)``, in any order of the rows, with noise in the columns of whole numbers.
        whole: Which columns are of whole numbers ``(D,)``.

    Raises:
        UserError: A column is a linear combination of others.
    """
    n, d = values.shape
    if n <= d + 1:
        return [f"the table has {n} rows and {d} columns: a model with correlations fits so few rows without limit"]
    mean, std = values.mean(0), values.std(0)
    rows = (values[: max(_ROWS, 4 * d)] - mean) / std
    design = np.column_stack([np.ones(len(rows)), rows])
    remaining = np.abs(np.diag(np.linalg.qr(design, mode="r")))[1:] / np.sqrt(len(rows))
    half_steps = np.zeros(d)
    near = [int(j) for j in np.flatnonzero(remaining < _NEAR) if j > 0]
    if near:
        half_steps[~whole] = [_half_step(x) for x in values[:, ~whole].T]
        half_steps /= std
    for j in near:
        weights = np.linalg.lstsq(design[:, : j + 1], rows[:, j], rcond=None)[0]
        others = np.flatnonzero(np.abs(weights[1:]) > 1e-6)
        predicted = weights[0] + ((values[:, others] - mean[others]) / std[others]) @ weights[1:][others]
        z = (values[:, j] - mean[j]) / std[j]
        # A tenth more, because the weights are fitted to rounded numbers.
        rounding = 1.1 * float((0 if whole[j] else half_steps[j]) + np.abs(weights[1:]) @ half_steps[:j])
        if np.abs(z - predicted).max() <= rounding + _FLOAT32 * max(1.0, float(np.abs(z).max())):
            named = others[np.abs(weights[1:][others]) > remaining[j]]  # others have a weight by chance
            relation = _relation(columns, values, j, named, weights[1:])
            raise UserError(
                f"{name}: column {shown(columns, j)} {relation}, so the table has no density and the likelihood grows "
                f"without limit; {leave_out(columns, j)}"
            )
    return []


def note_repeats(columns: Sequence[str], values: Reals, whole: NDArray[np.bool_]) -> list[str]:
    """Return notes on columns of whole numbers that repeat another, and on columns of reals that hold atoms.

    Arguments:
        values: The train split before noise, ``(N, D)``.
    """
    notes, first, atoms = [], dict[bytes, int](), []
    for j, x in enumerate(values.T):
        if whole[j]:
            other = first.setdefault(np.ascontiguousarray(x).tobytes(), j)
            if other != j:
                notes.append(f"column {shown(columns, j)} repeats column {shown(columns, other)} and says nothing new; "
                             f"{leave_out(columns, j)}")  # fmt: skip
            continue
        most = int(np.unique(x, return_counts=True)[1].max())
        if most >= max(5, _SHARE * len(x)):
            atoms.append(f"{shown(columns, j)} ({100 * most / len(x):.0f} %)")
    if atoms:
        more = f" and {len(atoms) - 5} more" if len(atoms) > 5 else ""
        notes.append(
            f"columns of reals in which one value has a good part of the rows: {', '.join(atoms[:5])}{more}; a model "
            "can gain likelihood there without limit, write them as whole numbers of their step"
        )
    return notes


def _half_step(x: Reals) -> float:
    """Return half of the step of the decimals that a column is rounded to; 0 if they are more than nine."""
    for digits in range(10):
        scaled = x * 10.0**digits
        if np.abs(scaled).max() < 1e12 and np.abs(scaled - np.rint(scaled)).max() < 1e-3:
            return 0.5 * 10.0**-digits
    return 0.0


def _relation(columns: Sequence[str], values: Reals, j: int, others: NDArray[np.intp], weights: Reals) -> str:
    """Return in words how column j follows from the others."""
    ordered = others[np.argsort(-np.abs(weights[others]), kind="stable")]
    for k in ordered:
        if np.array_equal(values[:, j], values[:, k]):
            return f"repeats column {shown(columns, k)}"
    names = ", ".join(shown(columns, k) for k in sorted(ordered[:4]))
    if len(ordered) == 1:
        return f"is a linear function of column {names}"
    return f"is a linear combination of columns {names}{' and others' if len(ordered) > 4 else ''}"
