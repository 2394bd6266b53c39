"""Measure genbench's overhead per training step, against a bare loop and against torch's DataLoader.

    python tests/benchmarks/bench_training.py

Both sides run in one process. Each round times them in turn and computes their ratio, so that a change in the machine's
speed affects both. Prints the median ratio and its quartiles.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from bench.config.spec import Hardware, Schedule
from bench.data.loader import Batches
from bench.data.toy import two_moons
from bench.training.fit import fit
from models.flows.realnvp import RealNVP

BATCH = 512


def realnvp() -> RealNVP:
    """Return the two-dimensional RealNVP of conf/model/realnvp.yaml."""
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    return RealNVP((2,), None, optimizer, couplings=8, hidden=128, depth=2, channels=64, blocks=8, alpha=1e-6)


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
    print(f"{name}: ours {micro[0]:.1f} µs a step, other {micro[1]:.1f} µs; ratio {middle:.3f} [{low:.3f}, {high:.3f}]")


def training(steps: int, rounds: int) -> None:
    """Time the Trainer as a run uses it (budget, divergence check, progress) against zero_grad/backward/step."""
    data = two_moons()

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            schedule = Schedule(examples=steps * BATCH, batch_size=BATCH, validate_every=10**9)
            return fit(realnvp(), data, schedule, Hardware(), seed=0, folder=Path(folder), config={}).train_seconds

    def bare() -> float:
        model = realnvp()
        optimizer = model.configure_optimizers()
        start = time.perf_counter()
        for batch in Batches(data.train, BATCH, 0, last_step=steps):
            optimizer.zero_grad()
            model.training_step(batch, 0).backward()
            optimizer.step()
        return time.perf_counter() - start

    report("Trainer against a bare loop, RealNVP 2-D, batch 512", *compare(ours, bare, rounds), steps)


def fetching(steps: int, rounds: int) -> None:
    """Time Batches against DataLoader over the same arrays, 512 x 2 float32."""
    data = two_moons()

    def timed(batches: Iterable[object]) -> float:
        start = time.perf_counter()
        for _ in zip(range(steps), batches, strict=False):
            pass
        return time.perf_counter() - start

    ours = partial(lambda: timed(Batches(data.train, BATCH, 0, last_step=steps)))
    loader = DataLoader(TensorDataset(data.train.x), batch_size=BATCH, shuffle=True)
    report("Batches against DataLoader, 512 x 2", *compare(ours, lambda: timed(loader), rounds), steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, {arguments.steps} steps a round, {arguments.rounds} rounds")
    training(arguments.steps, arguments.rounds)
    fetching(arguments.steps // 2, arguments.rounds)
