"""Which cells may be ranked, which are the best, and in which order lines stand."""

import math
from collections import defaultdict
from dataclasses import replace
from typing import Any

from bench.schema import Relation
from bench.tables.certified import certainly_better
from bench.tables.model import REFERENCES, Cell, Column, Line

__all__ = ["LEAST_LOAD", "line_order", "mark_best"]

LEAST_LOAD = 0.9
"""A time on the CPU is ranked if the threads ran at least this share of the time."""

_FEWEST = 50  # images; with fewer, FID is made of its bias

_SURE = 5.0  # standard errors

_COSTS = range(200, 300)  # ranks, see bench.schema.MetricInfo


def mark_best(cells: dict[tuple[int, int], Cell], columns: tuple[Column, ...], lines: tuple[Line, ...]) -> None:
    """Mark the best cells of each column, each among those it may be compared with. Where all are equal, none is best.

    The best of values of one relation and number of draws is not marked if a value of another relation is certainly
    better: a lower bound above it, for example.

    Arguments:
        cells: By line and column; marked in place, and told why they take no part.
    """
    densities = {column: cell for (line, column), cell in cells.items() if lines[line].family == "data"}
    for key, cell in cells.items():
        unranked = _unranked(cell, columns[key[1]], lines[key[0]])
        cells[key] = replace(cell, unranked=unranked or _impossible(cell, columns[key[1]], densities.get(key[1])))
    rivals: dict[tuple[Any, ...], dict[tuple[int, int], float]] = defaultdict(dict)
    in_column: dict[int, list[Cell]] = defaultdict(list)
    for key, cell in cells.items():
        direction = columns[key[1]].higher_is_better
        if direction is not None and cell.value is not None and not cell.unranked:
            rivals[key[1], *_comparable(cell, columns[key[1]])][key] = cell.value if direction else -cell.value
            in_column[key[1]].append(cell)
    for merits in rivals.values():
        worst, best = min(merits.values()), max(merits.values())
        for key, merit in merits.items():
            direction = columns[key[1]].higher_is_better
            if worst < merit == best and direction is not None:
                beaten = any(certainly_better(other, cells[key], direction) for other in in_column[key[1]])
                cells[key] = replace(cells[key], best=not beaten)


def line_order(
    cells: dict[tuple[int, int], Cell], columns: tuple[Column, ...], lines: tuple[Line, ...], asked: str = ""
) -> tuple[list[int], int | None]:
    """The lines in their order, and the column that orders them.

    That is the first column of quality in which something is ranked, or the first with the name or title ``asked``.
    Lines of the data's own density come first, lines without a ranked value in that column last, by label. Without a
    direction, small values come first.
    """
    column, values = None, {}
    for number in range(len(columns)):
        is_asked = asked in columns[number].names
        if is_asked if asked else columns[number].higher_is_better is not None and columns[number].rank not in _COSTS:
            found = {
                line: cell.value
                for (line, place), cell in cells.items()
                if place == number and cell.value is not None and (asked or not cell.unranked)
            }
            if found:
                column, values = number, found
                break
    falls = column is not None and columns[column].higher_is_better is True

    def place(line: int) -> tuple[Any, ...]:
        value = values.get(line, 0.0)
        return (lines[line].family != "data", line not in values, -value if falls else value, lines[line].label)

    return sorted(range(len(lines)), key=place), column


def _unranked(cell: Cell, column: Column, line: Line) -> str:
    """Why a cell with a value may not be ranked; empty where it may, or where its column ranks nothing."""
    if cell.value is None or column.higher_is_better is None:
        return ""
    if cell.lost:
        return f"mean without the seeds {', '.join(map(str, cell.lost))}"
    if line.family in REFERENCES:
        return f"{REFERENCES[line.family]}, not a model"
    if cell.caveat:
        return cell.caveat
    if cell.budget == "one pass" and column.rank in _COSTS:
        return "costs of a closed form, which is not trained in steps"
    name = column.part("metric").split("[", 1)[0]
    if name in ("fid", "mind"):  # biased by an amount that depends on the model
        few = [n for n in (column.part("n_real"), column.part("n_fake")) if n is not None and n < _FEWEST]
        if few:
            return f"{name.upper()} of fewer than {_FEWEST} examples ({min(few)}) is meaningless"
    return _not_timed(cell) if _is_time(column) else ""


def _impossible(cell: Cell, column: Column, density: Cell | None) -> str:
    """Why a likelihood must be wrong; empty where it may be right, as estimates always may.

    No model is better than the data's own density but by the chance of the test examples (``bench.gate.blame``).
    """
    if cell.value is None or density is None or density.value is None or column.higher_is_better is None:
        return ""
    if cell.relation in (None, Relation.ESTIMATE):
        return ""
    gain = (1 if column.higher_is_better else -1) * (cell.value - density.value)
    error = math.hypot(cell.spread or 0.0, density.spread or 0.0)
    sure = gain > _SURE * error + 1e-9 * abs(density.value)
    return "better than the data's own density, which no model is: its likelihood is wrong" if sure else ""


def _not_timed(cell: Cell) -> str:
    """Why a time says more of the machine than of the model; empty where it does not."""
    if "; " in cell.device:
        return "the seeds ran on different devices"
    if "cpu" not in cell.device:
        return ""
    if cell.load is None:
        return "the load of the machine was not recorded"
    if cell.load < LEAST_LOAD:
        return f"the threads ran {100 * cell.load:.0f} % of the time: the machine was busy, or threads idled"
    return ""


def _is_time(column: Column) -> bool:
    unit: str = column.part("unit")
    return unit == "s" or unit.endswith("/s")


def _comparable(cell: Cell, column: Column) -> tuple[Any, ...]:
    """What two cells of a column must share to be ranked. Times count on the same device only, and those of whole
    trainings for the same budget; an exact value needs no draws, a bound is as good as its number of draws."""
    draws = None if cell.relation in (None, Relation.EXACT) else cell.n_draws
    budget = cell.budget if column.part("metric") == "train_seconds" else None
    return (cell.relation, draws, cell.device if _is_time(column) else None, budget)
