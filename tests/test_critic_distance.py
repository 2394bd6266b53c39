"""The neural-net distance: lower bounds of known distances, near them, and nothing where there is nothing."""

import math

import pytest
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from torch import Generator, Tensor

from bench.evaluation.evaluate import evaluate
from bench.metrics.critic_distance import NeuralNetDistance, _Lipschitz, trained_critic
from bench.schema import Estimate, Relation


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def distances(real: Tensor, fake: Tensor) -> list[Estimate]:
    return evaluate(
        examples(spec(real.shape[1]), real=real, samples=fake), {"it": NeuralNetDistance(FakeRecipe(), ALL)}
    )["it"]


def test_a_shift_has_its_known_distances() -> None:
    """W_1 of a shift by 1 is 1; the total variation of N(0, 1) and N(1, 1) is erf(1 / (2 sqrt 2))."""
    x, y = randn(800, 3, seed=1), randn(700, 3, seed=2) + torch.tensor([1.0, 0, 0])
    wasserstein, tv = distances(x, y)
    assert wasserstein.value == pytest.approx(1, abs=4 * (wasserstein.stderr or 0))
    truth = math.erf(0.5 / math.sqrt(2))
    assert truth - 0.12 < (tv.value or 0) < truth + 3 * (tv.stderr or 0)
    assert {wasserstein.relation, tv.relation} == {Relation.LOWER_BOUND}


def test_equal_distributions_and_separate_ones() -> None:
    before = torch.get_rng_state()
    for one in distances(randn(300, 10, seed=1), randn(300, 10, seed=2)):
        assert abs(one.value or 0) < 3.5 * (one.stderr or 0), "the critic's training half would show a distance"
    apart = distances(randn(100, 2, seed=1), randn(100, 2, seed=2) + 30)[1]
    assert apart.value == pytest.approx(1, abs=0.02)
    assert torch.equal(before, torch.get_rng_state())


def test_the_critic_is_lipschitz_and_the_other_bounded() -> None:
    x, y = 1000 + 50 * randn(200, 4, seed=1), 1000 + 50 * (randn(200, 4, seed=2) + 0.5)
    critic = trained_critic(x, y, generator(), bounded=False)
    assert float(critic(x).mean() - critic(y).mean()) > 45, "W_1 is 50: in units of the features, far from 0"
    a, b = 1000 + 99 * randn(500, 4, seed=3), 1000 + 99 * randn(500, 4, seed=4)
    slopes = (critic(a) - critic(b)).abs() / (a - b).norm(dim=1)
    assert 0.5 < float(slopes.max()) <= 1 + 1e-5
    values = trained_critic(x, y, generator(), bounded=True)(100 * a)
    assert float(values.min()) >= 0
    assert float(values.max()) <= 1


def test_power_iteration_approaches_the_norm() -> None:
    network = _Lipschitz(5, generator())
    for _ in range(200):
        found = network._norm(1, network.weights[1]).detach()
    assert float(found) == pytest.approx(float(torch.linalg.matrix_norm(network.weights[1].detach(), 2)), rel=1e-3)


def test_a_trained_critic_is_divided_by_the_norms_themselves() -> None:
    """One step of the power iteration may fall short, and a critic that is too steep bounds nothing."""
    network = _Lipschitz(5, generator()).eval()
    for number, weight in enumerate(network.weights):
        exact = torch.linalg.matrix_norm(weight.detach(), 2)
        assert float(network._norm(number, weight).detach()) == pytest.approx(float(exact), rel=1e-6)
