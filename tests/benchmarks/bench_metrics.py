"""Measure the speed of metrics on features against peers, in one thread.

    python tests/benchmarks/bench_metrics.py [--short] [--out results/benchmarks/metrics.csv]

The Fréchet term at D = 2048 against torchmetrics' and against a product of two matrices with scipy's square root, as
other packages compute it; the kernel distance over all pairs against the mean of 100 random subsets of 1000, as is
usual; precision, recall, density and coverage with their errors and the clipped versions against ``prdc``, without.
``--short`` takes smaller sets: seconds instead of a quarter of an hour.
"""

import argparse
import contextlib
import io
import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from paired import Ratio, measure, write_csv
from scipy import linalg
from torch import Generator, Tensor
from torchmetrics.image.fid import _compute_fid

from bench.metrics.frechet import frechet_distance
from bench.metrics.kernel_distance import cubic, kernel_distance
from bench.metrics.manifold import manifold_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dim, n, rounds = (256, 1500, 3) if args.short else (2048, 10_000, 3)
    generator = Generator().manual_seed(0)
    x, y = torch.randn(n, dim, generator=generator), 1.1 * torch.randn(n, dim, generator=generator) + 0.1
    ratios = [*frechet(x, y, rounds), kernel(x, y, rounds), neighbours(x, y, rounds)]
    if args.out is not None:
        write_csv(args.out, ratios)


def frechet(x: Tensor, y: Tensor, rounds: int) -> list[Ratio]:
    mean1, cov1, mean2, cov2 = x.double().mean(0), torch.cov(x.double().T), y.double().mean(0), torch.cov(y.double().T)

    def by_root() -> float:
        root = linalg.sqrtm((cov1 @ cov2).numpy()).real
        return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root.trace())

    def ours() -> float:
        return frechet_distance(mean1, cov1, mean2, cov2)

    def torchmetrics() -> float:
        return float(_compute_fid(mean1, cov1, mean2, cov2))

    for peer in (by_root, torchmetrics):
        assert abs(ours() / peer() - 1) < 1e-6
    name = f"Fréchet term, D = {x.shape[1]}"
    return [
        measure(name, ("genbench", ours), ("torchmetrics", torchmetrics), rounds=rounds),
        measure(name, ("genbench", ours), ("scipy sqrtm", by_root), rounds=rounds),
    ]


def kernel(x: Tensor, y: Tensor, rounds: int) -> Ratio:
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
    return measure(name, ours, (f"100 subsets of {size}", subsets), rounds=rounds)


def neighbours(x: Tensor, y: Tensor, rounds: int) -> Ratio:
    import prdc

    def theirs() -> object:
        with contextlib.redirect_stdout(io.StringIO()):
            return prdc.compute_prdc(x.numpy(), y.numpy(), nearest_k=5)

    name = f"precision, recall, density, coverage, N = {len(x)}, D = {x.shape[1]}"
    ours = ("genbench: six scores with errors", lambda: manifold_scores(x, y))
    return measure(name, ours, ("prdc", theirs), rounds=rounds)


if __name__ == "__main__":
    main()
