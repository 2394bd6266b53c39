"""What stands in a cell: the mean over seeds, how sure it is, and whether it is the best of the comparable ones."""

import functools
import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bench.schema import Relation, Status
from bench.tables.columns import plain_value
from bench.tables.exact import mean_and_deviation
from bench.tables.model import Cell, Column

__all__ = ["distinct", "made_cells", "mark_best"]


def made_cells(rows: pd.DataFrame, cell: "np.ndarray[Any, Any]") -> list[Cell]:
    """The cells 0, 1, ... from their rows.

    Arguments:
        rows: One a seed in each cell, sorted by cell and seed.
        cell: ``(N,)`` which cell each row belongs to; every number from 0 to the greatest occurs.
    """
    valued = rows["status"].to_numpy() == "ok"
    has_value = np.zeros(cell[-1] + 1, bool)
    has_value[cell[valued]] = True
    is_behind = valued | ~has_value[cell]
    behind, behind_cell = rows[is_behind], cell[is_behind]
    missing, missing_cell = rows[~valued], cell[~valued]
    reasons = missing["reason"].astype("object").where(
        missing["reason"] != "", "no reason given (" + missing["status"].astype("object") + ")"
    )  # fmt: skip
    why = distinct(reasons, missing_cell)
    failed = set(missing_cell[(missing["status"] == "failed").to_numpy()].tolist())
    lost = _lists(missing["seed"], missing_cell)
    seeds = _lists(behind["seed"], behind_cell)
    numbers = behind[["value", "stderr", "ci_low", "ci_high"]].to_numpy()
    starts = np.searchsorted(behind_cell, np.arange(len(has_value) + 1)).tolist()
    relations, draws = distinct(behind["relation"], behind_cell), distinct(behind["n_draws"], behind_cell)
    dirty = distinct(behind["dirty"], behind_cell)
    texts: dict[str, dict[int, str]] = {
        name: {number: "; ".join(sorted(found)) for number, found in distinct(behind[name], behind_cell).items()}
        for name in ("checkpoint", "device", "budget", "git_commit", "source")
    }
    cells = []
    for number, is_valued in enumerate(has_value.tolist()):
        value, spread, kind, low, high = _mean(numbers[starts[number] : starts[number + 1]] if is_valued else [])
        status = Status.OK if is_valued else Status.FAILED if number in failed else Status.SKIPPED
        cells.append(
            Cell(
                status=status,
                value=value,
                spread=spread,
                spread_kind=kind,
                ci_low=low,
                ci_high=high,
                relation=_relation(relations[number]) if is_valued else None,
                n_draws=draws[number][0] if is_valued and len(draws[number]) == 1 else None,
                seeds=tuple(seeds[number]),
                lost=tuple(lost.get(number, ())) if is_valued else (),
                reason="; ".join(sorted(why.get(number, ()))),
                dirty=True in dirty[number],
                checkpoint=texts["checkpoint"][number],
                device=texts["device"][number],
                budget=texts["budget"][number],
                git_commit=texts["git_commit"][number],
                source=texts["source"][number],
            )
        )
    return cells


def mark_best(cells: dict[tuple[int, int], Cell], columns: tuple[Column, ...]) -> None:
    """Mark the best cells of each column, each among those it may be compared with. Where all are equal, none is best.

    Arguments:
        cells: By line and column; marked in place.
    """
    rivals: dict[tuple[Any, ...], dict[tuple[int, int], float]] = defaultdict(dict)
    for key, cell in cells.items():
        direction = columns[key[1]].higher_is_better
        if direction is not None and cell.value is not None and not cell.lost:
            rivals[key[1], *_comparable(cell, columns[key[1]])][key] = cell.value if direction else -cell.value
    for merits in rivals.values():
        worst, best = min(merits.values()), max(merits.values())
        for key, merit in merits.items():
            if worst < merit == best:
                cells[key] = replace(cells[key], best=True)


def distinct(values: pd.Series, cell: "np.ndarray[Any, Any]") -> dict[int, list[Any]]:
    """The different values of each cell, None where they are missing."""
    codes, found = pd.factorize(values, use_na_sentinel=False)
    known = [plain_value(value) for value in found]
    pairs = pd.DataFrame({"cell": cell, "code": codes}).drop_duplicates()
    lists: dict[int, list[Any]] = defaultdict(list)
    for number, code in zip(pairs["cell"].tolist(), pairs["code"].tolist(), strict=True):
        lists[number].append(known[code])
    return lists


def _lists(values: pd.Series, cell: "np.ndarray[Any, Any]") -> dict[int, list[Any]]:
    """The values of each cell; the cells are sorted."""
    numbers, starts = np.unique(cell, return_index=True)
    parts = np.split(values.to_numpy(), starts[1:])
    return {number: part.tolist() for number, part in zip(numbers.tolist(), parts, strict=False)}


def _relation(found: list[str | None]) -> Relation | None:
    if len(found) > 1:
        return Relation.ESTIMATE
    return None if found[0] is None else Relation(found[0])


def _mean(rows: Any) -> tuple[float | None, float | None, str, float | None, float | None]:
    """Value, spread, its kind, and interval of rows (value, standard error, interval), NaN where there is none. Sums
    are exact: equal values have themselves as mean and a spread of 0, and the order of rows cannot move the last digit.
    """
    if len(rows) == 0:
        return None, None, "", None, None
    if len(rows) == 1:
        value, stderr, low, high = map(plain_value, rows[0].tolist())
        return value, stderr, "run" if stderr is not None else "", low, high
    mean, deviation = mean_and_deviation(rows[:, 0].tolist())
    if deviation is None:
        return mean, None, "", None, None
    spread = deviation / math.sqrt(len(rows))
    reach = _t975(len(rows) - 1) * spread
    low, high = mean - reach, mean + reach
    return mean, spread, "seeds", low if math.isfinite(low) else None, high if math.isfinite(high) else None


@functools.cache
def _t975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t."""
    # Imported here because a table of single runs has no need of it.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def _comparable(cell: Cell, column: Column) -> tuple[Any, ...]:
    """What two cells of a column must share to be ranked. Times count on the same device only; an exact value needs no
    draws, a bound is as good as its number of draws."""
    timed = column.part("unit") == "s" or column.part("unit").endswith("/s")
    draws = None if cell.relation in (None, Relation.EXACT) else cell.n_draws
    return (cell.relation, draws, cell.device if timed else None)
