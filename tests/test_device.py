"""Metrics on a second device: no tensor of one meets a tensor of the other, and the numbers are the same."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers_device import ELSEWHERE, second_device
from helpers_features import toy
from helpers_metrics import FakeSubject
from torch import Generator, Tensor

from bench import device
from bench.data.base import Data, Split
from bench.data.formats.moments import Moments
from bench.device import full_float32, on_gpu
from bench.features import classifier
from bench.features.pixels import Pixels
from bench.metrics.base import Metric
from bench.metrics.birthday import Birthday
from bench.metrics.calibration import calibrated
from bench.metrics.copying import Copying, authentic, copies, copying_statistic, nearest
from bench.metrics.frechet import (
    FID,
    FIDInfinity,
    frechet_distance_from_features,
    frechet_infinity,
    frechet_influences,
    frechet_to_moments,
)
from bench.metrics.kernel_distance import KID, MMD, kernel_distance
from bench.metrics.kernel_entropy import KernelEntropy, rke, vendi
from bench.metrics.kernels import gaussian
from bench.metrics.manifold import Manifold, manifold_scores
from bench.metrics.near_duplicates import closest_pairs, collision_degrees, duplicate_groups
from bench.metrics.parzen import Parzen
from bench.metrics.support_rows import SupportSize
from bench.metrics.width import median_distance, some
from bench.schema import DataSpec, Estimate
from bench.subjects.examples import Examples


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


X, Y, FEW = normal(0, 300, 20), 1.1 * normal(1, 260, 20) + 0.1, normal(2, 12, 20)
REPEATED = torch.cat([X, X[:40] + 1e-3, X[:5]])
RADIUS = 1 + torch.rand(len(REPEATED), generator=Generator().manual_seed(3)).double()
PICTURES = torch.rand(120, 36, generator=Generator().manual_seed(4))


def of_copying(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    of_x, of_first = nearest(x, y), nearest(y[:50], y, itself=torch.arange(50).to(y.device))
    statistic = copying_statistic(of_x.distance, of_first.distance)
    return of_x.index, of_x.distance, authentic(of_x, y), statistic, copies(of_x.distance, of_first.distance)


def of_birthday(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    found = calibrated(y, torch.randperm(len(y), generator=Generator().manual_seed(5)), 200, 2)
    degrees, groups, pairs = found.degrees(x), found.groups(x), found.closest(x, 30)
    assert {degrees.device.type, groups.device.type, *(one.device.type for one in vars(pairs).values())} == {"cpu"}
    return found.threshold, degrees, groups, *vars(pairs).values()


def of_turned_pictures(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    order = torch.randperm(len(y), generator=Generator().manual_seed(5))
    found = calibrated(y, order, 80, 1, pictures=True, shape=(1, 6, 6))
    return found.threshold, found.degrees(x), found.groups(x), *vars(found.closest(x, 30)).values()


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "distance": (frechet_distance_from_features, (X, Y)),
    "distance of few": (frechet_distance_from_features, (FEW, Y)),
    "influences": (frechet_influences, (X, Y)),
    "influences of few": (frechet_influences, (FEW, Y)),
    "to moments": (frechet_to_moments, (X, Y.mean(0), torch.cov(Y.T))),
    "infinity": (lambda x, y: vars(frechet_infinity(x, y, Generator().manual_seed(0))), (X, Y)),
    "kernel distance": (lambda x, y: vars(kernel_distance(x, y)), (X, Y)),
    "gaussian": (lambda x, y: vars(kernel_distance(x, y, lambda a, b: gaussian(a, b, 3.0))), (X, Y)),
    "width": (lambda x: vars(median_distance(x[some(len(x), Generator().manual_seed(0))])), (X,)),
    "kernel entropy": (lambda x: (rke(x, 3.0), vendi(x, 3.0)), (X,)),
    "manifold": (lambda x, y: [vars(one) for one in manifold_scores(x, y)], (X, Y)),
    "copying": (of_copying, (X, Y)),
    "collisions": (lambda x, r: collision_degrees(x, r, 0.5), (REPEATED, RADIUS)),
    "groups": (lambda x, r: duplicate_groups(x, r, 0.5), (REPEATED, RADIUS)),
    "closest": (lambda x, r: closest_pairs(x, r, 60), (REPEATED, RADIUS)),
    "birthday": (of_birthday, (REPEATED, Y)),
    "turned": (of_turned_pictures, (torch.cat([PICTURES, PICTURES[:20] + 0.01]), PICTURES.flip(0).square())),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_metric_runs_on_the_device_of_its_features(name: str) -> None:
    function, given = FUNCTIONS[name]
    here = function(*given)
    with second_device() as sent:
        there = function(*(sent(one) for one in given))
        flat = [one.cpu() if isinstance(one, Tensor) else one for one in torch.utils._pytree.tree_leaves(there)]
    for one, other in zip(torch.utils._pytree.tree_leaves(here), flat, strict=True):
        torch.testing.assert_close(torch.as_tensor(other), torch.as_tensor(one), rtol=1e-9, atol=1e-12)


def examples(moments: bool = False) -> Examples:
    """Samples of a plane figure of ten dimensions, with copies among them, and real examples."""
    real = [normal(seed, n, 10) for seed, n in ((10, 300), (11, 60), (12, 240))]
    samples = 1.1 * normal(13, 200, 10)
    samples = torch.cat([samples, samples[:60]])
    spec = DataSpec("plane", "r1", (10,), None, 300, 60, 240, None)
    train, val, test = (Split(x, None) for x in real)
    known = Moments(normal(14, 10).double(), torch.cov(normal(15, 10, 50)).double()) if moments else None
    return Examples(FakeSubject({"samples": samples}), Data(spec, train, val, test, moments=known), seed=0)


METRICS: dict[str, Metric] = {
    "fid": FID(Pixels(), 260), "fid to moments": FID(Pixels(), 260), "fid_infinity": FIDInfinity(Pixels(), 260),
    "kid": KID(Pixels(), 260), "mmd": MMD(Pixels(), 260), "manifold": Manifold(Pixels(), 260),
    "copying": Copying(Pixels(), 260), "kernel entropy": KernelEntropy(Pixels(), 260),
    "birthday": Birthday(Pixels(), 260), "support size": SupportSize(Pixels(), 260),
    "parzen": Parzen(0.5, 260),
}  # fmt: skip


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_takes_its_features_to_the_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers(estimates: list[Estimate]) -> list[float]:
        made = [(one.value, one.stderr, one.ci_low, one.ci_high) for one in estimates]
        return [math.nan if number is None else number for one in made for number in one]

    metric, given = METRICS[name], examples("moments" in name)
    monkeypatch.setattr(device, "on_fastest", lambda: torch.device("cpu"))
    here = metric.compute(given)
    moved: list[torch.device] = []

    def fastest() -> torch.device:
        moved.append(ELSEWHERE)
        return ELSEWHERE

    monkeypatch.setattr(device, "on_fastest", fastest)
    with second_device():
        there = metric.compute(given)
    assert moved
    assert numbers(there) == pytest.approx(numbers(here), rel=1e-9, abs=1e-12, nan_ok=True)


def test_the_classifier_is_trained_on_a_second_device_with_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "MIN_EXAMPLES", 300)
    monkeypatch.setattr(classifier, "MIN_EPOCHS", 2)
    data = toy()
    config = classifier._config(data)
    here = classifier._train(data, config, None, torch.device("cpu"))
    with second_device(), torch.enable_grad():
        there = classifier._train(data, config, None, ELSEWHERE)
        assert {one.device for one in there.state_dict().values()} == {ELSEWHERE}
        accuracy = classifier._accuracy(there, data, ELSEWHERE)
        weights = {key: one.cpu() for key, one in there.state_dict().items()}
    assert accuracy == classifier._accuracy(here, data, torch.device("cpu"))
    assert all(torch.equal(weights[key], one) for key, one in here.state_dict().items())


def test_tensors_of_two_devices_do_not_meet() -> None:
    with second_device() as sent:
        x = sent(X)
        assert x.device == ELSEWHERE
        assert torch.equal((x + 1).cpu(), X + 1)
        assert torch.equal(x[torch.arange(3)].cpu(), X[:3])
        with pytest.raises(RuntimeError, match="two devices"):
            x + X
        with pytest.raises(RuntimeError, match="two devices"):
            X[sent(torch.arange(3))]
        with pytest.raises(RuntimeError, match="two devices"):
            torch.cat([torch.zeros(1, 20), x])


def test_features_go_to_a_gpu_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        assert all(one.device.type == "cpu" for one in on_gpu(X, Y))
    monkeypatch.setattr(device, "on_fastest", lambda: ELSEWHERE)
    assert [one.device for one in on_gpu(X, Y)] == [ELSEWHERE, ELSEWHERE]
    monkeypatch.setattr(device, "on_fastest", lambda: torch.device("cuda"))
    monkeypatch.setattr(device, "_free", lambda _: device.BLOCKS + 8 * 8 * (X.numel() + Y.numel()) - 1)
    assert [one is same for one, same in zip(on_gpu(X, Y), (X, Y), strict=True)] == [True, True]


def flags() -> list[bool]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    return [products.allow_tf32, convolutions.allow_tf32, convolutions.deterministic, convolutions.benchmark]


def set_flags(values: list[bool]) -> None:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    products.allow_tf32, convolutions.allow_tf32, convolutions.deterministic, convolutions.benchmark = values


@pytest.mark.parametrize("before", [[True, True, False, True], [False, False, True, False]])
def test_full_float32_holds_inside_its_block_alone(before: list[bool]) -> None:
    kept = flags()
    try:
        set_flags(before)
        with full_float32():
            assert flags() == [False, False, True, False]
        assert flags() == before
    finally:
        set_flags(kept)


def test_bounds_of_distances_are_never_computed_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, seen = flags(), []

    def watched(*given: Any, **settings: Any) -> Tensor:
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return product(*given, **settings)

    product = torch.addmm
    monkeypatch.setattr(torch, "addmm", watched)
    try:
        set_flags([True, True, False, False])
        nearest(X, Y)
    finally:
        set_flags(kept)
    assert seen
    assert not any(seen)
