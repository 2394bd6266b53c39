"""Time our flows against other libraries' flows with the same architecture and parameters, in one process.

    pip install -e ".[test,peers]"
    python tests/benchmarks/bench_flows.py

Writes results/benchmarks/flows.csv. A ratio above 1 means that ours is faster. Each file flows_*.py in this folder is a
part; it asserts that both sides compute the same numbers before it times them.
"""

import argparse
import importlib
from pathlib import Path

import torch
from paired import write_csv

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "results" / "benchmarks" / "flows.csv"


def main() -> None:
    """Measure the given parts, or all by default. The file is written only if all parts are measured."""
    parts = sorted(file.stem.removeprefix("flows_") for file in HERE.glob("flows_*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--rounds", type=int, default=11, help="pairs of timings (default 11)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ratios = [
        ratio for part in arguments.parts for ratio in importlib.import_module(f"flows_{part}").ratios(arguments.rounds)
    ]
    if set(arguments.parts) == set(parts):
        write_csv(OUT, ratios)
        print(f"Written: {OUT}")


if __name__ == "__main__":
    main()
