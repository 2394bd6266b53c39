"""Precision, recall, density, coverage and their clipped versions: by definition, at ideal and bad samples."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from scipy import stats
from torch import Generator, Tensor

from bench.evaluation.evaluate import evaluate
from bench.metrics.manifold import NAMES, Manifold, _expected_shares, clipped_coverage, manifold_scores
from bench.schema import Status


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(x: Tensor, y: Tensor, k: int) -> dict[str, float]:
    """With whole matrices, as the papers have it."""

    def radii(a: Tensor) -> Tensor:
        return torch.cdist(a, a, compute_mode="donot_use_mm_for_euclid_dist").sort(1).values[:, k]

    d = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")  # (N, M)
    r, s = radii(x), radii(y)
    inside = d <= r[:, None]
    clipped = r.clamp(max=float(r.quantile(0.5)))
    own = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") <= clipped[:, None]
    own.fill_diagonal_(False)
    share = ((d <= clipped[:, None]).sum(0) / k).clamp(max=1).mean()
    ideal = (own.sum(0) / k).clamp(max=1).mean()
    return {
        "precision": float(inside.any(0).double().mean()),
        "recall": float((d <= s[None]).any(1).double().mean()),
        "density": float(inside.sum()) / (k * len(y)),
        "coverage": float(inside.any(1).double().mean()),
        "clipped_density": min(1.0, float(share / ideal)),
        "clipped_coverage": clipped_coverage(float((inside.sum(1) / k).clamp(max=1).mean()), len(x), len(y), k),
    }


@pytest.mark.parametrize("kind", ["near ties", "copies", "tiny", "huge", "one outlier"])
def test_values_are_those_of_float64(kind: str) -> None:
    # What float32 cannot tell apart is compared in float64.
    x, y = randn(150, 40, seed=1), 0.7 * randn(120, 40, seed=2)
    if kind == "near ties":  # points of a grid, moved by less than float32 holds, far from 0
        x, y = (100 + side.sign() + 1e-7 * randn(*side.shape, seed=3) for side in (x[:, :6], y[:, :6]))
    elif kind == "copies":
        x, y = x[torch.arange(150) % 9], y[torch.arange(120) % 7] + 1
    elif kind in ("tiny", "huge"):
        x, y = (side * (1e-30 if kind == "tiny" else 1e25) for side in (x, y))
    else:
        x[0] = 1e12
    found, expected = manifold_scores(x, y, 4)[0], by_definition(x, y, 4)
    for name in NAMES:
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-9), name


@pytest.mark.parametrize(("n", "m", "dim", "k"), [(90, 70, 3, 5), (60, 110, 16, 3), (80, 80, 2, 1)])
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_the_definitions(n: int, m: int, dim: int, k: int, far: float) -> None:
    x, y = far + randn(n, dim, seed=1), far + 0.3 + 0.8 * randn(m, dim, seed=2)
    found, _, _ = manifold_scores(x.float().double(), y.float().double(), k)
    expected = by_definition(x.float().double(), y.float().double(), k)
    for name in NAMES:
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-9), name


def test_a_peer_has_the_same_values() -> None:
    prdc = pytest.importorskip("prdc")
    x, y = randn(300, 8, seed=1), 0.2 + 0.9 * randn(250, 8, seed=2)
    theirs = prdc.compute_prdc(x.numpy(), y.numpy(), nearest_k=5)
    found, _, _ = manifold_scores(x, y)
    for name, value in theirs.items():
        assert getattr(found, name) == pytest.approx(float(value), abs=1e-12), name


@pytest.mark.parametrize(("n", "m", "k"), [(40, 40, 3), (50, 30, 5)])
def test_the_calibration_of_clipped_coverage(n: int, m: int, k: int) -> None:
    # Real and fake of one distribution: the samples in a ball of k of n - 1 others, by simulation in one dimension,
    # where a ball about the point 0 is an interval and only ranks matter.
    generator = np.random.default_rng(0)
    others = np.sort(generator.random((20_000, n - 1)), axis=1)[:, k - 1]
    held = (generator.random((20_000, m)) <= others[:, None]).sum(1)
    c = float(np.minimum(held / k, 1).mean())
    assert clipped_coverage(c, n, m, k) == pytest.approx(1, abs=0.05)
    assert clipped_coverage(0.0, n, m, k) == 0
    assert clipped_coverage(1.0, n, m, k) == 1


@pytest.mark.parametrize(("n", "m", "k"), [(40, 30, 5), (60, 200, 1), (41, 3, 7), (500, 50, 20)])
def test_the_expected_shares_are_those_of_the_beta_binomial(n: int, m: int, k: int) -> None:
    law = stats.betabinom.sf(np.arange(k)[:, None], np.arange(m + 1), k, n - k).mean(0)
    law[0] = 0
    np.testing.assert_allclose(_expected_shares(n, m, k), law, rtol=1e-10)


def test_clipped_scores_read_as_the_share_of_good_samples() -> None:
    x, good = randn(800, 4, seed=1), randn(800, 4, seed=2)
    for share in (1.0, 0.7, 0.4):
        bad = 50 + randn(800, 4, seed=3)
        y = torch.cat([good[: int(800 * share)], bad[int(800 * share) :]])
        found, _, _ = manifold_scores(x, y)
        assert found.clipped_density == pytest.approx(share, abs=0.06)
        assert found.clipped_coverage == pytest.approx(share, abs=0.06)


def test_one_outlier_among_the_real_examples_fools_precision_and_not_the_clipped_density() -> None:
    x = randn(200, 2, seed=1)
    x[0] = 1000.0
    y = 300 + randn(200, 2, seed=2)
    found, _, _ = manifold_scores(x, y)
    assert found.precision == 1
    assert found.clipped_density == 0


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_standard_errors_are_those_of_fresh_examples(shift: float) -> None:
    whole, errors = [], []
    for s in range(40):
        x, y = randn(150, 4, seed=s), shift + randn(150, 4, seed=s + 1000)
        value, of_real, of_fake = manifold_scores(x, y, 5, Generator().manual_seed(s))
        whole.append([getattr(value, name) for name in NAMES])
        errors.append([math.hypot(getattr(of_real, name), getattr(of_fake, name)) for name in NAMES])
    spread, error = torch.tensor(whole).std(0), torch.tensor(errors).square().mean(0).sqrt()
    for name, a, b in zip(NAMES, spread.tolist(), error.tolist(), strict=True):
        assert 0.7 < b / a < (2.5 if name == "clipped_density" else 1.35), (name, a, b)


def test_identical_constant_and_few() -> None:
    x = randn(60, 3)
    same, _, _ = manifold_scores(x, x)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    constant, _, _ = manifold_scores(x, x[:1].expand(60, 3))
    assert constant.recall <= 1 / 60
    assert constant.clipped_coverage < 0.2
    with pytest.raises(ValueError, match="at least 40"):
        manifold_scores(x, x[:39])


def test_rows_and_failures() -> None:
    x = randn(50, 4).float()
    rows = evaluate(examples(spec(4), real=x, samples=x + 0.1), {"it": Manifold(FakeRecipe(), ALL)})["it"]
    assert [row.info.name for row in rows] == [f"{name}[toy-cnn]" for name in NAMES]
    assert all(row.status is Status.OK for row in rows)
    assert all(row.info.higher_is_better is None for row in rows), "samples that crowd at a centre would win"
    rows = evaluate(examples(spec(4), real=x, samples=x[:10]), {"it": Manifold(FakeRecipe(), ALL)})["it"]
    assert {(row.status, row.reason) for row in rows} == {
        (Status.FAILED, "needs at least 40 real examples and 40 samples, not 50 and 10")
    }


def test_intervals_allow_for_errors_that_are_themselves_uncertain() -> None:
    x = randn(80, 2)
    shown = evaluate(examples(spec(2), real=x, samples=0.7 + randn(80, 2, seed=1)), {"it": Manifold(FakeRecipe(), ALL)})
    density = next(row for row in shown["it"] if row.info.name.startswith("density"))
    assert density.stderr is not None
    assert density.ci_high is not None
    assert (density.ci_high - density.value) / density.stderr == pytest.approx(2.228, abs=1e-3)  # t, 10 degrees


def test_order_does_not_matter() -> None:
    x, y = randn(70, 3, seed=1), randn(60, 3, seed=2)
    orders = itertools.product((x, x.flip(0)), (y, y.flip(0)))
    assert len({manifold_scores(a, b)[0] for a, b in orders}) == 1


@pytest.mark.parametrize("clustered", [True, False])
def test_a_row_says_where_halves_of_the_examples_score_something_else(clustered: bool) -> None:
    """Eight examples a cluster, of which halves have no five neighbours."""
    generator = Generator().manual_seed(0)
    cell = torch.randint(25, (200,), generator=generator)
    centre = 2 * torch.stack([cell // 5, cell % 5], 1) if clustered else torch.zeros(200, 2)
    real, fake = (centre + 0.1 * torch.randn(200, 2, generator=generator) for _ in range(2))
    rows = evaluate(examples(spec(2), real=real, samples=1.3 * fake + 0.5), {"it": Manifold(FakeRecipe(), ALL)})["it"]
    assert all(row.value is not None for row in rows)
    precision = rows[NAMES.index("precision")]
    assert ("halves of the examples score" in precision.reason) == clustered
