"""Checks of metrics on features: the in-domain classifier's training, and distances and pairs as on the CPU."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from unittest import mock

import torch
from gpu_common import HERE, Check, Row, synchronize
from torch import Generator, Tensor

from bench.data.base import Data, Split
from bench.features import classifier
from bench.metrics.copying import nearest
from bench.metrics.frechet import frechet_distance_from_features, frechet_stderr
from bench.metrics.kernel_distance import kernel_distance
from bench.metrics.manifold import NAMES, manifold_scores
from bench.metrics.near_duplicates import collision_degrees, local_radius, reference_radius
from bench.schema import DataSpec

__all__ = ["CHECKS"]

CLOSE = 1e-9
"""Largest relative difference of float64 results."""
CPU = torch.device("cpu")

_T = TypeVar("_T")


def classifier_training(_: str) -> Iterator[Row]:
    """The classifier of 4000 pictures is trained twice: seconds, accuracy, and whether the weights are the same."""
    data = _labelled(4000 // HERE.few, 1000 // HERE.few)
    with mock.patch.object(classifier, "MIN_EXAMPLES", classifier.MIN_EXAMPLES // HERE.few**2):
        (_, first), (seconds, second) = (_timed(lambda _: _trained(data), HERE.device) for _ in range(2))
        steps = max(classifier.MIN_EPOCHS, math.ceil(classifier.MIN_EXAMPLES / len(data.train)))
    steps *= math.ceil(len(data.train) / classifier.BATCH)
    yield "classifier's training", seconds, "s", f"{steps} steps of {classifier.BATCH}"
    yield "classifier's accuracy", second.accuracy, "", f"{second.n_test} pictures"
    ours, theirs = first._network.state_dict(), second._network.state_dict()
    differing = sum(not torch.equal(ours[key], theirs[key]) for key in ours)
    yield "classifier trained twice, tensors that differ", differing, "", f"of {len(ours)}; hash {first.hash}"
    if differing or first.hash != second.hash:
        raise AssertionError(f"{differing} of {len(ours)} tensors differ between two trainings")
    if not second.accuracy > classifier.LEAST_ACCURACY:
        raise AssertionError(f"the classifier reads only {second.accuracy:.3f} rightly")


def frechet(_: str) -> Iterator[Row]:
    """The Fréchet distance of 10,000 and 10,000 examples of 2048 features, and its standard error."""
    x, y = _features(0, 10_000), 1.02 * _features(1, 10_000)
    yield from _as_on_cpu("FID", lambda x, y: (frechet_distance_from_features(x, y),), x, y)
    yield from _as_on_cpu("FID's standard error", frechet_stderr, x, y)


def kernel(_: str) -> Iterator[Row]:
    """The kernel distance of 5,000 and 5,000 examples of 2048 features."""

    def numbers(x: Tensor, y: Tensor) -> tuple[float, ...]:
        found = kernel_distance(x, y)
        return found.value, found.stderr_x, found.stderr_y

    yield from _as_on_cpu("KID", numbers, _features(0, 5000), 1.02 * _features(1, 5000))


def manifold(_: str) -> Iterator[Row]:
    """Precision, recall and their relatives of 5,000 and 5,000 examples of 2048 features, and their errors.

    Scores are those of float64. Errors come from halves, whose radii keep the rounding of float32.
    """
    x, y = _clustered(0, 5000), 1.02 * _clustered(1, 5000)
    times = []
    found = []
    for device in (CPU, HERE.device):
        seconds, made = _timed(lambda device: manifold_scores(x.to(device), y.to(device)), device)
        times.append(seconds)
        found.append([[getattr(part, name) for name in NAMES] for part in made])
    scores, errors = (_largest(found[0][i], found[1][i], relative=False) for i in (0, 1))
    yield from _rows("manifold scores", times, scores)
    yield "manifold scores' errors, GPU - CPU", errors, "", ""
    if not (scores < CLOSE and errors < 1e-3):
        raise AssertionError(f"scores differ by {scores:.3g}, their errors by {errors:.3g}")


def near_duplicates(_: str) -> Iterator[Row]:
    """Pairs of copies among 20,000 examples of 2048 features, a fiftieth of them copies; local radii of 5,000."""
    x = _features(0, 20_000)
    copied = len(x) // 50
    x[-copied:] = x[:copied] + 0.2 * x[copied : 2 * copied]
    radius = torch.full((len(x),), math.sqrt(2 * x.shape[1]), dtype=torch.float64)
    times, found = [], []
    for device in (CPU, HERE.device):
        given = x.to(device), radius.to(device)
        seconds, degrees = _timed(lambda _, given=given: collision_degrees(*given, 0.5), device)  # type: ignore[misc]
        times.append(seconds)
        found.append(degrees.cpu())
    pairs, differing = int(found[0].sum()) // 2, int((found[0] != found[1]).sum())
    yield from _rows("near-duplicates", times, differing, f"{pairs} pairs among {len(x)}")
    if differing or pairs < copied:
        raise AssertionError(f"{differing} examples have other numbers of copies; {pairs} pairs of {copied} copies")
    few = x[: len(x) // 4]

    def radii(x: Tensor) -> tuple[float, ...]:
        candidates = reference_radius(x, x, torch.arange(len(x)), 5, itself=True)
        return tuple(local_radius(x, 0.1, candidates, 5).tolist())

    yield from _as_on_cpu("local radii", radii, few)


def nearest_example(_: str) -> Iterator[Row]:
    """The nearest of 20,000 examples of 2048 features, to each of 2,000."""

    def found(x: Tensor, reference: Tensor) -> tuple[float, ...]:
        made = nearest(x, reference)
        return (*made.index.tolist(), *made.distance.tolist())

    yield from _as_on_cpu("nearest example", found, _features(0, 2000), _features(1, 20_000))


def decomposition(_: str) -> Iterator[Row]:
    """The singular values of FID's error, which the CPU computes: would the GPU be faster?"""
    x = _features(0, 3000)[: 2048 // HERE.few].double()
    for device in (CPU, HERE.device):
        seconds, _ = _timed(lambda device: torch.linalg.svd(x.to(device)), device)
        yield f"singular values of {len(x)} x {x.shape[1]}, {device.type}", seconds, "s", "float64"


CHECKS: tuple[Check, ...] = (
    classifier_training, frechet, kernel, manifold, near_duplicates, nearest_example, decomposition,
)  # fmt: skip


def _as_on_cpu(name: str, function: Callable[..., tuple[float, ...]], *given: Tensor) -> Iterator[Row]:
    """Rows of a function's times on both devices and of the largest relative difference of its numbers."""
    function(*(one[:200, :50].to(HERE.device) for one in given))  # libraries are loaded at their first call
    times, found = [], []
    for device in (CPU, HERE.device):
        sent = [one.to(device) for one in given]
        seconds, numbers = _timed(lambda _, sent=sent: function(*sent), device)  # type: ignore[misc]
        times.append(seconds)
        found.append(numbers)
    difference = _largest(*found, relative=True)
    yield from _rows(name, times, difference, "relative")
    if not difference < CLOSE:
        raise AssertionError(f"{name}: GPU and CPU differ by {difference:.3g}")


def _rows(name: str, times: list[float], difference: float, note: str = "") -> Iterator[Row]:
    yield f"{name}, CPU", times[0], "s", f"{torch.get_num_threads()} threads"
    yield f"{name}, GPU", times[1], "s", ""
    yield f"{name}, GPU - CPU", difference, "", note


def _largest(ours: tuple[float, ...], theirs: tuple[float, ...], *, relative: bool) -> float:
    """The largest difference; infinite where a number is not finite, or one is missing."""
    a, b = (torch.tensor(one, dtype=torch.float64) for one in (ours, theirs))
    difference = (a - b).abs() / (a.abs().clamp_min(1e-300) if relative else 1.0)
    return float(difference.max()) if len(a) == len(b) and bool(difference.isfinite().all()) else math.inf


def _timed(work: Callable[[torch.device], _T], device: torch.device) -> tuple[float, _T]:
    """Seconds of one call to its end on the device, and what it returned."""
    synchronize()
    start = time.perf_counter()
    made = work(device)
    synchronize()
    return time.perf_counter() - start, made


def _features(seed: int, n: int) -> Tensor:
    """Normal features ``(n, 2048)`` float32; in a rehearsal a tenth of the examples and of the features."""
    generator = Generator().manual_seed(seed)
    return torch.randn(n // HERE.few, 2048 // HERE.few, generator=generator)


def _clustered(seed: int, n: int) -> Tensor:
    """Features that lie near a plane of 8 dimensions, so that balls of neighbours hold others."""
    inner = torch.randn(n // HERE.few, 8, generator=Generator().manual_seed(seed))
    return inner @ _features(7, 8 * HERE.few) + 0.01 * _features(seed + 2, n)


def _labelled(n: int, n_test: int) -> Data:
    """Pictures 1 x 28 x 28 of ten kinds in noise."""
    generator = Generator().manual_seed(5)
    kinds = torch.randn(10, 1, 7, 7, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    y = torch.randint(10, (n + 2 * n_test,), generator=generator)
    noise = torch.randn(len(y), 1, 28, 28, generator=generator)
    x = (128 + 40 * kinds[y] + 40 * noise).clamp(0, 255).to(torch.uint8)
    splits = (Split(*parts) for parts in zip(x.split([n, n_test, n_test]), y.split([n, n_test, n_test]), strict=True))
    return Data(DataSpec("kinds", "r0", (1, 28, 28), 256, n, n_test, n_test, 10), *splits)


def _trained(data: Data) -> classifier.TrainedClassifier:
    with tempfile.TemporaryDirectory() as folder:
        return classifier.load_or_train(data, Path(folder))
