"""Measure the speed and the memory of metrics on features against peers, in one thread.

    python tests/benchmarks/bench_metrics.py --out results/benchmarks/metrics.csv [--only PART ...] [--list] [--short]

The Fréchet term at D = 2048 against torchmetrics', against torch-fidelity's formula (the eigenvalues of the product of
the covariances) and against scipy's square root of it, as other packages have it; the kernel distance over all pairs
against the mean of 100 random subsets of 1000, as is usual; precision, recall, density and coverage with their errors
and the clipped versions against ``prdc``, without; the search for near-duplicates among N examples against nothing but
the matrix products of all pairs, in float32 and, for N = 10,000, in float64.

Beside ``metrics.csv``, ``metrics_memory.csv`` has the time and the peak memory of whole processes, Python and torch
(300 MB) and the examples included: N = 10,000 and 50,000.

A row is written as soon as it is measured, and a row that the files have is not measured again: delete it to measure
it anew. ``--list`` shows the pieces, about how many minutes each takes on one quiet core (together three quarters of
an hour), and which rows there are. ``--only`` takes beginnings of their names. ``--short`` takes smaller sets, half a
minute and two files of its own.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from paired import Ratio, measure, read_csv, write_csv
from scipy import linalg
from torch import Generator, Tensor
from torchmetrics.image.fid import _compute_fid

from bench.files import durable_write
from bench.metrics.copying import nearest
from bench.metrics.frechet import frechet_distance
from bench.metrics.kernel_distance import kernel_distance
from bench.metrics.kernels import cubic
from bench.metrics.manifold import manifold_scores
from bench.metrics.near_duplicates import collision_degrees

BLOCK = 1024


@dataclass(frozen=True)
class Piece:
    """One row: how it is called, about how many minutes it takes at full size, and what measures it."""

    name: str
    minutes: float
    ratio: Callable[[str], Ratio] | None = None
    alone: tuple[str, int, int] | None = None


def pieces(n: int, many: int, dim: int) -> list[Piece]:
    """All rows, those that take long last."""
    made = [Piece(f"Fréchet term, D = {dim}, {peer}", 1, partial(frechet, n, dim, peer)) for peer in FRECHET]
    made += [
        Piece(f"near-duplicates, N = {n}, D = {dim}, {name}", 0.5, partial(duplicates, n, dim, dtype))
        for name, dtype in (("float32", torch.float32), ("float64", torch.float64))
    ]
    made += [Piece(f"peak of {what}, N = {n}, D = {dim}", minutes, alone=(what, n, dim)) for what, minutes in ALONE]
    made.append(Piece(f"kernel distance, N = {n}, D = {dim}", 2.5, partial(kernel, n, dim)))
    made.append(Piece(f"precision, recall, density, coverage, N = {n}, D = {dim}", 5, partial(neighbours, n, dim)))
    made.append(
        Piece(f"near-duplicates, N = {many}, D = {dim}, float32", 4.5, partial(duplicates, many, dim, torch.float32))
    )
    made += [
        Piece(f"peak of {what}, N = {many}, D = {dim}", minutes, alone=(what, many, dim))
        for what, minutes in (("near-duplicates", 1.5), ("nearest", 1), ("manifold", 10))
    ]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="PART", default=[""])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", nargs=3, metavar=("WHAT", "N", "D"), help="one of those whose memory is measured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.alone is not None:
        print(json.dumps(alone(args.alone[0], int(args.alone[1]), int(args.alone[2]))))
        return
    out = None if args.out is None else args.out.with_stem(f"{args.out.stem}_short") if args.short else args.out
    ratios = {} if out is None else {row.benchmark: row for row in read_csv(out)}
    peaks = {} if out is None else {row["benchmark"]: row for row in read_peaks(memory_of(out))}
    for piece in pieces(1500, 4000, 256) if args.short else pieces(10_000, 50_000, 2048):
        there = piece.name in ratios or piece.name in peaks
        if args.list:
            print(f"{piece.name}: {'measured' if there else f'{piece.minutes} min'}")
        elif there or not any(piece.name.startswith(part) for part in args.only):
            continue
        elif piece.ratio is not None:
            ratios[piece.name] = piece.ratio(piece.name)
            if out is not None:
                write_csv(out, ratios.values())
        elif piece.alone is not None:
            peaks[piece.name] = {"benchmark": piece.name} | peak(*piece.alone)
            if out is not None:
                write_peaks(memory_of(out), list(peaks.values()))


@cache
def sets(n: int, dim: int) -> tuple[Tensor, Tensor]:
    """Features of two distributions that differ a little, ``(n, dim)`` float32 each: a third of their 64 directions.

    As with features of networks, few directions matter: in 2048 independent ones all pairs lie equally far apart.
    """
    return features(n, dim, 1.0), features(n, dim, 1.1)


def features(n: int, dim: int, gain: float) -> Tensor:
    """One of them; some rows at a time, so that making them needs no more memory than measuring them."""
    directions = torch.randn(64, dim, generator=Generator().manual_seed(0)) / 8
    generator = Generator().manual_seed(round(10 * gain))
    made = torch.empty(n, dim)
    for rows in made.split(1000):
        inner = torch.randn(len(rows), 64, generator=generator)
        inner[:, :21] *= gain
        rows.copy_(inner @ directions + 0.1 * torch.randn(rows.shape, generator=generator) + 0.4)
    return made


def by_root(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    root = float(linalg.sqrtm((cov1 @ cov2).numpy()).real.trace())
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()) - 2 * root


def by_eigenvalues(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    root = float(torch.linalg.eigvals(cov1 @ cov2).sqrt().real.sum())
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()) - 2 * root


def torchmetrics(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    return float(_compute_fid(mean1, cov1, mean2, cov2))


FRECHET = {"torchmetrics": torchmetrics, "torch-fidelity's formula": by_eigenvalues, "scipy sqrtm": by_root}


def frechet(n: int, dim: int, peer: str, name: str) -> Ratio:
    moments = [part for side in sets(n, dim) for part in (side.double().mean(0), torch.cov(side.double().T))]
    theirs = partial(FRECHET[peer], *moments)
    ours = partial(frechet_distance, *moments)
    assert abs(ours() / theirs() - 1) < 1e-6, peer
    return measure(name, ("genbench", ours), (peer, theirs), rounds=3)


def kernel(n: int, dim: int, name: str) -> Ratio:
    x, y = sets(n, dim)
    generator = Generator().manual_seed(1)
    size = min(1000, len(x) // 2)

    def subsets() -> float:
        total = 0.0
        for _ in range(100):
            a, b = (side[torch.randperm(len(side), generator=generator)[:size]].double() for side in (x, y))
            aa, bb = (cubic(side, side).fill_diagonal_(0).sum() / (size * (size - 1)) for side in (a, b))
            total += float(aa + bb - 2 * cubic(a, b).mean())
        return total / 100

    ours = ("genbench: all pairs, with its error", lambda: kernel_distance(x, y))
    return measure(name, ours, (f"100 subsets of {size}", subsets), rounds=3)


def prdc(x: Tensor, y: Tensor) -> object:
    import prdc

    with contextlib.redirect_stdout(io.StringIO()):
        return prdc.compute_prdc(x.numpy(), y.numpy(), nearest_k=5)


def neighbours(n: int, dim: int, name: str) -> Ratio:
    x, y = sets(n, dim)
    ours = ("genbench: six scores with errors", lambda: manifold_scores(x, y))
    return measure(name, ours, ("prdc", lambda: prdc(x, y)), rounds=3)


def duplicates(n: int, dim: int, dtype: torch.dtype, name: str) -> Ratio:
    """Half the rate of the products would be a ratio of 0.5. What takes minutes is timed twice and not warmed up."""
    x = features(n, dim, 1.0)
    theirs = ("products of all pairs", products(x.to(dtype)))
    long = n > 20_000
    return measure(name, ("genbench", lambda: near_duplicates(x)), theirs, rounds=2 if long else 3, warm=not long)


def near_duplicates(x: Tensor) -> Tensor:
    return collision_degrees(x, torch.ones(len(x), dtype=torch.float64), 0.5)


def products(x: Tensor) -> Callable[[], None]:
    """Multiplies every block of rows with those from it on, as the search does, and drops the products."""
    blocks = x.split(BLOCK)

    def run() -> None:
        for number, rows in enumerate(blocks):
            for columns in blocks[number:]:
                rows @ columns.T

    return run


ALONE = (("near-duplicates", 0.2), ("nearest", 0.5), ("manifold", 0.7), ("kernel distance", 0.4), ("prdc", 1))


def alone(what: str, n: int, dim: int) -> dict[str, float]:
    """Seconds of one call, and the peak memory of this process in MB (Linux)."""
    measured: dict[str, Callable[[], object]]
    x = features(n, dim, 1.0)
    if what in ("near-duplicates", "nearest"):
        measured = {
            "near-duplicates": lambda: near_duplicates(x),
            "nearest": lambda: nearest(x[: n // 10], x, itself=torch.arange(n // 10)),
        }
    else:
        y = features(n, dim, 1.1)
        measured = {
            "manifold": lambda: manifold_scores(x, y),
            "prdc": lambda: prdc(x, y),
            "kernel distance": lambda: kernel_distance(x, y),
        }
    begin = time.perf_counter()
    measured[what]()
    seconds = time.perf_counter() - begin
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"seconds": seconds, "peak_mb": int(status["VmHWM"].split()[0]) / 1024}


def peak(what: str, n: int, dim: int) -> dict[str, str]:
    """What ``alone`` finds in a process of its own."""
    command = [sys.executable, __file__, "--alone", what, str(n), str(dim)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    row = {"what": what, "n": str(n), "dim": str(dim)} | {key: f"{value:.4g}" for key, value in found.items()}
    print(row, flush=True)
    return row


def memory_of(out: Path) -> Path:
    return out.with_stem(f"{out.stem}_memory")


def read_peaks(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_peaks(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    durable_write(path, text.getvalue().encode())


if __name__ == "__main__":
    main()
