"""Measure the speed and the memory of metrics on features against peers, in one thread.

    python tests/benchmarks/bench_metrics.py [--short] [--out results/benchmarks/metrics.csv]

The Fréchet term at D = 2048 against torchmetrics', against torch-fidelity's formula (the eigenvalues of the product of
the covariances) and against scipy's square root of it, as other packages have it; the kernel distance over all pairs
against the mean of 100 random subsets of 1000, as is usual; precision, recall, density and coverage with their errors
and the clipped versions against ``prdc``, without; the search for near-duplicates among N examples against nothing but
the matrix products of all pairs, in float64 and in float32.

Beside ``metrics.csv``, ``metrics_memory.csv`` has the time and the peak memory of whole processes, Python and torch
(300 MB) and the examples included: N = 10,000 and 50,000. All takes an hour or two on one quiet core; ``--short`` takes
smaller sets and half a minute.
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
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from paired import Ratio, measure, write_csv
from scipy import linalg
from torch import Generator, Tensor
from torchmetrics.image.fid import _compute_fid

from bench.metrics.near_duplicates import collision_degrees
from bench.metrics.frechet import frechet_distance
from bench.metrics.kernel_distance import cubic, kernel_distance
from bench.metrics.manifold import manifold_scores

BLOCK = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", nargs=3, metavar=("WHAT", "N", "D"), help="one of those whose memory is measured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.alone is not None:
        print(json.dumps(alone(args.alone[0], int(args.alone[1]), int(args.alone[2]))))
        return
    dim, n, many = (256, 1500, 4000) if args.short else (2048, 10_000, 50_000)
    x, y = sets(n, dim)
    ratios = [*frechet(x, y), kernel(x, y), neighbours(x, y), *duplicates(x)]
    peaks = [peak(what, n, dim) for what in ALONE]
    peaks += [peak(what, many, dim) for what in ("manifold", "near-duplicates")]
    if args.out is not None:
        write_csv(args.out, ratios)
        write_peaks(args.out.with_name(f"{args.out.stem}_memory.csv"), peaks)


def sets(n: int, dim: int) -> tuple[Tensor, Tensor]:
    """Features of two distributions that differ a little, ``(n, dim)`` float32 each: a third of their 64 directions.

    As with features of networks, few directions matter: in 2048 independent ones all pairs lie equally far apart.
    """
    generator = Generator().manual_seed(0)
    directions = torch.randn(64, dim, generator=generator) / 8
    made = []
    for gain in (1.0, 1.1):
        inner = torch.randn(n, 64, generator=generator)
        inner[:, :21] *= gain
        made.append(inner @ directions + 0.1 * torch.randn(n, dim, generator=generator) + 0.4)
    return made[0], made[1]


def frechet(x: Tensor, y: Tensor) -> list[Ratio]:
    mean1, cov1, mean2, cov2 = x.double().mean(0), torch.cov(x.double().T), y.double().mean(0), torch.cov(y.double().T)
    rest = float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace())

    def by_root() -> float:
        return rest - 2 * float(linalg.sqrtm((cov1 @ cov2).numpy()).real.trace())

    def by_eigenvalues() -> float:
        return rest - 2 * float(torch.linalg.eigvals(cov1 @ cov2).sqrt().real.sum())

    def torchmetrics() -> float:
        return float(_compute_fid(mean1, cov1, mean2, cov2))

    def ours() -> float:
        return frechet_distance(mean1, cov1, mean2, cov2)

    ratios = []
    peers = {"torchmetrics": torchmetrics, "torch-fidelity's formula": by_eigenvalues, "scipy sqrtm": by_root}
    for peer, theirs in peers.items():
        assert abs(ours() / theirs() - 1) < 1e-6, peer
        ratios.append(measure(f"Fréchet term, D = {x.shape[1]}", ("genbench", ours), (peer, theirs), rounds=3))
    return ratios


def kernel(x: Tensor, y: Tensor) -> Ratio:
    generator = Generator().manual_seed(1)
    size = min(1000, len(x) // 2)

    def subsets() -> float:
        total = 0.0
        for _ in range(100):
            a, b = (side[torch.randperm(len(side), generator=generator)[:size]].double() for side in (x, y))
            aa, bb = (cubic(side, side).fill_diagonal_(0).sum() / (size * (size - 1)) for side in (a, b))
            total += float(aa + bb - 2 * cubic(a, b).mean())
        return total / 100

    name = f"kernel distance, N = {len(x)}, D = {x.shape[1]}"
    ours = ("genbench: all pairs, with its error", lambda: kernel_distance(x, y))
    return measure(name, ours, (f"100 subsets of {size}", subsets), rounds=3)


def prdc(x: Tensor, y: Tensor) -> object:
    import prdc

    with contextlib.redirect_stdout(io.StringIO()):
        return prdc.compute_prdc(x.numpy(), y.numpy(), nearest_k=5)


def neighbours(x: Tensor, y: Tensor) -> Ratio:
    name = f"precision, recall, density, coverage, N = {len(x)}, D = {x.shape[1]}"
    ours = ("genbench: six scores with errors", lambda: manifold_scores(x, y))
    return measure(name, ours, ("prdc", lambda: prdc(x, y)), rounds=3)


def duplicates(x: Tensor) -> list[Ratio]:
    """Half the rate of the products would be a ratio of 0.5."""
    name = f"near-duplicates, N = {len(x)}, D = {x.shape[1]}"
    ours = ("genbench", lambda: near_duplicates(x))
    return [
        measure(name, ours, (f"products of all pairs in {dtype}", products(x.to(dtype))), rounds=3)
        for dtype in (torch.float64, torch.float32)
    ]


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


ALONE: dict[str, Callable[[Tensor, Tensor], object]] = {
    "manifold": manifold_scores,
    "prdc": prdc,
    "kernel distance": kernel_distance,
    "near-duplicates": lambda x, y: near_duplicates(x),
}


def alone(what: str, n: int, dim: int) -> dict[str, float]:
    """Seconds of one call, and the peak memory of this process in MB (Linux)."""
    x, y = sets(n, dim)
    begin = time.perf_counter()
    ALONE[what](x, y)
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


def write_peaks(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
