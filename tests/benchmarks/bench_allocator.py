"""Measure what keeping freed memory does to a training step: its CPU time, its page faults and the largest memory.

    python tests/benchmarks/bench_allocator.py                     # about 10 minutes on one quiet core
    python tests/benchmarks/bench_allocator.py --models realnvp_small

Each side runs in a new process, because the setting lasts as long as a process: with freed memory kept, as a run of
genbench has it, and with glibc's defaults, as a script has it. Both train the same model with the same bare loop on
mnist5k, in turn. Writes results/benchmarks/allocator.csv. A ratio above 1 means that keeping is faster.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pandas
import torch
from bare_loops import bare_loop

from bench.config.build import build_data, build_model
from bench.config.compose import compose_runs
from bench.files import durable_write
from bench.memory import keep_freed_memory
from bench.rng import seeded

OUT = Path(__file__).parents[2] / "results" / "benchmarks" / "allocator.csv"
MODELS = ("realnvp_small", "glow_small", "dcgan", "sngan", "vae_conv", "pixelcnn_small", "ddpm_small")
BATCH, WARM = 64, 3


def side(name: str, keep: bool, steps: int) -> dict[str, float]:
    """Train a model in this process, and return what a step took."""
    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()
    config = compose_runs([f"model={name}", "data=mnist5k"])[0]
    data = build_data(config["data"])
    with seeded(0):
        model = build_model(config["model"], data.spec)
    bare_loop(model, data.train.x, BATCH, WARM)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = bare_loop(model, data.train.x, BATCH, steps)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"ms": 1e3 * seconds / steps, "faults": (used.ru_minflt - faults) / steps, "mib": used.ru_maxrss / 1024}


def in_new_process(name: str, keep: bool, steps: int) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", __file__, "--side", name, str(int(keep)), str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(name: str, steps: int, rounds: int) -> dict[str, object]:
    """Time both sides in turn, and return a row."""
    pairs = []
    for turn in range(rounds):
        order = (True, False) if turn % 2 else (False, True)
        found = {keep: in_new_process(name, keep, steps) for keep in order}
        pairs.append((found[True], found[False]))
    low, middle, high = statistics.quantiles([other["ms"] / kept["ms"] for kept, other in pairs], n=4)
    row: dict[str, object] = {"model": name, "batch": BATCH, "speedup": middle, "speedup_q1": low, "speedup_q3": high}
    for index, which in enumerate(("kept", "default")):
        for key in ("ms", "faults", "mib"):
            row[f"{which}_{key}"] = statistics.median(pair[index][key] for pair in pairs)
    return {**row, "steps": steps, "rounds": rounds, "threads": 1, "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name, keep, steps = arguments.side
        print(json.dumps(side(name, bool(int(keep)), int(steps))))
        return
    rows = []
    for name in arguments.models:
        rows.append(compared(name, arguments.steps, arguments.rounds))
        print(rows[-1], flush=True)
    if set(arguments.models) == set(MODELS):
        durable_write(OUT, pandas.DataFrame(rows).to_csv(index=False, float_format="%.4g").encode())
        print(f"Written: {OUT}")


if __name__ == "__main__":
    main()
