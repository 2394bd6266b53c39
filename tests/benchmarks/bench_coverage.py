"""How often 95 % intervals cover the truth: those of a table's cells, and those of every metric.

    python tests/benchmarks/bench_coverage.py [--out results/benchmarks/coverage.csv]

*Cells*: over new seeds, new draws and new test sets; rows are simulated and go through the project's own tables
(tests/helpers_coverage.py). ``ratio`` is the seeds' standard error of the mean over that of the test examples;
``own share`` is the share of the test examples' variance that is another for every seed, which the cell does not know
and counts twice.

*Metrics*: over fresh real examples and fresh samples (tests/helpers_intervals.py). ``redrawn`` says which side is fresh
in each repetition: with ``both`` the interval is the stated one, else 1.96 times that side's part of the error.
``error_ratio`` is the mean stated error over the standard deviation of the values.

An hour on one core. Rows are written case by case. A case of which the file has rows of as many repetitions is not
simulated again, so that a command that was stopped goes on: delete its rows to simulate it anew.
"""

import argparse
import csv
import io
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers_coverage import coverage
from helpers_intervals import CASES, DEAR, coverage_of

from bench.files import durable_write

RATIOS = (0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0)
COLUMNS = ("of", "case", "redrawn", "repetitions", "coverage", "error_ratio", "seeds_alone", "welch_satterthwaite")
CELL = "cell"


Row = dict[str, object]


def of_cells(repetitions: int) -> Iterator[tuple[str, int, Callable[[], list[Row]]]]:
    """Each case, its number of repetitions, and what simulates it."""
    cases = [*itertools.product((1, 2, 3, 5), RATIOS, (0.0,)), *itertools.product((2, 3, 5), (0.3, 1.0), (0.5,))]
    for m, ratio, own_share in cases:
        case = f"seeds {m}; ratio {ratio}; own share {own_share}"
        yield case, repetitions, partial(cell, case, m, ratio, own_share, repetitions)


def cell(case: str, m: int, ratio: float, own_share: float, repetitions: int) -> list[Row]:
    found = coverage(m, ratio, repetitions, own_share=own_share)
    others = {name: found.get(name, "") for name in ("seeds_alone", "welch_satterthwaite")}
    return [{"of": CELL, "case": case, "repetitions": repetitions, "coverage": found["total"], **others}]


def of_metrics(draws: int) -> Iterator[tuple[str, int, Callable[[], list[Row]]]]:
    for case in CASES:
        repetitions = draws // 2 if case in DEAR else draws
        yield case, repetitions, partial(metric, case, repetitions)


def metric(case: str, repetitions: int) -> list[Row]:
    return [
        {
            "of": one.interval, "case": case, "redrawn": one.redrawn, "repetitions": one.repetitions,
            "coverage": round(one.covered, 4), "error_ratio": f"{one.error_ratio:.3f}",
        }
        for one in coverage_of(case, repetitions)
    ]  # fmt: skip


def read(path: Path | None) -> dict[str, list[Row]]:
    """The rows of each case that a file has."""
    rows: dict[str, list[Row]] = {}
    if path is not None and path.exists():
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                rows.setdefault(line["case"], []).append(dict(line))
    return rows


def write(path: Path, rows: dict[str, list[Row]], order: list[str]) -> None:
    """Write the rows of all cases in the order of the simulations; those of cases that are no more come last."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for case in dict.fromkeys([*order, *rows]):
        writer.writerows(rows.get(case, []))
    durable_write(path, text.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=10_000, help="of cells")
    parser.add_argument("--draws", type=int, default=1000, help="of metrics; half of it of the dear ones")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this text; the file keeps the others")
    parser.add_argument("--out", type=Path, help="for example results/benchmarks/coverage.csv")
    arguments = parser.parse_args()
    rows = read(arguments.out)
    simulations = [*of_cells(arguments.repetitions), *of_metrics(arguments.draws)]
    for case, repetitions, simulate in simulations:
        there = rows.get(case, [])
        if arguments.only not in case or (there and all(str(row["repetitions"]) == str(repetitions) for row in there)):
            continue
        rows[case] = simulate()
        for row in rows[case]:
            print(*row.values(), flush=True)
        if arguments.out is not None:
            write(arguments.out, rows, [name for name, *_ in simulations])
