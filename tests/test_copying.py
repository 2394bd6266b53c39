"""Tests of copying: planted copies are counted, fresh examples are not, hidden copies are found."""

import math

import pytest
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from torch import Generator, Tensor

from bench.data.base import Data, Split
from bench.evaluation.evaluate import evaluate
from bench.metrics.copying import Copying, authentic, copies, copying_statistic, nearest


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


TRAIN, REAL, FRESH = randn(800, 5, seed=1), randn(400, 5, seed=2), randn(400, 5, seed=3)


def distances(samples: Tensor) -> tuple[Tensor, Tensor]:
    return nearest(samples, TRAIN).distance, nearest(REAL, TRAIN).distance


def test_the_nearest_by_enumeration() -> None:
    x = 1e3 + randn(30, 4, seed=4)
    reference = 1e3 + randn(50, 4, seed=5)
    found = nearest(x, reference)
    every = (x[:, None] - reference[None]).norm(dim=2)
    assert torch.equal(found.index, every.argmin(1))
    assert torch.allclose(found.distance, every.min(1).values, rtol=1e-9)
    own = nearest(reference[3:], reference, itself=torch.arange(3, 50))
    every = (reference[:, None] - reference[None]).norm(dim=2).fill_diagonal_(math.inf)[3:]
    assert torch.equal(own.index, every.argmin(1))


def apart(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([(row.double() - y.double()).norm(dim=1) for row in x])


CLOSE = {
    "mean 1e3": lambda x, y: (x.float() + 1e3, y.float() + 1e3),
    "tiny differences": lambda x, y: (1 + 1e-9 * x, 1 + 1e-9 * y),
    "identical rows": lambda x, y: (x[:1].expand(len(x), -1), x[:1].expand(len(y), -1)),
    "two clusters far apart": lambda x, y: (x + 1e4 * (x[:, :1] > 0), y + 1e4 * (y[:, :1] > 0)),
    "one far outlier": lambda x, y: (torch.cat([x, 1e25 * x[:1]]), torch.cat([y, 1e20 * y[:1]])),
    "a far query": lambda x, y: (torch.cat([x, 1e25 * x[:1]]), y),
    "integers": lambda x, y: ((20 * x).round().to(torch.uint8), (20 * y).round().to(torch.uint8)),
    "small numbers": lambda x, y: (1e-30 * x, torch.cat([1e-30 * y, y[:2]])),
}


@pytest.mark.parametrize("kind", CLOSE)
def test_the_nearest_are_those_of_float64(kind: str) -> None:
    x, reference = CLOSE[kind](randn(150, 6, seed=6), randn(700, 6, seed=7))
    found, every = nearest(x, reference), apart(x, reference)
    assert torch.allclose(found.distance, every.min(1).values, rtol=1e-12, atol=0)
    assert torch.equal(found.index, every.argmin(1)) or kind in ("tiny differences", "one far outlier")
    itself = torch.arange(len(reference) - 100, len(reference))
    found = nearest(reference[itself], reference, itself=itself)
    every = apart(reference[itself], reference)
    every[torch.arange(100), itself] = math.inf
    assert torch.allclose(found.distance, every.min(1).values, rtol=1e-12, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_planted_copies_are_counted(share: float) -> None:
    n = int(400 * share)
    y = torch.cat([TRAIN[:n], FRESH[n:]])
    of_samples, of_real = distances(y)
    assert float(of_samples[:n].max() if n else 0.0) == 0, "a copy is at distance 0"
    found, error = copies(of_samples, of_real)
    assert found == pytest.approx(share, abs=0.03)
    assert error < 0.03
    real = authentic(nearest(TRAIN[:n], TRAIN), TRAIN)
    assert not bool(real.any()), "no copy is authentic"


def test_copies_are_counted_where_test_examples_equal_training_examples_too() -> None:
    real = torch.cat([TRAIN[:6], REAL[6:]])  # 1.5 % of the test split: the limit is 0
    of_real = nearest(real, TRAIN).distance
    assert copies(nearest(TRAIN[100:300], TRAIN).distance, of_real)[0] == pytest.approx(1 - 6 / 400)
    assert copies(nearest(FRESH, TRAIN).distance, of_real)[0] == pytest.approx(-6 / 400)


def test_half_of_fresh_examples_are_authentic() -> None:
    share = float(authentic(nearest(FRESH, TRAIN), TRAIN).double().mean())
    assert 0.4 < share < 0.65


def test_the_statistic_is_a_standard_normal_for_fresh_examples_and_negative_for_copies() -> None:
    values = []
    for s in range(200):
        train = randn(100, 2, seed=s)
        of_samples = nearest(randn(60, 2, seed=s + 1000), train).distance
        of_real = nearest(randn(80, 2, seed=s + 2000), train).distance
        values.append(copying_statistic(of_samples, of_real))
    scores = torch.tensor(values)
    assert abs(float(scores.mean())) < 0.25
    assert float(scores.std()) == pytest.approx(1, abs=0.15)
    of_samples, of_real = distances(TRAIN[:400])
    assert copying_statistic(of_samples, of_real) < -15
    of_samples, of_real = distances(3 * FRESH)
    assert copying_statistic(of_samples, of_real) > 10


def test_copies_behind_noise_pass_the_statistic_and_are_counted_all_the_same() -> None:
    y = torch.cat([TRAIN[:40], 5 * FRESH[40:]])
    of_samples, of_real = distances(y)
    assert copying_statistic(of_samples, of_real) > 3
    assert copies(of_samples, of_real)[0] == pytest.approx(0.1, abs=0.02)


def test_what_lies_as_near_is_not_authentic() -> None:
    """Training examples that stand twice, and a sample in the middle of two neighbours' distance."""
    train = torch.tensor([[0.0], [0.0], [10.0], [11.0]])
    samples = torch.tensor([[0.0], [9.0], [8.5]])  # a copy; as near to 10 as 11 is; farther
    assert authentic(nearest(samples, train), train).tolist() == [False, False, True]


def test_rows_of_copies_and_of_samples_far_away() -> None:
    found = {}
    for name, samples in {"copies": TRAIN[:200], "far": 9 + FRESH}.items():
        context = examples(spec(5), real=REAL, samples=samples)
        context.data = Data(spec(5), Split(TRAIN), Split(REAL[:0]), Split(REAL))
        rows = evaluate(context, {"it": Copying(FakeRecipe(), ALL)})["it"]
        found[name] = {one.info.name.partition("[")[0]: one for one in rows}
    copied, far = found["copies"], found["far"]
    assert (copied["authenticity"].value, far["authenticity"].value) == (0, 1)
    assert (copied["copying_statistic"].value or 0) < -10 < 10 < (far["copying_statistic"].value or 0)
    assert copied["copies"].value == pytest.approx(0.99, abs=0.005)
    assert (copied["copies"].n_real, copied["copies"].n_fake) == (400, 200)
