"""What stands in a cell: the mean over seeds, and how sure it is."""

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.schema import Relation, Status
from bench.tables.columns import plain_value
from bench.tables.exact import mean_and_deviation
from bench.tables.model import Cell
from bench.tables.uncertainty import error_parts, quantile

__all__ = ["distinct", "made_cells"]


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
    numbers = np.column_stack(
        [
            *(behind[name].to_numpy(np.float64) for name in ("value", "stderr", "ci_low", "ci_high")),
            *error_parts(behind),
            behind["n_real"].to_numpy(np.float64, na_value=np.nan),
        ]
    )
    loads = behind["load"].to_numpy(np.float64)
    external = set(behind_cell[(behind["source"] == "external samples").to_numpy()].tolist())
    starts = np.searchsorted(behind_cell, np.arange(len(has_value) + 1)).tolist()
    relations, draws = distinct(behind["relation"], behind_cell), distinct(behind["n_draws"], behind_cell)
    dirty = distinct(behind["dirty"], behind_cell)
    texts: dict[str, dict[int, str]] = {
        name: {number: "; ".join(sorted(found)) for number, found in distinct(behind[name], behind_cell).items()}
        for name in ("checkpoint", "device", "budget", "git_commit", "source")
    }
    said = distinct(behind["reason"], behind_cell)
    cells = []
    for number, is_valued in enumerate(has_value.tolist()):
        of_cell = slice(starts[number], starts[number + 1])
        status = Status.OK if is_valued else Status.FAILED if number in failed else Status.SKIPPED
        relation, mean, reason = None, _Mean(), "; ".join(sorted(why.get(number, ())))
        if is_valued:
            try:
                relation = _relation(relations[number])
                mean = _mean(numbers[of_cell], number in external)
            except _NoMeanError:
                each = [plain_value(one) for one in behind["relation"].iloc[of_cell]]
                reason = _listed_values(seeds[number], numbers[of_cell, 0].tolist(), each)
        load = loads[of_cell].min().item()
        cells.append(
            Cell(
                **asdict(mean),
                status=status,
                relation=relation,
                n_draws=draws[number][0] if is_valued and len(draws[number]) == 1 else None,
                seeds=tuple(seeds[number]),
                lost=tuple(lost.get(number, ())) if is_valued else (),
                load=None if math.isnan(load) else load,
                reason=reason,
                dirty=True in dirty[number],
                checkpoint=texts["checkpoint"][number],
                device=texts["device"][number],
                budget=texts["budget"][number],
                git_commit=texts["git_commit"][number],
                source=texts["source"][number],
                caveat=_caveat(said[number]) if is_valued else "",
            )
        )
    return cells


def _caveat(said: list[str]) -> str:
    """What rows with values say beside them, in one text."""
    caveats = sorted(one for one in said if one)
    return ("for some seeds: " if caveats and "" in said else "") + "; ".join(caveats)


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
    """How the mean of values with these relations relates to the mean of the truths.

    Raises:
        _NoMeanError: It does not. A mean of an estimate and a bound is neither, nor is one of bounds of both sides.
    """
    relations = set(found)
    if len(relations) == 1:
        return None if found[0] is None else Relation(found[0])
    for relation in (Relation.LOWER_BOUND, Relation.UPPER_BOUND, Relation.ESTIMATE):
        if relations <= {Relation.EXACT, relation}:  # an exact value is a bound of either direction, too
            return relation
    raise _NoMeanError


class _NoMeanError(Exception):
    """The values of several seeds have no mean that says something."""


@dataclass(frozen=True)
class _Mean:
    """The numbers of a cell, as in ``Cell``."""

    value: float | None = None
    spread: float | None = None
    spread_kind: str = ""
    stderr_seeds: float | None = None
    stderr_test: float | None = None
    stderr_draws: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


def _mean(rows: Any, external: bool) -> _Mean:
    """The numbers of one cell.

    Sums of values are exact: equal values have themselves as mean and s = 0, and the order of rows cannot move the last
    digit.

    Arguments:
        rows: ``(m, 7)`` value, standard error, interval, part of the test, part of the draws, number of test examples;
            NaN where there is none.
        external: Whether all seeds are the same samples of others.
    """
    m = len(rows)
    values, stderrs, lows, highs, tests, draws, counts = rows.T.tolist()
    test, drawn = _root_mean_square(tests), _root_mean_square(draws)
    own = _root_mean_square(stderrs)
    if m == 1:
        low, high = plain_value(lows[0]), plain_value(highs[0])
        return _Mean(values[0], own, "" if own is None else "run", None, test, drawn, low, high)
    mean, deviation = mean_and_deviation(values)
    if external:  # other seeds are the same samples in another order
        return _Mean(mean, own, "" if own is None else "run", None, test, drawn, *_around(mean, own, 1.959964))
    drawn = None if drawn is None else drawn / math.sqrt(m)
    if deviation is None:
        return _Mean(mean, stderr_test=test, stderr_draws=drawn)
    seeds = deviation / math.sqrt(m)
    total = math.hypot(seeds, test or 0.0)
    if not math.isfinite(total):
        return _Mean(mean, stderr_test=test, stderr_draws=drawn)
    known = [int(count) for count in counts if count == count]
    reach = quantile(seeds, test or 0.0, m, min(known) if known else None)
    kind = "seeds" if test is None else "total"
    return _Mean(mean, total, kind, seeds, test, drawn, *_around(mean, total, reach))


def _root_mean_square(errors: list[float]) -> float | None:
    """None where one is not known, or the result is beyond the largest float."""
    if any(math.isnan(error) for error in errors):
        return None
    largest = max(errors)
    if largest == 0.0 or len(errors) == 1:
        return largest
    # Equal errors have themselves as result, however large or small.
    return largest * math.sqrt(math.fsum((error / largest) ** 2 for error in errors) / len(errors))


def _around(mean: float, spread: float | None, factor: float) -> tuple[float | None, float | None]:
    if spread is None:
        return None, None
    low, high = mean - factor * spread, mean + factor * spread
    return low if math.isfinite(low) else None, high if math.isfinite(high) else None


def _listed_values(seeds: list[int], values: list[float], relations: list[str | None]) -> str:
    """The values of seeds that have no mean, as a reason."""
    listed = [
        f"seed {seed} {Relation(relation).symbol if relation else ''} {value:.4g}"
        for seed, value, relation in zip(seeds, values, relations, strict=True)
    ]
    return f"no mean of bounds and estimates: {', '.join(listed)}"
