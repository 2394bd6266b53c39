"""Time and memory of the search for near-duplicates among many features, beside scikit-learn's brute-force neighbours.

    python tests/benchmarks/bench_pairs.py [--n 10000 50000] [--out results/benchmarks/pairs.csv]

The features are N x 2048 float32 numbers, 1 % of the rows a copy of another row with a little noise. ``genbench`` is
one pass of ``collision_degrees`` over all pairs; ``scikit-learn`` is ``NearestNeighbors(algorithm="brute")`` for the
nearest other row of each, which tells the same copies. Each runs in a process of its own, on one thread: ``seconds``
by the clock, ``cpu_seconds`` of the processor (the two differ on a busy machine), ``peak_mb`` the largest resident
memory, and ``found`` the copies that were told, of ``planted``. Rows that stand in the file are not measured again.
"""

import argparse
import csv
import io
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Generator, Tensor

from bench.files import durable_write
from bench.metrics.near_duplicates import collision_degrees

WIDTH = 2048
NOISE = 0.01  # distances: about 0.6 between copies, 64 between others
LIMIT = 10.0
COLUMNS = ["search", "n", "width", "seconds", "cpu_seconds", "peak_mb", "found", "planted"]


def features(n: int) -> tuple[Tensor, int]:
    """Return ``(n, WIDTH)`` float32 and the number of copies, which are the last rows, of the first ones."""
    generator = Generator().manual_seed(0)
    x = torch.empty(n, WIDTH)
    for piece in x.split(1000):
        piece.copy_(torch.randn(piece.shape, generator=generator))
    copies = n // 100
    x[-copies:] = x[:copies] + NOISE * torch.randn(copies, WIDTH, generator=generator)
    return x, copies


def by_genbench(x: Tensor) -> int:
    return int(collision_degrees(x, torch.full((len(x),), LIMIT).double(), 1.0).sum()) // 2


def by_sklearn(x: Tensor) -> int:
    from sklearn.neighbors import NearestNeighbors

    distance, _ = NearestNeighbors(n_neighbors=1, algorithm="brute", n_jobs=1).fit(x.numpy()).kneighbors()
    return int((distance[:, 0] <= LIMIT).sum()) // 2


SEARCHES = {"genbench": by_genbench, "scikit-learn": by_sklearn}


def measured(search: str, n: int) -> dict[str, object]:
    """Run one search in this process."""
    torch.set_num_threads(1)
    x, planted = features(n)
    start, cpu = time.perf_counter(), time.process_time()
    found = SEARCHES[search](x)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "search": search, "n": n, "width": WIDTH, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
        "peak_mb": round(peak), "found": found, "planted": planted,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--only", choices=list(SEARCHES), help=argparse.SUPPRESS)  # one search, in this process
    parser.add_argument("--out", type=Path, help="for example results/benchmarks/pairs.csv")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measured(arguments.only, arguments.n[0])))
        return
    lines: list[dict[str, object]] = []
    if arguments.out is not None and arguments.out.exists():
        with arguments.out.open(newline="") as file:
            lines = list(csv.DictReader(file))
    known = {(str(line["search"]), str(line["n"])) for line in lines}
    for n in arguments.n:
        for search in SEARCHES:
            if (search, str(n)) in known:
                continue
            command = [sys.executable, __file__, "--only", search, "--n", str(n)]
            lines.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            print(*lines[-1].values(), file=sys.stderr, flush=True)
            if arguments.out is not None:
                text = io.StringIO()
                writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(lines)
                durable_write(arguments.out, text.getvalue())


if __name__ == "__main__":
    main()
