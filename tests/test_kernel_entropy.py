"""Kernel entropies: eigenvalues, known numbers of modes, the order of copies."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from torch import Generator, Tensor

from bench.evaluation.evaluate import evaluate
from bench.metrics.kernel_entropy import KernelEntropy, rke, vendi
from bench.metrics.width import median_distance


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def test_rke_by_eigenvalues() -> None:
    x = randn(40, 3)
    kernel = (-torch.cdist(x, x).square() / (2 * 0.7**2)).exp() / 40
    values = torch.linalg.eigvalsh(kernel)
    assert rke(x, 0.7)[0] == pytest.approx(float(1 / values.square().sum()), rel=1e-10)
    entropy = -float((values.clamp_min(1e-300) * values.clamp_min(1e-300).log()).sum())
    assert vendi(x, 0.7) == pytest.approx(math.exp(entropy), rel=1e-8)


@pytest.mark.parametrize("modes", [1, 4, 10])
def test_far_modes_are_counted(modes: int) -> None:
    x = 1e3 * torch.arange(modes)[:, None].repeat(20, 2).double()
    assert rke(x, 1.0)[0] == pytest.approx(modes)
    assert vendi(x, 1.0) == pytest.approx(modes)


def test_modes_of_unequal_weight() -> None:
    x = 1e3 * torch.tensor([[0.0]] * 30 + [[1.0]] * 10)
    assert rke(x, 1.0)[0] == pytest.approx(1 / (0.75**2 + 0.25**2))
    assert vendi(x, 1.0) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_the_error_is_that_of_fresh_samples() -> None:
    found = [rke(randn(200, 2, seed=s), 1.0) for s in range(200)]
    values, errors = torch.tensor([v for v, _ in found]), torch.tensor([e for _, e in found])
    assert float(errors.mean() / values.std()) == pytest.approx(1, abs=0.2)


def test_as_many_real_examples_as_samples_by_a_quarter_of_the_median_distance() -> None:
    """Corners of a simplex, all at one distance d: K^2 = exp(-(d / (d / 4))^2) between different ones."""
    corners = torch.eye(90)
    context = examples(spec(90), real=corners, samples=corners[:30])
    of_fake, of_vendi, real = evaluate(context, {"it": KernelEntropy(FakeRecipe(), ALL)})["it"]
    expected = 30 / (1 + 29 * math.exp(-16))
    assert of_fake.value == pytest.approx(expected)
    assert real.value == pytest.approx(expected), "of 30, not of 90"
    assert of_vendi.value == pytest.approx(30, rel=0.01)
    assert (of_fake.n_fake, real.n_fake) == (30, 30)


def clusters(n: int, seed: int) -> Tensor:
    """Of a grid of 25, whose distances come in few sizes."""
    generator = Generator().manual_seed(seed)
    cell = torch.randint(25, (n,), generator=generator)
    return torch.stack([cell // 5, cell % 5], 1) + 0.05 * torch.randn(n, 2, generator=generator)


@pytest.mark.parametrize(
    ("real", "rel"),
    [
        (lambda seed: randn(120, 8, seed=seed), 0.2),
        (lambda seed: randn(120, 2, seed=seed), 0.2),
        (lambda seed: clusters(200, seed), 0.3),
    ],
)
def test_the_error_of_the_real_examples_is_that_of_fresh_ones_bandwidth_included(
    real: Callable[[int], Tensor], rel: float
) -> None:
    found = []
    for seed in range(120):
        x = real(100 + seed).float()
        (*_, one) = evaluate(examples(spec(x.shape[1]), real=x, samples=x), {"it": KernelEntropy(FakeRecipe(), 200)})[
            "it"
        ]
        found.append((one.value or 0.0, one.stderr or 0.0))
    values, errors = torch.tensor(found, dtype=torch.float64).T
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1, rel=rel)


def test_the_median_of_few_distances_jumps_and_its_error_says_so() -> None:
    found = [median_distance(clusters(200, seed)) for seed in range(150)]
    spread = torch.tensor([one.value for one in found]).log().std().item()
    assert sum(one.variance() for one in found) / len(found) == pytest.approx(spread**2, rel=0.4)


def test_equal_distances_have_no_error() -> None:
    found = median_distance(torch.eye(12))
    assert (found.value, found.variance()) == (pytest.approx(math.sqrt(2)), 0.0)
