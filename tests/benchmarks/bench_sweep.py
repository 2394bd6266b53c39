"""What a sweep of several processes brings: throughput of one and of two slots, and the cost of a run that is done.

    python tests/benchmarks/bench_sweep.py [--rounds 3] [--csv results/benchmarks/sweep.csv]

Needs two cores that do nothing else. 16 equal runs (a RealNVP on two moons, some seconds of training, one thread each)
are trained by one command with ``jobs=1`` and by one with ``jobs=2``, in turn, in fresh folders; the time is the whole
command's, from its start to the leaderboard. The cost of a run that is done is what it takes to find that: composing,
parsing and looking into its folder, for 16 of them less 1, divided by 15. Runs that differ in values of plain keys are
composed once, those that differ in groups one by one; the first are measured. Medians over the rounds.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

RUNS = 16
COMMAND = [sys.executable, "-W", "ignore", "-m", "bench", "run", "-m"]
TRAINED = ["model=realnvp", "data=two_moons", "metric=[likelihood]", "train.validate_every=20000"]
TINY = [
    "model=gaussian",
    "data=two_moons",
    "metric=[likelihood]",
    "data.n_train=200",
    "data.n_val=20",
    "data.n_test=20",
]
FIND = """
import sys
from bench.config.compose import compose_runs
from bench.config.spec import RunSpec
from bench.runs.folder import RunFolder
specs = [RunSpec.parse(config) for config in compose_runs(sys.argv[1:], multirun=True)]
assert all(RunFolder(spec.folder).finished(spec) for spec in specs)
"""


def seconds(folder: Path, command: Sequence[str]) -> float:
    """Wall-clock seconds of a command."""
    begin = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
    return time.perf_counter() - begin


def throughput(rounds: int, examples: int) -> list[tuple[str, float, str]]:
    """Runs a minute with one slot and with two, and their ratio."""
    took: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for jobs, times in took.items():
            with tempfile.TemporaryDirectory() as folder:
                arguments = [f"seed=range({RUNS})", f"jobs={jobs}", f"train.examples={examples}"]
                times.append(seconds(Path(folder), [*COMMAND, *TRAINED, *arguments]))
    one, two = (statistics.median(took[jobs]) for jobs in (1, 2))
    ratio = statistics.median(a / b for a, b in zip(took[1], took[2], strict=True))
    return [
        ("throughput, 1 slot", 60 * RUNS / one, "runs/min"),
        ("throughput, 2 slots", 60 * RUNS / two, "runs/min"),
        ("throughput, 2 slots over 1", ratio, ""),
    ]


def cost_of_done(rounds: int, what: str, many: str, one: str) -> tuple[str, float, str]:
    """Milliseconds for each run that is found to be done."""
    with tempfile.TemporaryDirectory() as folder:
        seconds(Path(folder), [*COMMAND, *TINY, many])
        find = [sys.executable, "-c", FIND, *TINY]
        costs = [seconds(Path(folder), [*find, many]) - seconds(Path(folder), [*find, one]) for _ in range(rounds)]
    return f"a run that is done, {what}", 1000 * statistics.median(costs) / (RUNS - 1), "ms"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=60_000, help="of each training")
    parser.add_argument("--csv", type=Path)
    asked = parser.parse_args(arguments)
    shrinkages = ",".join(f"0.{number:02d}" for number in range(1, RUNS + 1))
    lines = [
        cost_of_done(asked.rounds, "by seed", f"seed=range({RUNS})", "seed=0"),
        cost_of_done(asked.rounds, "by a hyperparameter", f"model.shrinkage={shrinkages}", "model.shrinkage=0.01"),
        *throughput(asked.rounds, asked.examples),
    ]
    cores = len(os.sched_getaffinity(0))
    for what, value, unit in lines:
        print(f"{what:40} {value:10.3g} {unit}")
    if asked.csv is not None:
        with asked.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["what", "value", "unit", "runs", "cores"])
            writer.writerows([what, f"{value:.4g}", unit, RUNS, cores] for what, value, unit in lines)


if __name__ == "__main__":
    main()
