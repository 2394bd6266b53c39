"""KL by quadrature against closed forms and sampling; Wasserstein distances against enumeration and one dimension."""

import itertools
import math
from collections.abc import Callable

import pytest
import scipy.optimize
import scipy.stats
import torch
from helpers_metrics import ORIGIN, examples, spec
from helpers_models import small_data
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from bench.data.base import Data, Split
from bench.data.toy import checkerboard, eight_gaussians
from bench.errors import BrokenError, UnavailableError
from bench.evaluation.evaluate import evaluate
from bench.metrics.divergence import KLDivergence, kl_on_grid, square_grid
from bench.metrics.wasserstein import Distance, Wasserstein, potentials, wasserstein
from bench.schema import Estimate, Relation, Status
from bench.subjects.density import KnownDensity
from bench.subjects.examples import Examples

ZERO = torch.zeros(2, dtype=torch.float64)


def normal(mean: tuple[float, float], scale: float) -> MultivariateNormal:
    return MultivariateNormal(torch.tensor(mean, dtype=torch.float64), scale**2 * torch.eye(2, dtype=torch.float64))


def on_grid(p: MultivariateNormal, q: MultivariateNormal, half: float, points: int) -> tuple[Tensor, Tensor, float]:
    grid = square_grid(ZERO, half, points)
    return p.log_prob(grid), q.log_prob(grid), (2 * half / points) ** 2


@pytest.mark.parametrize(("mean", "scale"), [((0.0, 0.0), 1.0), ((0.5, -0.3), 0.8), ((1.0, 1.0), 1.3)])
def test_divergences_of_normals_are_the_closed_form(mean: tuple[float, float], scale: float) -> None:
    p, q = normal((0.0, 0.0), 1.0), normal(mean, scale)
    log_p, log_q, cell = on_grid(p, q, 12.0, 128)
    for one, two, found in ((p, q, kl_on_grid(log_p, log_q, cell)), (q, p, kl_on_grid(log_q, log_p, cell))):
        truth = float(torch.distributions.kl_divergence(one, two))
        assert found.value == pytest.approx(truth, abs=1e-10)
        assert found.error < 1e-8
        assert found.counts


@pytest.mark.parametrize("half", [2.0, 3.0, 6.0, 40.0])
@pytest.mark.parametrize("points", [8, 16, 64])
def test_the_certificate_covers_the_error(half: float, points: int) -> None:
    """Squares that cut the mass off, and grids that are too coarse."""
    p, q = normal((0.0, 0.0), 1.0), normal((0.4, 0.2), 0.5)
    log_p, log_q, cell = on_grid(p, q, half, points)
    for one, two, found in ((p, q, kl_on_grid(log_p, log_q, cell)), (q, p, kl_on_grid(log_q, log_p, cell))):
        truth = float(torch.distributions.kl_divergence(one, two))
        assert abs(found.value - truth) <= found.error + 1e-12
        if found.counts:
            assert abs(found.value - truth) <= 0.01 * max(1.0, truth)


def test_densities_of_zero_cost_nothing_or_everything() -> None:
    inside = torch.full((4, 4), math.log(1 / 16))
    half = inside.clone()
    half[:2] = -math.inf
    half[2:] = math.log(1 / 8)
    assert kl_on_grid(half, inside, 1.0).value == pytest.approx(math.log(2))
    assert kl_on_grid(inside, half, 1.0).value == math.inf


def subject(log_density: Callable[[Tensor], Tensor]) -> KnownDensity:
    return KnownDensity(log_density, ORIGIN)


def test_a_model_against_a_toy_density() -> None:
    data = eight_gaussians(n_train=10, n_val=10, n_test=4000)
    q = normal((0.2, 0.0), 2.1)
    forward, reverse, error = KLDivergence(256).compute(
        Examples(subject(lambda x: q.log_prob(x.double())), data, seed=0)
    )
    assert data.log_density is not None
    log_ratio = data.log_density(data.test.x) - q.log_prob(data.test.x.double())
    drawn = q.sample((4000,))
    back = q.log_prob(drawn) - data.log_density(drawn)
    for found, one in ((forward, log_ratio), (reverse, back)):
        assert found.value is not None
        assert abs(found.value - float(one.mean())) < 4 * float(one.std()) / math.sqrt(4000)
        assert found.ci_low is not None
        assert 0 < found.value - found.ci_low <= 0.01 * max(1.0, found.value)
        assert found.reason == ""
    assert error.value == pytest.approx(max(one.value - one.ci_low for one in (forward, reverse)))


def test_a_divergence_that_is_not_certain_says_so_and_one_that_is_all_error_fails() -> None:
    data = eight_gaussians(n_train=10, n_val=10, n_test=500)

    def reverse(scale: float, points: int) -> Estimate:
        q = normal((0.0, 0.0), scale)
        return KLDivergence(points).compute(Examples(subject(lambda x: q.log_prob(x.double())), data, seed=0))[1]

    assert (reverse(2.5, 128).status, reverse(2.5, 128).reason) == (Status.OK, "")
    rough = reverse(2.5, 24)
    assert rough.status is Status.OK
    assert "certain to" in rough.reason
    assert reverse(0.02, 24).status is Status.FAILED


@pytest.mark.parametrize(("more", "possible"), [(0.0, True), (0.02, False), (5.0, False), (-5.0, True)])
def test_a_density_of_too_much_mass_has_no_divergence(more: float, possible: bool) -> None:
    """Its KL(data || model) would be too small by as much, and below 0 at last: the best of its column."""
    data, q = eight_gaussians(n_train=10, n_val=10, n_test=500), normal((0.0, 0.0), 2.5)
    for one in KLDivergence(128).compute(Examples(subject(lambda x: q.log_prob(x.double()) + more), data, seed=0)):
        assert ("it is not normalized" in one.reason) != possible
        assert possible or one.status is Status.FAILED


def test_what_has_no_divergence_says_why() -> None:
    data = checkerboard(n_train=10, n_val=10, n_test=200)
    q = normal((0.0, 0.0), 1.5)
    forward, reverse, error = evaluate(Examples(subject(lambda x: q.log_prob(x.double())), data, seed=0),
                                       {"kl": KLDivergence(128)})["kl"]  # fmt: skip
    assert forward.status is Status.OK
    assert reverse.status is Status.SKIPPED
    assert "infinite" in reverse.reason
    assert error.status is Status.OK
    assert data.log_density is not None
    itself = KLDivergence(64).compute(Examples(subject(data.log_density), data, seed=0))
    assert [one.value for one in itself] == pytest.approx([0, 0, 0], abs=1e-12), "edges lie on the grid"
    sharp = normal((0.0, 0.0), 1e-3)  # between the points of any grid
    lost = KLDivergence(64).compute(Examples(subject(lambda x: sharp.log_prob(x.double() + 0.01)), data, seed=0))
    assert {one.status for one in lost[1:2]} == {Status.FAILED}
    with pytest.raises(UnavailableError, match="density is known"):
        KLDivergence(64).compute(Examples(subject(data.log_density), small_data((2,), None), seed=0))
    bound = subject(data.log_density)
    bound.relation = Relation.LOWER_BOUND
    with pytest.raises(UnavailableError, match="exact likelihood"):
        KLDivergence(64).compute(Examples(bound, data, seed=0))
    with pytest.raises(ValueError, match="even"):
        KLDivergence(7)


# Wasserstein.


def draws(n: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    x = torch.randn(n, dim, generator=Generator().manual_seed(seed), dtype=torch.float64)
    x[:, 0] += shift
    return x


@pytest.mark.parametrize("order", [1, 2])
def test_the_distance_is_that_of_the_best_of_all_assignments(order: int) -> None:
    x, y = draws(6, 2, 0), draws(6, 2, 1)
    cost = [[math.dist(a, b) ** order for b in y.tolist()] for a in x.tolist()]
    best = min(sum(cost[i][k] for i, k in enumerate(p)) for p in itertools.permutations(range(6))) / 6
    assert wasserstein(x, y, order).value == pytest.approx(best ** (1 / order), rel=1e-12)


def test_one_dimension_and_a_shift_are_closed_forms() -> None:
    x, y = draws(50, 1, 0), draws(50, 1, 1, shift=0.5)
    found = wasserstein(x, y, 1).value
    assert found == pytest.approx(scipy.stats.wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-12)
    assert wasserstein(x, y, 2).value == pytest.approx(float((x.sort(0).values - y.sort(0).values).norm()) / 50**0.5)
    points = draws(40, 2, 2)
    shift = torch.tensor([0.3, -0.4], dtype=torch.float64)
    for order in (1, 2):
        moved = wasserstein(points, points + shift, order)
        assert moved.value == pytest.approx(0.5)
        assert wasserstein(points, points.flip(0), order).value == 0


@pytest.mark.parametrize("order", [1, 2])
def test_potentials_prove_the_assignment(order: int) -> None:
    x, y = draws(80, 2, 0), draws(80, 2, 1, shift=1.0)
    cost = torch.cdist(x, y).pow(order).numpy()
    _, partner = scipy.optimize.linear_sum_assignment(cost)
    u, v = potentials(cost, partner)
    assert (u[:, None] + v - cost).max() < 1e-9
    assert u.mean() + v.mean() == pytest.approx(wasserstein(x, y, order).value ** order, rel=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_errors_are_those_of_other_samples(order: int) -> None:
    found = [wasserstein(draws(50, 2, 2 * k), draws(50, 2, 2 * k + 1, shift=2.0), order) for k in range(120)]
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([math.hypot(one.stderr_x, one.stderr_y) for one in found])
    ratio = float(errors.square().mean().sqrt() / values.std())
    assert 0.8 < ratio < 1.3  # the deviation of 120 draws is known to 6.5 %


def test_the_floor_is_what_two_real_sets_differ_by() -> None:
    g = Generator().manual_seed(0)
    plane = Data(spec(2), *(Split(torch.randn(100, 2, generator=g)) for _ in range(3)))

    def measured(samples: Tensor, n: int = 60) -> dict[str, Estimate]:
        given = examples(spec(2), samples=samples)
        return {one.info.name: one for one in Wasserstein(n).compute(Examples(given.subject, plane, seed=0))}

    good, bad = measured(torch.randn(200, 2, generator=g)), measured(torch.randn(200, 2, generator=g) + 1)
    for name in ("w1", "w2"):
        floor = good[f"{name}_real"].value
        assert floor is not None
        assert floor == bad[f"{name}_real"].value, "the same for all subjects"
        assert good[name].value == pytest.approx(floor, rel=0.5)
        assert (bad[name].value or 0) > 2 * floor
        assert (good[name].n_real, good[name].n_fake) == (60, 60)
    assert measured(torch.randn(200, 2, generator=g), n=500)["w1"].n_fake == 100, "two disjoint real sets"
    with pytest.raises(UnavailableError, match="one or two dimensions"):
        Wasserstein(9).compute(examples(spec(3), samples=torch.zeros(9, 3)))
    with pytest.raises(BrokenError, match="at least 2 samples"):
        measured(torch.zeros(1, 2))


def test_the_two_real_sets_have_no_example_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def watched(x: Tensor, y: Tensor, order: int) -> Distance:
        seen.append((x, y))
        return wasserstein(x, y, order)

    monkeypatch.setattr("bench.metrics.wasserstein.wasserstein", watched)
    held = torch.randperm(41).float()[:, None]
    context = examples(spec(1), real=held[21:], held_out=held[:21], samples=torch.randn(30, 1))
    evaluate(context, {"it": Wasserstein(30)})
    (ours, _), (one, other), *_ = seen
    assert torch.equal(ours, one)
    assert len(torch.cat([one, other]).unique()) == 40
