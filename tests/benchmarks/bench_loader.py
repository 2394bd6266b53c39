"""Measure images per second from our loader and from torch's DataLoader over the same arrays.

    python tests/benchmarks/bench_loader.py

One process without workers on the CPU. Each round delivers one shuffled epoch from both sides in turn and computes
their ratio, so that a change in the machine's speed affects both. Writes results/benchmarks/loader.csv: the medians of
images/s, and the median ratio with its quartiles.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_training import compare
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from bench.data.base import Split
from bench.data.loader import Batches
from bench.provenance import git_state

BATCH = 128
SIZES = {"mnist": (50_000, 1, 28, 28), "cifar10": (45_000, 3, 32, 32)}
OUT = Path(__file__).parents[2] / "results" / "benchmarks" / "loader.csv"


def mapped(shape: tuple[int, ...], folder: Path) -> Split:
    """Return random images of a data set's size with labels, memory-mapped like the decoded arrays in the cache."""
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.integers(256, size=shape, dtype=np.uint8))
    x = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c"))
    return Split(x, torch.from_numpy(rng.integers(10, size=len(x))))


def ours(split: Split, resident_bytes: int | None) -> Iterable[object]:
    return Batches(split, BATCH, 0, last_step=len(split) // BATCH, resident_bytes=resident_bytes)


def dataloader(split: Split) -> Iterable[object]:
    """Return the usual DataLoader, which reads examples one by one and collates them."""
    return DataLoader(tensors(split), batch_size=BATCH, shuffle=True, drop_last=True)


def batch_sampler(split: Split) -> Iterable[object]:
    """Return the fastest DataLoader without workers, which indexes the data set with a whole batch at a time."""
    data = tensors(split)
    return DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), BATCH, drop_last=True))


def tensors(split: Split) -> TensorDataset:
    assert isinstance(split.y, Tensor)
    return TensorDataset(split.x, split.y)


def epoch_seconds(batches: Callable[[], Iterable[object]]) -> float:
    start = time.perf_counter()
    for _ in batches():
        pass
    return time.perf_counter() - start


def measure(rounds: int) -> list[dict[str, object]]:
    commit, dirty = git_state()
    rows: list[dict[str, object]] = []
    for name, shape in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            split = mapped(shape, Path(folder))
            delivered = len(split) // BATCH * BATCH
            for way, limit in (("resident", None), ("streamed", 0)):
                for other in (dataloader, batch_sampler):
                    sides = (partial(ours, split, limit), partial(other, split))
                    ratios, mine, theirs = compare(*(partial(epoch_seconds, side) for side in sides), rounds)
                    low, middle, high = statistics.quantiles([1 / ratio for ratio in ratios], n=4)
                    rows.append(
                        {
                            "data": name, "ours": way, "other": other.__name__, "batch_size": BATCH, "rounds": rounds,
                            "threads": torch.get_num_threads(), "ours_images_per_second": round(delivered / mine),
                            "other_images_per_second": round(delivered / theirs), "ratio": round(middle, 2),
                            "ratio_low": round(low, 2), "ratio_high": round(high, 2), "torch": torch.__version__,
                            "commit": f"{commit}{'-dirty' if dirty else ''}",
                        }
                    )  # fmt: skip
                    print(f"{name}, {way} against {other.__name__}: {middle:.1f} [{low:.1f}, {high:.1f}] times as fast")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = measure(arguments.rounds)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
