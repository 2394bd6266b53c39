"""The extrapolated Fréchet distance: the known distance of two Gaussians, its error against simulation, its limits."""

import math

import pytest
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from torch import Generator, Tensor

from bench.evaluation.evaluate import evaluate
from bench.metrics.frechet import (
    FIDInfinity,
    frechet_distance,
    frechet_distance_from_features,
    frechet_infinity,
    frechet_stderr,
)
from bench.schema import Status
from bench.seeds import derive_seed


def gaussians(n: int, m: int, dim: int, seed: int, shift: float = 0.5, spread: float = 0.1) -> tuple[Tensor, Tensor]:
    """Standard normal features, and normal features of another mean and other variances."""
    generator = Generator().manual_seed(seed)
    x, y = (torch.randn(k, dim, generator=generator, dtype=torch.float64) for k in (n, m))
    return x, y * torch.linspace(1 - spread, 1 + spread, dim) + shift * torch.eye(dim)[0]


def true_distance(dim: int, shift: float = 0.5, spread: float = 0.1) -> float:
    eye = torch.eye(dim)
    scales = torch.linspace(1 - spread, 1 + spread, dim).double()
    return frechet_distance(torch.zeros(dim), eye, shift * eye[0], torch.diag(scales**2))


def extrapolated(pair: tuple[Tensor, Tensor], seed: int = 0) -> tuple[float, float]:
    found = frechet_infinity(*pair, Generator().manual_seed(seed))
    return found.value, found.stderr


def test_the_bias_is_gone_and_the_interval_covers() -> None:
    draws = 60
    pairs = [gaussians(300, 400, 8, seed) for seed in range(draws)]
    values, errors = torch.tensor([extrapolated(pair, seed) for seed, pair in enumerate(pairs)]).T.double()
    plain = torch.tensor([frechet_distance_from_features(*pair) for pair in pairs]).double()
    truth, noise = true_distance(8), values.std().item() / math.sqrt(draws)
    assert plain.mean().item() - truth > 10 * noise, "the plain distance is biased"
    assert abs(values.mean().item() - truth) < 3 * noise
    assert errors.square().mean().sqrt().item() == pytest.approx(values.std().item(), rel=0.25)


@pytest.mark.slow
def test_coverage_of_the_interval() -> None:
    for shift, spread in ((0.5, 0.1), (1.5, 0.3)):
        truth = true_distance(8, shift, spread)
        made = [extrapolated(gaussians(300, 400, 8, seed, shift, spread), seed) for seed in range(1000)]
        assert 0.93 < sum(abs(value - truth) < 1.96 * error for value, error in made) / len(made) < 0.975


def test_a_line_through_distances_in_1_over_n_is_followed_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_a_line(x: Tensor, y: Tensor) -> float:
        return 7.0 + 30 / len(x) + 50 / len(y)

    monkeypatch.setattr("bench.metrics.frechet.frechet_distance_from_features", on_a_line)
    assert extrapolated(gaussians(40, 60, 3, 0))[0] == pytest.approx(7.0)


def test_the_error_is_at_least_that_of_the_plain_distance() -> None:
    x, y = gaussians(300, 400, 8, 0)
    found = frechet_infinity(x, y, Generator().manual_seed(0))
    assert (found.stderr_x, found.stderr_y) == pytest.approx(frechet_stderr(x, y))
    assert found.stderr_second > 0
    assert found.stderr > math.hypot(*frechet_stderr(x, y))


def test_metric_row() -> None:
    x, y = (part.float() for part in gaussians(100, 90, 4, 0))
    before = torch.get_rng_state(), x.clone(), y.clone()
    (estimate,) = FIDInfinity(FakeRecipe(), ALL).compute(examples(spec(4), real=x, samples=y))
    assert (estimate.info.name, estimate.info.higher_is_better) == ("fid_infinity[toy-cnn]", False)
    assert (estimate.n_real, estimate.n_fake, estimate.extractor_hash) == (100, 90, "abc")
    assert estimate.stderr_test is not None
    assert estimate.stderr_draws is not None
    assert estimate.stderr == pytest.approx(math.hypot(estimate.stderr_test, estimate.stderr_draws))
    assert all(torch.equal(*pair) for pair in zip(before, (torch.get_rng_state(), x, y), strict=True))


def test_too_few_examples_for_a_line_are_skipped_with_the_number() -> None:
    x, y = (part.float() for part in gaussians(100, 15, 4, 0))
    (row,) = evaluate(examples(spec(4), real=x, samples=y), {"it": FIDInfinity(FakeRecipe(), ALL)})["it"]
    assert row.status is Status.SKIPPED
    assert row.reason.startswith(
        "needs at least 16 real examples and samples, 4 for each of 4 features, not 100 and 15"
    )


def test_the_rows_parts_are_those_of_the_estimate_and_make_up_the_whole() -> None:
    x, y = (side.float() for side in gaussians(40, 60, 3, seed=1, shift=0.0))
    (row,) = evaluate(examples(spec(3), real=x, samples=y, seed=5), {"it": FIDInfinity(FakeRecipe(), ALL)})["it"]
    found = frechet_infinity(x, y, Generator().manual_seed(derive_seed(5, "fid_infinity")))
    assert found.stderr_second > 0.1 * found.stderr_y
    assert row.stderr_test == pytest.approx(found.stderr_x)
    assert row.stderr_draws == pytest.approx(math.hypot(found.stderr_y, found.stderr_second))
    assert row.stderr == pytest.approx(found.stderr)
