"""Fréchet distance: closed forms, a peer, degenerate covariances; its standard error against simulation."""

import math
from statistics import NormalDist

import pytest
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from torch import Generator, Tensor
from torchmetrics.image.fid import _compute_fid

from bench.evaluation.evaluate import evaluate
from bench.metrics.frechet import FID, frechet_distance, frechet_distance_from_features, frechet_stderr
from bench.schema import Status

NORMAL_975 = NormalDist().inv_cdf(0.975)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def covariance(dim: int, seed: int) -> Tensor:
    a = randn(dim, 2 * dim, seed=seed)
    return a @ a.T / (2 * dim)


def exact_features(n: int, mean: Tensor, cov: Tensor, seed: int) -> Tensor:
    """Features whose sample mean and covariance are the given ones."""
    x = randn(n, len(mean), seed=seed)
    x = x - x.mean(dim=0)
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False).T
    return x @ torch.linalg.cholesky(cov).T + mean


def test_commuting_covariances() -> None:
    basis = torch.linalg.qr(randn(6, 6)).Q
    a, b = torch.arange(1.0, 7).double(), torch.tensor([4, 1, 9, 2, 0.5, 3]).double()
    mean1, mean2 = randn(6, seed=1), randn(6, seed=2)
    expected = (mean1 - mean2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    found = frechet_distance(mean1, basis * a @ basis.T, mean2, basis * b @ basis.T)
    assert found == pytest.approx(expected.item(), rel=1e-12)


def test_linear_transport_between_covariances() -> None:
    # y = A x with A symmetric and positive is the optimal map, so the cost is tr((A - I) S (A - I)).
    s, a, eye = covariance(8, 0), covariance(8, 1), torch.eye(8).double()
    expected = ((a - eye) @ s @ (a - eye)).trace().item()
    zero = torch.zeros(8).double()
    assert frechet_distance(zero, s, zero, a @ s @ a) == pytest.approx(expected, rel=1e-11)
    assert frechet_distance(zero, a @ s @ a, zero, s) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("rank", [3, 8])
def test_covariances_of_low_rank(rank: int) -> None:
    # On the subspace they share the distance is that of the full-rank blocks.
    s, t = covariance(3, 0), covariance(rank, 1)
    wide1, wide2 = torch.zeros(10, 10).double(), torch.zeros(10, 10).double()
    wide1[:3, :3], wide2[:rank, :rank] = s, t
    zero = torch.zeros(10).double()
    block = torch.zeros(rank, rank).double()
    block[:3, :3] = s
    values = torch.linalg.eigvals(block @ t).real.clamp_min(0)
    expected = (s.trace() + t.trace() - 2 * values.sqrt().sum()).item()
    assert frechet_distance(zero, wide1, zero, wide2) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(zero, wide2, zero, wide1) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_features_with_exact_moments(shift: float) -> None:
    mean1, mean2 = randn(5, seed=1) + shift, randn(5, seed=2) + shift
    cov1, cov2 = covariance(5, 3), covariance(5, 4)
    x, y = exact_features(200, mean1, cov1, 5), exact_features(300, mean2, cov2, 6)
    assert frechet_distance_from_features(x, y) == pytest.approx(frechet_distance(mean1, cov1, mean2, cov2), rel=1e-9)


@pytest.mark.parametrize(("n", "dim"), [(500, 64), (40, 64), (64, 64), (65, 64), (2, 3), (100, 1)])
def test_identical_sets_are_at_distance_zero_and_float32_is_accepted(n: int, dim: int) -> None:
    x = (1e3 + randn(n, dim)).float()
    assert abs(frechet_distance_from_features(x, x)) < 1e-9
    assert math.hypot(*frechet_stderr(x, x)) < 1e-6


def test_fewer_examples_than_dimensions_against_the_gram_matrices() -> None:
    x, y = randn(20, 50), 2 * randn(30, 50, seed=1) + 1
    x_c, y_c = x - x.mean(dim=0), y - y.mean(dim=0)
    # Nonzero eigenvalues of S1 S2 are those of the small matrix X Y^T Y X^T / ((n-1)(m-1)).
    small = x_c @ y_c.T @ y_c @ x_c.T / (19 * 29)
    root = torch.linalg.eigvalsh(small).clamp_min(0).sqrt()[1:].sum()  # the centred direction is an exact zero
    expected = (x.mean(dim=0) - y.mean(dim=0)).square().sum() + x_c.square().sum() / 19 + y_c.square().sum() / 29
    assert frechet_distance_from_features(x, y) == pytest.approx((expected - 2 * root).item(), rel=1e-9)


def test_constant_fakes_leave_the_spread_of_the_real() -> None:
    real, fake = randn(300, 16), torch.full((200, 16), 2.0).double()
    expected = (real.mean(dim=0) - 2).square().sum() + real.var(dim=0).sum()
    assert frechet_distance_from_features(real, fake) == pytest.approx(expected.item(), rel=1e-9)
    assert math.isfinite(math.hypot(*frechet_stderr(real, fake)))


def test_peer() -> None:
    x, y = randn(400, 32), 1.3 * randn(500, 32, seed=1) @ covariance(32, 2) + 0.2
    peer = _compute_fid(x.mean(dim=0), torch.cov(x.T), y.mean(dim=0), torch.cov(y.T)).item()
    assert frechet_distance_from_features(x, y) == pytest.approx(peer, rel=1e-9)


def influence_by_autograd(side: Tensor, other: Tensor) -> Tensor:
    """First-order change of the distance with the weight of each example of ``side``, up to a constant: (N,)."""
    cov = torch.cov(side.T).requires_grad_()
    factor = torch.linalg.cholesky(torch.cov(other.T))
    distance = cov.trace() - 2 * torch.linalg.eigvalsh(factor.T @ cov @ factor).sqrt().sum()
    (slope,) = torch.autograd.grad(distance, cov)
    centred = side - side.mean(dim=0)
    shift = side.mean(dim=0) - other.mean(dim=0)
    return 2 * centred @ shift + ((centred @ slope) * centred).sum(dim=1)


def test_standard_error_against_the_derivative() -> None:
    x, y = randn(60, 4) @ covariance(4, 1), randn(80, 4, seed=2) + 0.5
    expected = [(influence_by_autograd(*sides).var() / n).sqrt().item() for sides, n in (((x, y), 60), ((y, x), 80))]
    assert frechet_stderr(x, y) == pytest.approx(tuple(expected), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "dim"), [(300, 500, 6), (500, 150, 16)])
def test_standard_error_against_simulation(n: int, m: int, dim: int) -> None:
    transform = covariance(dim, 1) + 0.5 * torch.eye(dim)
    values, errors = [], []
    for seed in range(250):
        x, y = randn(n, dim, seed=seed), randn(m, dim, seed=10_000 + seed) @ transform + 0.3
        values.append(frechet_distance_from_features(x, y))
        errors.append(math.hypot(*frechet_stderr(x, y)))
    assert sum(errors) / len(errors) == pytest.approx(torch.tensor(values).std().item(), rel=0.15)


def test_metric_row() -> None:
    real, samples = randn(50, 4), randn(70, 4, seed=1) + 1
    (estimate,) = FID(FakeRecipe(), ALL).compute(examples(spec(4), real=real, samples=samples))
    assert (estimate.info.name, estimate.info.title, estimate.info.higher_is_better) == (
        "fid[toy-cnn]", "FID[toy-cnn]", False,
    )  # fmt: skip
    assert (estimate.n_real, estimate.n_fake, estimate.extractor, estimate.extractor_hash) == (50, 70, "toy-cnn", "abc")
    assert estimate.value == frechet_distance_from_features(real.float(), samples.float())
    assert (estimate.stderr_test, estimate.stderr_draws) == frechet_stderr(real.float(), samples.float())
    assert estimate.stderr == math.hypot(*frechet_stderr(real.float(), samples.float()))
    assert estimate.ci_low == pytest.approx(estimate.value - NORMAL_975 * estimate.stderr, rel=1e-6)
    assert estimate.ci_high == pytest.approx(estimate.value + NORMAL_975 * estimate.stderr, rel=1e-6)


def test_the_interval_of_a_distance_ends_at_zero() -> None:
    real = randn(60, 2)
    (estimate,) = FID(FakeRecipe(), ALL).compute(examples(spec(2), real=real, samples=randn(60, 2, seed=1)))
    assert estimate.value is not None
    assert estimate.stderr is not None
    assert estimate.value < NORMAL_975 * estimate.stderr
    assert estimate.ci_low == 0


@pytest.mark.parametrize("samples", [torch.zeros(1, 4), torch.full((5, 4), math.nan)])
def test_one_sample_or_nan_fails_with_a_reason(samples: Tensor) -> None:
    asked = examples(spec(4), real=randn(50, 4).float(), samples=samples)
    (estimate,) = evaluate(asked, {"fid": FID(FakeRecipe(), ALL)})["fid"]
    assert estimate.status is Status.FAILED
    assert estimate.reason
