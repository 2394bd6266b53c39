"""How often 95 % intervals cover the truth: those of a table's cells, and those of every metric.

    python tests/benchmarks/bench_coverage.py [--out results/benchmarks/coverage.csv]

*Cells*: over new seeds, new draws and new test sets; rows are simulated and go through the project's own tables
(tests/helpers_coverage.py). ``ratio`` is the seeds' standard error of the mean over that of the test examples;
``own share`` is the share of the test examples' variance that is another for every seed, which the cell does not know
and counts twice.

*Metrics*: over fresh real examples and fresh samples (tests/helpers_intervals.py). ``redrawn`` says which side is fresh
in each repetition: with ``both`` the interval is the stated one, else 1.96 times that side's part of the error.
``error_ratio`` is the mean stated error over the standard deviation of the values. An hour on one core.
"""

import argparse
import csv
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers_coverage import coverage
from helpers_intervals import CASES, DEAR, coverage_of

RATIOS = (0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0)
COLUMNS = ("of", "case", "redrawn", "repetitions", "coverage", "error_ratio", "seeds_alone", "welch_satterthwaite")
CELL = "cell"


def of_cells(repetitions: int, only: str) -> Iterator[dict[str, object]]:
    cases = [*itertools.product((1, 2, 3, 5), RATIOS, (0.0,)), *itertools.product((2, 3, 5), (0.3, 1.0), (0.5,))]
    for m, ratio, own_share in cases:
        case = f"seeds {m}; ratio {ratio}; own share {own_share}"
        if only not in case:
            continue
        found = coverage(m, ratio, repetitions, own_share=own_share)
        others = {name: found.get(name, "") for name in ("seeds_alone", "welch_satterthwaite")}
        yield {"of": CELL, "case": case, "repetitions": repetitions, "coverage": found["total"], **others}


def of_metrics(draws: int, only: str) -> Iterator[dict[str, object]]:
    for case in (case for case in CASES if only in case):
        for one in coverage_of(case, draws // 2 if case in DEAR else draws):
            yield {
                "of": one.interval, "case": case, "redrawn": one.redrawn, "repetitions": one.repetitions,
                "coverage": round(one.covered, 4), "error_ratio": f"{one.error_ratio:.3f}",
            }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=10_000, help="of cells")
    parser.add_argument("--draws", type=int, default=1000, help="of metrics; half of it of the dear ones")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this text; the file keeps the others")
    parser.add_argument("--out", type=Path, help="for example results/benchmarks/coverage.csv")
    arguments = parser.parse_args()
    kept: list[dict[str, object]] = []
    if arguments.only and arguments.out and arguments.out.exists():
        with arguments.out.open(newline="") as file:
            kept = [dict(line) for line in csv.DictReader(file) if arguments.only not in line["case"]]
    lines: list[dict[str, object]] = []
    cells, metrics = of_cells(arguments.repetitions, arguments.only), of_metrics(arguments.draws, arguments.only)
    for line in itertools.chain(cells, metrics):
        print(*line.values(), flush=True)
        lines.append(line)
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted([*kept, *lines], key=lambda line: line["of"] != CELL))
