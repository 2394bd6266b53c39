"""Sliced Wasserstein distance: closed forms, a peer in one dimension, errors against simulation."""

import math

import pytest
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor

from bench.evaluation.evaluate import evaluate
from bench.metrics.sliced import MIND, sliced_wasserstein


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def directions() -> Generator:
    return Generator().manual_seed(0)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (12, 18), (7, 5)])
def test_one_dimension_is_optimal_assignment(n: int, m: int) -> None:
    x, y = randn(n, 1, seed=1), 1 + 2 * randn(m, 1, seed=2)
    a, b = x.repeat_interleave(m, 0), y.repeat_interleave(n, 0)  # n m equal pieces on either side
    cost = (a - b.T).square()
    rows, columns = linear_sum_assignment(cost.numpy())
    expected = float(cost[rows, columns].mean())
    assert sliced_wasserstein(x, y, 3, directions()).value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dim", [1, 3, 70])
def test_a_shift_costs_its_square_over_the_dimension(dim: int) -> None:
    x, shift = randn(40, dim), randn(dim, seed=1)
    found = sliced_wasserstein(x, x + shift, 4000, directions()).value
    assert found == pytest.approx(float(shift.square().sum()) / dim, rel=0.1)


def test_equal_sets_are_at_distance_zero() -> None:
    x = 1e3 + randn(50, 5)
    found = sliced_wasserstein(x, x.flip(0), 100, directions())
    assert (found.value, found.stderr_x, found.stderr_y) == pytest.approx((0, 0, 0), abs=1e-9)


def test_its_standard_error_is_that_of_fresh_examples() -> None:
    found = [
        sliced_wasserstein(randn(100, 3, seed=s), 1 + 1.5 * randn(80, 3, seed=s + 5000), 50, directions())
        for s in range(200)
    ]
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([math.hypot(one.stderr_x, one.stderr_y) for one in found])
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1, abs=0.15)


def test_rows() -> None:
    x = randn(30, 4).float()
    (row,) = evaluate(examples(spec(4), real=x, samples=x + 1), {"it": MIND(FakeRecipe(), ALL, 50)})["it"]
    assert row.value is not None
    assert row.value == pytest.approx(12 * 1.0, rel=0.3), "3 D times |shift|^2 / D with |shift|^2 = 4"
    (again,) = evaluate(examples(spec(4), real=x, samples=x + 1, seed=7), {"it": MIND(FakeRecipe(), ALL, 50)})["it"]
    assert again.value == row.value, "directions are part of the metric, not of the run"
