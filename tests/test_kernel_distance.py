"""Kernel distance: enumeration of all pairs, a peer, no bias, and its standard error against simulation."""

import math
from dataclasses import astuple
from functools import partial

import pytest
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from torch import Generator, Tensor
from torchmetrics.image.kid import poly_mmd

from bench.evaluation.evaluate import evaluate
from bench.metrics import pairs
from bench.metrics.kernel_distance import KID, MMD, kernel_distance
from bench.metrics.kernels import cubic, gaussian
from bench.schema import Status


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(x: Tensor, y: Tensor) -> float:
    n, m, d = len(x), len(y), x.shape[1]
    total = 0.0
    for a, b, count in ((x, x, n * (n - 1)), (y, y, m * (m - 1)), (x, y, n * m)):
        for i in range(len(a)):
            for j in range(len(b)):
                if a is b and i == j:
                    continue
                total += (1 if a is b else -2) * (float(a[i] @ b[j]) / d + 1) ** 3 / count
    return total


@pytest.mark.parametrize(("n", "m"), [(7, 5), (2, 9), (12, 12)])
@pytest.mark.parametrize("at_once", [1, 30, 2**26])
def test_every_pair_counts_once(n: int, m: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs.blocks, "__defaults__", (at_once,))
    x, y = randn(n, 3, seed=1), 1 + randn(m, 3, seed=2)
    assert kernel_distance(x, y).value == pytest.approx(by_definition(x, y), rel=1e-11)
    assert kernel_distance(y, x).value == pytest.approx(by_definition(x, y), rel=1e-11)


@pytest.mark.parametrize("shift", [0.0, 0.5, 100.0])
def test_a_peer_has_the_same_value(shift: float) -> None:
    x, y = randn(60, 16, seed=1), shift + randn(60, 16, seed=2)
    theirs = poly_mmd(x, y, degree=3, gamma=None, coef=1.0)
    assert kernel_distance(x, y).value == pytest.approx(float(theirs), rel=1e-8)


def test_it_is_unbiased_at_any_number_of_examples() -> None:
    def values(n: int, m: int, times: int) -> Tensor:
        pairs = ((randn(n, 4, seed=s), 0.5 + randn(m, 4, seed=s + 9999)) for s in range(times))
        return torch.tensor([kernel_distance(x, y).value for x, y in pairs])

    few, many = values(5, 8, 2000), values(500, 500, 20)
    gap = few.mean() - many.mean()
    error = math.hypot(few.std() / math.sqrt(len(few)), many.std() / math.sqrt(len(many)))
    assert abs(float(gap)) < 3.5 * error
    assert float(many.mean()) > 10 * error, "the distance is not lost in the noise"


@pytest.mark.parametrize(("shift", "n", "m"), [(0.0, 60, 60), (0.4, 80, 50)])
def test_its_standard_error_is_that_of_fresh_examples(shift: float, n: int, m: int) -> None:
    found = [kernel_distance(randn(n, 4, seed=s), shift + randn(m, 4, seed=s + 5000)) for s in range(400)]
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([math.hypot(one.stderr_x, one.stderr_y) for one in found])
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1, abs=0.12)


def test_the_error_of_a_gaussian_kernel_holds_that_of_its_width() -> None:
    """Of real examples in few clusters, whose median distance jumps, and samples that have collapsed to one of them."""
    found = []
    for seed in range(100):
        generator = Generator().manual_seed(seed)
        cell = torch.randint(25, (200,), generator=generator)
        real = torch.stack([cell // 5, cell % 5], 1) + 0.05 * torch.randn(200, 2, generator=generator)
        samples = 0.01 * torch.randn(200, 2, generator=generator)
        (one,) = evaluate(examples(spec(2), real=real, samples=samples), {"it": MMD(FakeRecipe(), ALL)})["it"]
        found.append((one.value or 0.0, one.stderr or 0.0))
    values, errors = torch.tensor(found, dtype=torch.float64).T
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1, abs=0.2)


def test_a_side_that_does_not_vary_adds_nothing() -> None:
    found = kernel_distance(randn(50, 3), torch.ones(40, 3))
    assert found.stderr_x > 0
    assert found.stderr_y == pytest.approx(0, abs=1e-12)


def test_the_kernel() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert cubic(a, b).tolist() == [[6.5**3, 1.0]]


def test_rows_and_failures() -> None:
    x = randn(30, 4).float()
    (row,) = evaluate(examples(spec(4), real=x, samples=x + 1), {"it": KID(FakeRecipe(), ALL)})["it"]
    assert (row.status, row.n_real, row.n_fake, row.extractor) == (Status.OK, 30, 30, "toy-cnn")
    assert row.stderr == pytest.approx(math.hypot(row.stderr_test or 0, row.stderr_draws or 0))
    for samples, reason in (
        (x[:1], "needs at least 2"), (1e38 * x.sign() * x.abs().clamp(0.5, 1), "too large"),
    ):  # fmt: skip
        (row,) = evaluate(examples(spec(4), real=x, samples=samples), {"it": KID(FakeRecipe(), ALL)})["it"]
        assert row.status is Status.FAILED
        assert reason in row.reason


def test_a_gaussian_kernel_by_definition_and_in_closed_form() -> None:
    x, y = randn(40, 3, seed=1), 1 + randn(30, 3, seed=2)
    every = [torch.cdist(a, b).square().div(-2 * 1.5**2).exp() for a, b in ((x, x), (y, y), (x, y))]
    within = [(k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in every[:2]]
    found = kernel_distance(x, y, partial(gaussian, sigma=1.5))
    assert found.value == pytest.approx(float(sum(within) - 2 * every[2].mean()), rel=1e-10)
    # Of N(0, I) and N(m, I) in D dimensions: 2 (s / (s + 2))^(D/2) (1 - exp(-|m|^2 / 2 (s + 2))), s = sigma^2.
    s = 1.5**2
    truth = 2 * (s / (s + 2)) ** 1.5 * (1 - math.exp(-3 / (2 * (s + 2))))
    made = [
        kernel_distance(randn(150, 3, seed=i), 1 + randn(150, 3, seed=i + 500), partial(gaussian, sigma=1.5)).value
        for i in range(30)
    ]
    assert sum(made) / 30 == pytest.approx(truth, rel=0.03)


def test_mmd_does_not_depend_on_unit_or_place() -> None:
    x, y = randn(60, 4, seed=1).float(), (0.5 + randn(50, 4, seed=2)).float()
    rows = [
        evaluate(examples(spec(4), real=a, samples=b), {"it": MMD(FakeRecipe(), ALL)})["it"][0]
        for a, b in ((x, y), (1000 + 64 * x, 1000 + 64 * y))
    ]
    assert rows[0].value == pytest.approx(rows[1].value, rel=1e-3)
    (row,) = evaluate(examples(spec(4), real=x[:1].expand(60, 4), samples=y), {"it": MMD(FakeRecipe(), ALL)})["it"]
    assert "there is no width" in row.reason


@pytest.mark.parametrize("at_once", [1, 30])
def test_blocks_move_no_error(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = randn(12, 3, seed=1), 1 + randn(9, 3, seed=2)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(pairs.blocks, "__defaults__", (at_once,))
    assert astuple(kernel_distance(x, y)) == pytest.approx(astuple(whole), rel=1e-9)


def test_the_width_of_the_kernel_is_that_of_the_data() -> None:
    x, y = randn(60, 4, seed=1).float(), 3 * randn(50, 4, seed=2).float()
    (row,) = evaluate(examples(spec(4), real=x, samples=y), {"it": MMD(FakeRecipe(), ALL)})["it"]
    sigma = float(torch.pdist(x.double()).median())
    assert row.value == pytest.approx(1000 * kernel_distance(x, y, partial(gaussian, sigma=sigma)).value, rel=1e-6)
