"""Bins that differ: the published rate under equality, planted differences, the divergence in closed form, k-means."""

import math

import pytest
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from scipy import stats
from torch import Generator, Tensor

from bench.data.base import Data, Split
from bench.evaluation.evaluate import evaluate
from bench.metrics.bins import NDB, different_bins, k_means, nearest_centre
from bench.schema import Status


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def counts(p: Tensor, n: int, seed: int) -> Tensor:
    return torch.bincount(torch.multinomial(p, n, replacement=True, generator=generator(seed)), minlength=len(p))


def test_under_equality_one_cell_in_twenty_differs() -> None:
    p = torch.linspace(1, 3, 50)
    shares = torch.tensor([different_bins(counts(p, 4000, s), counts(p, 3000, s + 10**4)).share for s in range(200)])
    assert float(shares.mean()) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 10_000))


def test_the_test_and_the_divergence_by_hand() -> None:
    x, y = torch.tensor([50, 30, 20, 0]), torch.tensor([60, 80, 60, 0])
    # z of the cells: 0.5 against 0.3, 0.3 against 0.4, 0.2 against 0.3; pooled 110/300, 110/300, 80/300
    expected = [0.2 / math.sqrt(11 / 30 * 19 / 30 * 0.015), 0.1 / math.sqrt(11 / 30 * 19 / 30 * 0.015),
                0.1 / math.sqrt(8 / 30 * 22 / 30 * 0.015), 0.0]  # fmt: skip
    found = different_bins(x, y)
    assert found.share == pytest.approx(sum(z > 1.96 for z in expected) / 4)
    p, q = (0.5, 0.3, 0.2), (0.3, 0.4, 0.3)
    js = sum(
        0.5 * a * math.log(2 * a / (a + b)) + 0.5 * b * math.log(2 * b / (a + b)) for a, b in zip(p, q, strict=True)
    )
    assert found.divergence == pytest.approx(js)
    assert different_bins(x, 3 * x).divergence == pytest.approx(0, abs=1e-12)
    apart = different_bins(torch.tensor([90, 0]), torch.tensor([0, 70]))
    assert (apart.share, apart.divergence) == (1.0, pytest.approx(math.log(2)))


@pytest.mark.parametrize(("x", "y"), [((20, 980), (2, 18)), ((500, 500), (8, 32)), ((3, 37), (200, 800))])
def test_the_test_of_a_cell_is_the_chi_square_test_whatever_the_sizes(x: tuple[int, int], y: tuple[int, int]) -> None:
    differs = bool(stats.chi2_contingency([x, y], correction=False).pvalue < 0.05)
    assert different_bins(torch.tensor(x), torch.tensor(y)).share == differs


def test_the_divergences_errors_are_those_of_fresh_counts() -> None:
    p, q = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.3, 0.3])
    found = [different_bins(counts(p, 600, s), counts(q, 900, s + 10**4)) for s in range(400)]
    spread = torch.tensor([one.divergence for one in found]).std().item()
    stated = sum(math.hypot(one.stderr_x, one.stderr_y) for one in found) / len(found)
    assert stated / spread == pytest.approx(1, abs=0.12)


def test_k_means_finds_separate_clusters_and_counts_them() -> None:
    centres = 20 * torch.eye(6, dtype=torch.float64)
    label = torch.arange(600) % 6
    x = centres[label] + randn(600, 6).double()
    found = k_means(x, 6, generator(1))
    assert (found[:, None] - centres[None]).norm(dim=2).min(0).values.max() < 1
    assert sorted(torch.bincount(nearest_centre(x, found)).tolist()) == [100] * 6
    again = k_means(x, 6, generator(1))
    assert torch.equal(found, again)
    assert k_means(torch.ones(30, 2, dtype=torch.float64), 4, generator()).isfinite().all(), "equal examples"


def ndb(real: Tensor, fake: Tensor, train: Tensor) -> dict[str, float]:
    context = examples(spec(real.shape[1]), real=real, samples=fake)
    context.data = Data(spec(real.shape[1]), Split(train), Split(real[:0]), Split(real))
    made = evaluate(context, {"it": NDB(FakeRecipe(), ALL)})["it"]
    assert all(one.status is Status.OK for one in made), made[0].reason
    return {one.info.name.partition("[")[0]: one.value or 0.0 for one in made}


def test_missing_modes_are_cells_that_differ() -> None:
    means = 8 * torch.nn.functional.normalize(randn(10, 6, seed=9), dim=1)
    train, real, fake = (
        means[torch.arange(n) % 10] + randn(n, 6, seed=s) for n, s in ((2000, 1), (1000, 2), (1000, 3))
    )
    before = torch.get_rng_state()
    same = ndb(real, fake, train)
    half = ndb(real, means[torch.arange(1000) % 5] + randn(1000, 6, seed=4), train)
    assert torch.equal(before, torch.get_rng_state())
    assert same["ndb"] < 0.2 < 0.6 < half["ndb"]
    assert half["bins_js"] > 0.1 > 10 * same["bins_js"] / 4
    assert ndb(real, fake, train[:0])["ndb"] < 0.3, "without a training set"


def test_too_few_examples() -> None:
    (row, _) = evaluate(examples(spec(3), real=randn(39, 3), samples=randn(60, 3)), {"it": NDB(FakeRecipe(), ALL)})[
        "it"
    ]
    assert "at least 40" in row.reason


def test_a_centre_without_examples_stays_where_it_is() -> None:
    """Two different examples and four centres: of equal centres the first takes all."""
    x = torch.tensor([[5.0, 5.0]] * 10 + [[7.0, 8.0]] * 10, dtype=torch.float64)
    found = k_means(x, 4, generator())
    assert float(torch.cdist(found, x).amin(1).max()) == 0


def test_cells_are_those_of_the_training_split_whatever_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    train, real, fake = randn(900, 3, seed=1), randn(500, 3, seed=2), 0.4 + randn(500, 3, seed=3)
    made, seen = [], []
    monkeypatch.setattr("bench.metrics.bins.k_means", lambda x, k, g: seen.append(len(x)) or k_means(x, k, g))
    for seed in (0, 7):
        context = examples(spec(3), real=real, samples=fake, seed=seed)
        context.data = Data(spec(3), Split(train), Split(real[:0]), Split(real))
        made.append([one.value for one in evaluate(context, {"it": NDB(FakeRecipe(), ALL)})["it"]])
    assert made[0] == made[1], "cells are part of the metric, not of the run"
    assert seen == [900, 900], "from the test split, cells would fit it better than any samples"
