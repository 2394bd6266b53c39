"""Measure genbench's overhead per training step, against bare loops and against torch's DataLoader.

    python tests/benchmarks/bench_training.py                # all, about 15 minutes on one quiet core
    python tests/benchmarks/bench_training.py --only dcgan   # one of them

Both sides run in one process. Each round times them in turn and computes their ratio, so that a change in the machine's
speed affects both. CPU seconds of the process are counted, so that waiting for a core does not. Prints the median ratio
and its quartiles, and writes each comparison to results/benchmarks/training.csv when it is done; a comparison in that
file is replaced. The convolutional models are on mnist5k, and should take at most 1.05 times what a bare loop takes.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from bare_loops import bare_loop
from torch.utils.data import DataLoader, TensorDataset

from bench.config.build import build_data, build_model
from bench.config.compose import compose_runs
from bench.config.spec import Hardware, Schedule
from bench.data.base import Data
from bench.data.loader import Batches
from bench.data.toy import two_moons
from bench.files import durable_write
from bench.rng import seeded
from bench.training.fit import fit
from models.base import GenerativeModel

CONVOLUTIONAL = (
    "dcgan", "wgan_small", "sngan", "pacdcgan", "ali", "vae_conv", "pixelcnn_small", "gated_pixelcnn_small",
    "ddpm_small", "flow_matching_small",
)  # fmt: skip
RESULTS = Path(__file__).parents[2] / "results" / "benchmarks" / "training.csv"
COLUMNS = (
    "model",
    "batch",
    "ratio",
    "ratio_q1",
    "ratio_q3",
    "ours_ms",
    "bare_ms",
    "steps",
    "rounds",
    "threads",
    "torch",
)


def compare(ours: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[list[float], float, float]:
    """Return the ratio ours/other of each round, and the median seconds of both."""
    ours(), other()  # warm up
    pairs = []
    for turn in range(rounds):
        # The second side finds warm caches, so the order alternates.
        first, second = (ours, other) if turn % 2 else (other, ours)
        a, b = first(), second()
        pairs.append((a, b) if turn % 2 else (b, a))
    return [a / b for a, b in pairs], *(statistics.median(side) for side in zip(*pairs, strict=True))  # type: ignore[return-value]


def report(name: str, ratios: list[float], ours: float, other: float, steps: int) -> None:
    low, middle, high = statistics.quantiles(ratios, n=4)
    micro = [1e6 * seconds / steps for seconds in (ours, other)]
    print(
        f"{name}: ours {micro[0]:.1f} µs a step, other {micro[1]:.1f} µs; ratio {middle:.3f} [{low:.3f}, {high:.3f}]",
        flush=True,
    )


def against_bare_loop(
    name: str, data: Data, make: Callable[[], GenerativeModel], batch: int, steps: int, rounds: int
) -> None:
    """Time the Trainer as a run uses it (budget, divergence check, progress) against a bare loop, and write the row."""

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            schedule = Schedule(examples=steps * batch, batch_size=batch, validate_every=10**9)
            progress = fit(make(), data, schedule, Hardware(), seed=0, folder=Path(folder), config={})
            assert progress.cpu_seconds is not None
            return progress.cpu_seconds

    ratios, mine, bare = compare(ours, lambda: bare_loop(make(), data.train.x, batch, steps), rounds)
    report(f"{name}, batch {batch}", ratios, mine, bare, steps)
    low, middle, high = statistics.quantiles(ratios, n=4)
    numbers = [f"{value:.4g}" for value in (middle, low, high, 1000 * mine / steps, 1000 * bare / steps)]
    _keep([name, batch, *numbers, steps, rounds, torch.get_num_threads(), torch.__version__])


def _keep(row: list[object]) -> None:
    """Write a row in place of that of the same model."""
    kept: list[list[object]] = []
    if RESULTS.is_file():
        with RESULTS.open(newline="") as stream:
            kept = [list(old) for old in csv.reader(stream)][1:]
    kept = [old for old in kept if old[0] != row[0]] + [row]
    lines = [",".join(map(str, line)) for line in [COLUMNS, *kept]]
    durable_write(RESULTS, ("\n".join(lines) + "\n").encode())


def convolutional(name: str, seconds: float, rounds: int) -> None:
    """Compare a model of conf/model on mnist5k, for as many steps as take a bare loop about so many seconds."""
    config = compose_runs([f"model={name}", "data=mnist5k"])[0]
    data = build_data(config["data"])

    def make() -> GenerativeModel:
        with seeded(0):
            return build_model(config["model"], data.spec)

    bare_loop(make(), data.train.x, 64, 2)
    steps = max(10, round(seconds / (bare_loop(make(), data.train.x, 64, 5) / 5)))
    against_bare_loop(name, data, make, 64, steps, rounds)


def realnvp(seconds: float, rounds: int) -> None:
    """Compare the two-dimensional RealNVP, whose steps are so short that the Trainer's share is largest."""
    config = compose_runs(["model=realnvp", "data=two_moons"])[0]
    data = two_moons()

    def make() -> GenerativeModel:
        with seeded(0):
            return build_model(config["model"], data.spec)

    against_bare_loop("realnvp", data, make, 512, max(10, round(200 * seconds)), rounds)


def fetching(steps: int, rounds: int) -> None:
    """Time Batches against DataLoader over the same arrays, 512 x 2 float32."""
    data = two_moons()

    def timed(batches: Iterable[object]) -> float:
        start = time.process_time()
        for _ in zip(range(steps), batches, strict=False):
            pass
        return time.process_time() - start

    ours = partial(lambda: timed(Batches(data.train, 512, 0, last_step=steps)))
    loader = DataLoader(TensorDataset(data.train.x), batch_size=512, shuffle=True)
    report("Batches against DataLoader, 512 x 2", *compare(ours, lambda: timed(loader), rounds), steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["fetching", "realnvp", *CONVOLUTIONAL])
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds of one side of a round, about")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for chosen in arguments.only:
        if chosen == "fetching":
            fetching(200, arguments.rounds)
        elif chosen == "realnvp":
            realnvp(arguments.seconds, arguments.rounds)
        else:
            convolutional(chosen, arguments.seconds, arguments.rounds)
