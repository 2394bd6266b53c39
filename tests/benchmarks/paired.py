"""Paired timings: both sides of a comparison in one process and in turns, reported as ratios.

Each round times both sides, one after the other, so that a change in the machine's speed meets both; the ratio is
formed within a round. A side is a function that does its work once; how often it is called in one timing follows from
``seconds``.
"""

import csv
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

__all__ = ["Ratio", "measure", "write_csv"]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is as a peer: above 1 is faster."""

    benchmark: str
    ours: str
    peer: str
    speedup: float  # median over rounds of peer's time / our time
    speedup_q1: float
    speedup_q3: float
    ours_ms: float  # median of one call
    peer_ms: float
    rounds: int
    threads: int
    torch: str

    def __str__(self) -> str:
        spread = f"{self.speedup:.2f} [{self.speedup_q1:.2f}, {self.speedup_q3:.2f}]"
        return f"{self.benchmark}: {self.ours} {self.ours_ms:.2f} ms, {self.peer} {self.peer_ms:.2f} ms; {spread} x"


def measure(
    benchmark: str, ours: tuple[str, Callable[[], object]], peer: tuple[str, Callable[[], object]], *,
    rounds: int = 11, seconds: float = 0.3,
) -> Ratio:  # fmt: skip
    """Time ``ours`` against ``peer``, each a name and a function.

    Arguments:
        rounds: Pairs of timings.
        seconds: About how long each side is timed in a round, by repeating it.
    """
    sides = [ours[1], peer[1]]
    repeats = []
    for side in sides:
        side()  # warm up: caches, compilation
        repeats.append(max(1, round(seconds / _seconds(side, 1))))
    pairs: list[list[float]] = []
    for turn in range(rounds):
        pair = [0.0, 0.0]
        # Whoever goes second finds warm caches: take turns.
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            pair[index] = _seconds(sides[index], repeats[index])
        pairs.append(pair)
    low, middle, high = statistics.quantiles([theirs / own for own, theirs in pairs], n=4)
    own_ms, peer_ms = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = Ratio(
        benchmark, ours[0], peer[0], middle, low, high, own_ms, peer_ms, rounds, torch.get_num_threads(),
        torch.__version__,
    )  # fmt: skip
    print(ratio, flush=True)
    return ratio


def _seconds(side: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        side()
    return (time.perf_counter() - start) / repeats


def write_csv(path: Path, ratios: Iterable[Ratio]) -> None:
    """All rows of one benchmark file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".tmp")
    with staging.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Ratio)])
        writer.writeheader()
        writer.writerows(
            {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in asdict(ratio).items()}
            for ratio in ratios
        )
    os.replace(staging, path)
