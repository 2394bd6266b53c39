"""How often the 95 % interval of the support size covers the truth, over new batches of a known distribution.

    python tests/benchmarks/bench_birthday.py coverage planted jitter [--out results/benchmarks/birthday.csv]

``coverage``: a batch is drawn, its coincidences are counted without any distance, and ``renyi2_support`` gives the
interval. ``covered`` is the share of batches whose interval holds N_eff, ``false_low`` the share whose lower limit or
lower bound is too high, ``bounds`` the share that gives a lower bound only. A spike of q is one example with
probability q among 100,000 equally likely others. ``worst spike`` is 1.7 to 3 expected draws of one example, at which a
batch most often misses it: there the rule of three (no coincidence at all) is false more often than in 5 % of batches.

``planted``: samples are drawn with replacement from 500, 5,000 and 50,000 real digits of the full MNIST and go through
the whole test: calibration, controls, sequential batches, verdict. ``jitter``: so do samples of 500 digits of mnist5k,
each draw changed by itself (moved by up to so many pixels, turned by up to so many degrees, noise of so many of 255
levels), and samples of different digits as they are, blurred, behind noise, and noise alone. There ``n_eff`` and what
compares with it are empty. ``inconclusive`` is the share of batches without a number, ``median`` that of the numbers.
Rows that stand in the file are not measured again; delete them first.
"""

import argparse
import csv
import io
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Generator, Tensor

from bench.data.base import Data
from bench.data.digits import mnist, mnist5k
from bench.features.pixels import Pixels
from bench.files import durable_write
from bench.metrics.birthday import Birthday
from bench.metrics.registered import smoothed
from bench.metrics.support_size import renyi2_support
from bench.metrics.turned import turned
from bench.schema import Status
from bench.subjects.base import Origin
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples


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


PLANTED = {500: 1000, 5_000: 2000, 50_000: 4000}
"""Samples drawn from so many digits."""

Change = Callable[[Tensor, Generator], Tensor]


def _moved(x: Tensor, most: int, generator: Generator) -> Tensor:
    moves = torch.randint(-most, most + 1, (len(x), 2), generator=generator).tolist()
    return torch.stack([one.roll(move, (1, 2)) for one, move in zip(x, moves, strict=True)])


def _turned(x: Tensor, degrees: float, generator: Generator) -> Tensor:
    return turned(x, (2 * torch.rand(len(x), generator=generator) - 1) * math.radians(degrees))


def _noisy(x: Tensor, sd: float, generator: Generator) -> Tensor:
    return x + sd * torch.randn(x.shape, generator=generator)


COPIES: dict[str, Change] = {
    "none": lambda x, g: x,
    **{f"moved by {n}": lambda x, g, n=n: _moved(x, n, g) for n in (1, 2, 3)},  # type: ignore[misc]
    **{f"turned by {n}": lambda x, g, n=n: _turned(x, n, g) for n in (5, 10, 15, 20, 30)},  # type: ignore[misc]
    **{f"noise {n}": lambda x, g, n=n: _noisy(x, n, g) for n in (10, 20, 30, 60)},  # type: ignore[misc]
    "a tenth of the contrast": lambda x, g: x / 10 + 60,
    "turned by 5, moved by 1, noise 10": lambda x, g: _noisy(_moved(_turned(x, 5, g), 1, g), 10, g),
    "turned by 10, noise 20": lambda x, g: _noisy(_turned(x, 10, g), 20, g),
}
DIFFERENT: dict[str, Change] = {
    "none": lambda x, g: x,
    "a tenth of the contrast": lambda x, g: x / 10 + 60,
    "turned by 20": lambda x, g: _turned(x, 20, g),
    **{f"blurred by {n}": lambda x, g, n=n: smoothed(x, n) for n in (1.0, 2.0, 3.0, 5.0)},  # type: ignore[misc]
    **{f"noise {n}": lambda x, g, n=n: _noisy(x, n, g) for n in (30, 60)},  # type: ignore[misc]
    "only noise": lambda x, g: _noisy(x * 0 + 128, 60, g),
}


def judged(data: Data, samples: Tensor, seed: int) -> tuple[float, float, float | None] | None:
    """Return the number and its limits, None where the test is inconclusive."""
    pictures = samples.round().clamp(0, 255).to(torch.uint8)
    origin = Origin(run_id="", training_key="", group="", model="planted", model_family="", checkpoint="best")
    examples = Examples(GivenSamples(pictures, 0, origin), data, seed=seed)
    (estimate,) = Birthday(Pixels(), len(samples)).compute(examples)
    if estimate.status is not Status.OK:
        return None
    assert estimate.value is not None
    assert estimate.ci_low is not None
    return estimate.value, estimate.ci_low, estimate.ci_high


def of_digits(data: Data, n: int | None, s: int, change: Change, batches: int) -> dict[str, object]:
    """Return shares of batches of s samples of n digits; n None: different digits."""
    found = []
    for seed in range(batches):
        generator = Generator().manual_seed(seed)
        digits = data.train.x[torch.randperm(len(data.train.x), generator=generator)[: n or s]].float()
        drawn = digits if n is None else digits[torch.randint(n, (s,), generator=generator)]
        found.append(judged(data, change(drawn, generator), seed))
    valued = [one for one in found if one is not None]
    low = [n is not None and one[1] > n for one in valued]
    high = [n is not None and one[2] is not None and one[2] < n for one in valued]
    shares = {
        "covered": sum(not (a or b) for a, b in zip(low, high, strict=True)), "false_low": sum(low),
        "false_high": sum(high), "bounds": sum(one[2] is None for one in valued),
        "inconclusive": len(found) - len(valued),
    }  # fmt: skip
    median = round(statistics.median(one[0] for one in valued), 1) if valued else ""
    measured: dict[str, object] = {name: round(count / batches, 4) for name, count in shares.items()}
    unknown = {} if n is not None else dict.fromkeys(("covered", "false_low", "false_high"), "")
    return {**measured, **unknown, "median": median}


Row = dict[str, object]


def jobs(part: str, batches: int | None) -> Iterator[tuple[Row, Callable[[], dict[str, object]]]]:
    """Yield what is known of each row of a part before it is measured, and what measures it."""
    if part == "coverage":
        n = batches or 2000
        for name, (p, sizes) in DISTRIBUTIONS.items():
            for s in sizes:
                about: Row = {
                    "distribution": name,
                    "jitter": "",
                    "s": s,
                    "n_eff": round(1 / p.square().sum().item(), 1),
                }
                yield {**about, "batches": n}, lambda p=p, s=s: dict(coverage(p, s, n))  # type: ignore[misc]
    if part == "planted":
        data, n = mnist(), batches or 3
        for digits, s in PLANTED.items():
            about = {"distribution": f"{digits:,} digits of mnist", "jitter": "none", "s": s, "n_eff": digits}
            yield {**about, "batches": n}, lambda k=digits, s=s: of_digits(data, k, s, COPIES["none"], n)  # type: ignore[misc]
    if part == "jitter":
        data, n = mnist5k(), batches or 3
        for name, change in COPIES.items():
            about = {"distribution": "500 digits of mnist5k", "jitter": name, "s": 1000, "n_eff": 500}
            yield {**about, "batches": n}, lambda c=change: of_digits(data, 500, 1000, c, n)  # type: ignore[misc]
        for name, change in DIFFERENT.items():
            about = {"distribution": "different digits of mnist5k", "jitter": name, "s": 1000, "n_eff": ""}
            yield {**about, "batches": n}, lambda c=change: of_digits(data, None, 1000, c, n)  # type: ignore[misc]


COLUMNS = [
    "distribution", "jitter", "s", "n_eff", "batches", "covered", "false_low", "false_high", "bounds", "inconclusive",
    "median",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=["coverage", "planted", "jitter"])
    parser.add_argument("--batches", type=int, help="default: 2000 for coverage, 3 for the others")
    parser.add_argument("--out", type=Path, help="for example results/benchmarks/birthday.csv")
    arguments = parser.parse_args()
    lines: list[Row] = []
    if arguments.out is not None and arguments.out.exists():
        with arguments.out.open(newline="") as file:
            lines = list(csv.DictReader(file))
    known = {(str(line["distribution"]), str(line["jitter"]), str(line["s"])) for line in lines}
    for part in arguments.parts:
        for about, measure in jobs(part, arguments.batches):
            if (str(about["distribution"]), str(about["jitter"]), str(about["s"])) in known:
                continue
            lines.append({**about, **measure()})
            print(*lines[-1].values(), file=sys.stderr, flush=True)
            if arguments.out is not None:  # at once, because a row can take minutes
                text = io.StringIO()
                writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(lines)
                durable_write(arguments.out, text.getvalue())


if __name__ == "__main__":
    main()
