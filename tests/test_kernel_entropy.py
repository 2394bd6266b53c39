"""Kernel entropies: eigenvalues, known numbers of modes, the order of copies."""

import math

import pytest
import torch
from torch import Generator, Tensor

from bench.metrics.kernel_entropy import bandwidth, rke, vendi


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


def test_the_bandwidth_is_a_quarter_of_the_median_distance() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]])  # distances 1, 2, 3
    assert bandwidth(x, Generator().manual_seed(0)) == pytest.approx(0.5)
