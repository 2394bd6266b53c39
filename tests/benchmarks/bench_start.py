"""How long a command takes before it does anything, and how long it takes to find that 100 runs are finished.

    python tests/benchmarks/bench_start.py [--csv results/benchmarks/start.csv]

Every command runs in a process of its own, alternately with ``python -c 'import torch'``: what a tool would cost that
imports torch to print its help. Seconds are CPU seconds of the whole process, which a busy machine changes least; the
median of several rounds is shown, with the ratio to the import of torch in the same rounds. The 100 runs (a Gaussian
on 200 points, 100 seeds) are trained first, once, in a temporary folder.
"""

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

GENBENCH = [sys.executable, "-W", "ignore", "-m", "bench"]
TORCH = [sys.executable, "-c", "import torch"]
SWEEP = [*GENBENCH, "run", "-m", "model=gaussian", "data=two_moons", "data.n_train=200", "data.n_val=20",
         "data.n_test=20", "metric=[likelihood]", "seed=range(100)"]  # fmt: skip
FIND = """
import sys
from bench.config.compose import compose_runs
from bench.config.spec import RunSpec
from bench.runs.folder import RunFolder
specs = [RunSpec.parse(config) for config in compose_runs(sys.argv[1:], multirun=True)]
assert sum(RunFolder(spec.folder).finished(spec) for spec in specs) == 100
assert "torch" not in sys.modules
"""
COMMANDS = {
    "--help": [*GENBENCH, "--help"],
    "run --help": [*GENBENCH, "run", "--help"],
    "evaluate --help": [*GENBENCH, "evaluate", "--help"],
    "list": [*GENBENCH, "list"],
    "data list": [*GENBENCH, "data", "list"],
    "table": [*GENBENCH, "table", "runs/two_moons", "--format", "csv"],
    "run --cfg job": [*GENBENCH, "run", "model=vae", "--cfg", "job"],
    "new model --help": [*GENBENCH, "new", "model", "--help"],
    "100 finished runs, found": [sys.executable, "-c", FIND, *SWEEP[7:]],
    "100 finished runs, with their leaderboard": SWEEP,
}


def cpu_seconds(command: Sequence[str], folder: Path) -> float:
    """CPU seconds of a command and of the processes it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cpu_seconds(SWEEP, folder)
        for title, command in COMMANDS.items():
            ours, torchs = [], []
            for _ in range(options.rounds):
                ours.append(cpu_seconds(command, folder))
                torchs.append(cpu_seconds(TORCH, folder))
            ratio = statistics.median(a / b for a, b in zip(ours, torchs, strict=True))
            rows.append([title, f"{statistics.median(ours):.3f}", f"{ratio:.2f}"])
            print(f"{title:<45} {rows[-1][1]:>8} s   {rows[-1][2]:>6} x import torch")
    if options.csv is not None:
        with options.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["command", "cpu_seconds", "ratio_to_import_torch"])
            writer.writerows(rows)


if __name__ == "__main__":
    main()
