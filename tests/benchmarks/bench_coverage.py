"""How often the 95 % interval of a table's cell covers the truth over new seeds, new draws and new test sets.

    python tests/benchmarks/bench_coverage.py [--out results/benchmarks/coverage.csv]

Rows are simulated and go through the project's own tables (tests/helpers_coverage.py). ``ratio`` is the seeds' standard
error of the mean over that of the test examples; ``own_share`` is the share of the test examples' variance that is
another for every seed, which the cell does not know and counts twice.
"""

import argparse
import csv
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers_coverage import coverage

RATIOS = (0.1, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="for example results/benchmarks/coverage.csv")
    arguments = parser.parse_args()
    cases = [*itertools.product((1, 2, 3, 5), RATIOS, (0.0,)), *itertools.product((2, 3, 5), (0.3, 1.0), (0.5,))]
    lines: list[dict[str, object]] = []
    for m, ratio, own_share in cases:
        found = coverage(m, ratio, arguments.repetitions, own_share=own_share)
        shown = {f"coverage_{name}": found.get(name, "") for name in ("total", "seeds_alone", "welch_satterthwaite")}
        lines.append(
            {"seeds": m, "ratio": ratio, "own_share": own_share, "repetitions": arguments.repetitions, **shown}
        )
        print(*lines[-1].values(), flush=True)
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
