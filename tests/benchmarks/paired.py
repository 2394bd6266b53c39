"""Paired timings: time both sides of a comparison in turn, in one process, and report ratios.

Each round times both sides in turn and computes their ratio, so that a change in the machine's speed affects both. A
side is a function that does its work once; ``seconds`` decides how often one timing calls it.
"""

import csv
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

__all__ = ["Ratio", "measure", "read_csv", "write_csv"]


@dataclass(frozen=True)
class Ratio:
    """The speed of ours relative to a peer's; above 1 ours is faster."""

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
    rounds: int = 11, seconds: float = 0.3, warm: bool = True,
) -> Ratio:  # fmt: skip
    """Time ``ours`` against ``peer``. Each is a name and a function.

    Arguments:
        benchmark: Name of the comparison.
        rounds: Number of pairs of timings.
        seconds: Approximate duration of each timing; the function is repeated to fill it.
        warm: Whether each side is called twice before; if not, for what takes minutes, each timing is of one call.
    """
    sides = [ours[1], peer[1]]
    repeats = []
    for side in sides:
        if warm:
            side()  # caches, compilation
        repeats.append(max(1, round(seconds / _seconds(side, 1))) if warm else 1)
    pairs: list[list[float]] = []
    for turn in range(rounds):
        pair = [0.0, 0.0]
        # The second side finds warm caches, so the order alternates.
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


def read_csv(path: Path) -> list[Ratio]:
    """Return the rows of a file that ``write_csv`` wrote; none if there is no file."""
    if not path.exists():
        return []
    kinds = {field.name: {"float": float, "int": int}.get(str(field.type), str) for field in fields(Ratio)}
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [Ratio(**{name: kind(row[name]) for name, kind in kinds.items()}) for row in rows]  # type: ignore[arg-type]


def write_csv(path: Path, ratios: Iterable[Ratio]) -> None:
    """Write all rows of one benchmark file atomically."""
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
