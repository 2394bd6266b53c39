"""How often the 95 % interval of the support size covers the truth, over new batches of a known distribution.

    python tests/benchmarks/bench_birthday.py [--out results/benchmarks/birthday.csv]

A batch is drawn, its coincidences are counted without any distance, and ``renyi2_support`` gives the interval.
``covered`` is the share of batches whose interval holds N_eff, ``false_low`` the share whose lower limit or lower bound
is too high, ``bounds`` the share that gives a lower bound only. A spike of q is one example with probability q among
100,000 equally likely others. ``worst spike`` is 1.7 to 3 expected draws of one example, at which a batch most often
misses it: there the rule of three (no coincidence at all) is false more often than in 5 % of batches.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch
from torch import Generator, Tensor

from bench.metrics.support_size import renyi2_support


def zipf(exponent: float, n: int) -> Tensor:
    weights = torch.arange(1, n + 1).double() ** -exponent
    return weights / weights.sum()


def spike(q: float, n: int = 100_000) -> Tensor:
    p = torch.full((n + 1,), (1 - q) / n, dtype=torch.float64)
    p[0] = q
    return p


def uniform(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


DISTRIBUTIONS = {
    "uniform 1,000": (uniform(1000), (1000,)),
    "uniform 10,000": (uniform(10_000), (500, 1000, 2000)),
    "uniform 100,000": (uniform(100_000), (1000, 3000)),
    "zipf 0.5 of 10,000": (zipf(0.5, 10_000), (500, 1000, 2000)),
    "zipf 1.0 of 10,000": (zipf(1.0, 10_000), (500, 1000, 2000)),
    "spike 1 %": (spike(0.01), (500, 1000, 2000)),
    "spike 0.3 %": (spike(0.003), (1000, 2000, 3000)),
    "worst spike": (spike(0.0025, 1_000_000), (1000,)),
}


def coverage(p: Tensor, s: int, batches: int) -> dict[str, float]:
    """Return shares of batches of s draws from p; the seed is fixed."""
    generator = Generator().manual_seed(s + len(p))
    truth = 1 / p.square().sum().item()
    edges = p.cumsum(0)
    counts = {"covered": 0, "false_low": 0, "false_high": 0, "bounds": 0}
    for _ in range(batches):
        drawn = torch.searchsorted(edges, torch.rand(s, dtype=torch.float64, generator=generator) * edges[-1])
        _, group, size = drawn.unique(return_inverse=True, return_counts=True)
        support = renyi2_support(size[group] - 1, 1)
        low, high = support.low > truth, support.high is not None and support.high < truth
        counts["covered"] += not (low or high)
        counts["false_low"] += low
        counts["false_high"] += high
        counts["bounds"] += support.high is None
    return {name: count / batches for name, count in counts.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="for example results/benchmarks/birthday.csv")
    arguments = parser.parse_args()
    lines: list[dict[str, object]] = []
    for name, (p, sizes) in DISTRIBUTIONS.items():
        for s in sizes:
            about = {"distribution": name, "s": s, "n_eff": round(1 / p.square().sum().item(), 1)}
            lines.append({**about, "batches": arguments.batches, **coverage(p, s, arguments.batches)})
            print(*lines[-1].values(), file=sys.stderr, flush=True)
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
