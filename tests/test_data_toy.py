"""Toy densities: samples and density are held against each other, and both against closed forms."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy import integrate, stats

from bench.data import toy
from bench.data.base import Data
from bench.errors import UserError

NAMES = ("two_moons", "eight_gaussians", "grid25", "pinwheel", "checkerboard", "two_spirals")
SMALL = {"n_train": 200, "n_val": 100, "n_test": 150}
LogDensity = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> dict[str, Data]:
    return {name: getattr(toy, name)() for name in NAMES}


@dataclass(frozen=True)
class Grid:
    """Product cells on the plane, with Gauss-Legendre nodes enough that the density is integrated to many digits."""

    edges: NDArray[np.float64]
    nodes: int

    def masses(self, log_density: LogDensity) -> NDArray[np.float64]:
        """The integral of the density over each cell, ``(cells, cells)``."""
        node, weight = np.polynomial.legendre.leggauss(self.nodes)
        width = np.diff(self.edges)
        ticks = (self.edges[:-1, None] + width[:, None] * (node + 1) / 2).ravel()
        weights = (width[:, None] * weight / 2).ravel()
        x = torch.from_numpy(np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=2).reshape(-1, 2))
        p = log_density(x).exp().numpy().reshape(len(ticks), len(ticks)) * np.outer(weights, weights)
        cells = len(width)
        return p.reshape(cells, self.nodes, cells, self.nodes).sum(axis=(1, 3))

    def counts(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.histogram2d(x[:, 0].astype(np.float64), x[:, 1].astype(np.float64), bins=self.edges)[0]


def grid_of(name: str) -> Grid:
    if name == "grid25":  # inside the modes and between them
        return Grid(np.array([m + 0.05 * k for m in (-4, -2, 0, 2, 4) for k in (-8, -1, 0, 1, 8)]), 16)
    if name == "pinwheel":  # the outer ends of the arms are thin
        return Grid(np.linspace(-6, 6, 25), 20)
    if name == "two_spirals":
        return Grid(np.linspace(-4.5, 4.5, 19), 14)
    return Grid(np.linspace(-6, 6, 25), 10)


def chi_square(counts: NDArray[np.float64], masses: NDArray[np.float64], n: int) -> float:
    """The p-value of Pearson's test; cells with fewer than 10 expected examples are taken together."""
    expected = n * masses.ravel()
    rare = expected < 10
    seen = np.append(counts.ravel()[~rare], n - counts.ravel()[~rare].sum())
    wanted = np.append(expected[~rare], n - expected[~rare].sum())
    if wanted[-1] < 1e-6 * n:  # nothing is expected in the rest, and nothing was seen (else the density is wrong)
        assert seen[-1] == 0
        seen, wanted = seen[:-1], wanted[:-1]
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    return float(stats.chi2.sf(statistic, len(wanted) - 1))


# Density against samples


@pytest.mark.parametrize("name", NAMES)
def test_density_integrates_to_one_and_describes_every_split(name: str, data: dict[str, Data]) -> None:
    log_density = data[name].log_density
    assert log_density is not None
    grid = grid_of(name)
    masses = grid.masses(log_density)
    assert masses.sum() == pytest.approx(1, abs=1e-9)
    for split in (data[name].train, data[name].val, data[name].test):
        assert chi_square(grid.counts(split.x.numpy()), masses, len(split)) > 1e-3


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("two_moons", replace(toy.TwoMoons(), std=0.22)),
        ("two_spirals", replace(toy.TwoSpirals(), std=0.11)),
        ("two_spirals", replace(toy.TwoSpirals(), power=1)),
        ("pinwheel", replace(toy.Pinwheel(), bend=0.26)),
        ("pinwheel", replace(toy.Pinwheel(), tangential_std=0.11)),
    ],
)
def test_the_comparison_sees_a_small_error(name: str, wrong: toy.Density, data: dict[str, Data]) -> None:
    grid = grid_of(name)
    x = data[name].train.x
    assert chi_square(grid.counts(x.numpy()), grid.masses(wrong.log_density), len(x)) < 1e-6


# Density against closed forms


def entropy_check(data: Data, entropy: float) -> None:
    """The mean of -log p over the samples is the entropy, within four standard errors."""
    assert data.log_density is not None
    log_p = data.log_density(data.train.x)
    assert (-log_p.mean() - entropy).abs() <= 4 * log_p.std() / math.sqrt(len(log_p)) + 1e-12


def test_entropy_of_checkerboard_is_the_logarithm_of_its_area(data: dict[str, Data]) -> None:
    entropy_check(data["checkerboard"], math.log(32))
    log_density = data["checkerboard"].log_density
    assert log_density is not None
    for split in (data["checkerboard"].train, data["checkerboard"].val, data["checkerboard"].test):
        assert torch.allclose(log_density(split.x), torch.tensor(-math.log(32), dtype=torch.float64), atol=1e-15)
    x = torch.tensor([[-3.9, -3.9], [-1.9, -1.9], [-1.9, -3.9], [0.1, 3.9], [2.1, 3.9], [4.1, 4.1], [-4.1, -2.1]])
    inside = [True, True, False, False, True, False, False]
    assert torch.isfinite(log_density(x)).tolist() == inside


def test_entropy_of_separated_modes(data: dict[str, Data]) -> None:
    entropy_check(data["grid25"], math.log(25) + math.log(2 * math.pi * math.e * 0.05**2))


def test_entropy_of_eight_gaussians(data: dict[str, Data]) -> None:
    # Neighbours overlap a little: the entropy lies below that of separate modes, by less than the mass that is nearer
    # to a neighbour's mean, 2 Q(d / 2 sigma), times the at most log 8 nats it can cost, and some.
    separate = math.log(8) + math.log(2 * math.pi * math.e / 8)
    distance = 2 * math.sqrt(8) * math.sin(math.pi / 8)
    overlap = 2 * stats.norm.sf(distance / 2 / math.sqrt(1 / 8))
    assert overlap < 0.003
    log_density = data["eight_gaussians"].log_density
    assert log_density is not None
    minus = -log_density(data["eight_gaussians"].train.x)
    error = 4 * float(minus.std()) / math.sqrt(len(minus))
    assert separate - overlap * math.log(8) - error < float(minus.mean()) < separate + error


@pytest.mark.parametrize("name", ["eight_gaussians", "grid25"])
def test_mixtures_against_scipy(name: str, data: dict[str, Data]) -> None:
    angles = np.arange(8) * np.pi / 4
    ring = math.sqrt(8) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ticks = np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)])
    means, std = (ring, math.sqrt(1 / 8)) if name == "eight_gaussians" else (ticks, 0.05)
    x = RandomState(0).uniform(-5, 5, (500, 2))
    x[250:] = means[RandomState(1).randint(len(means), size=250)] + std * RandomState(2).standard_normal((250, 2))
    each = stats.norm.logpdf(x[:, None], means, std).sum(2)
    expected = np.logaddexp.reduce(each, axis=1) - np.log(len(means))
    log_density = data[name].log_density
    assert log_density is not None
    assert np.allclose(log_density(torch.from_numpy(x)).numpy(), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("density", [toy.TwoMoons(), toy.TwoSpirals()])
def test_curves_against_adaptive_quadrature(density: toy.NoisyCurves) -> None:
    def arc(t: float) -> tuple[float, float]:
        if isinstance(density, toy.TwoMoons):
            return 2 * math.cos(t) - 1, 2 * math.sin(t) - 0.5
        return -t * math.cos(t) / 3, t * math.sin(t) / 3

    def integrand(u: float, x: NDArray[np.float64]) -> float:
        # Uniform u, as the samples are defined, without the substitution that the quadrature under test makes.
        t = math.pi * u if isinstance(density, toy.TwoMoons) else 3 * math.pi * math.sqrt(u)
        a, b = arc(t)
        parts = (math.exp(-((x[0] - s * a) ** 2 + (x[1] - s * b) ** 2) / (2 * density.std**2)) for s in (1, -1))
        return sum(parts) / 2 / (2 * math.pi * density.std**2)

    points = density.sample(8, RandomState(3))
    points[5] = (0.05, -0.02)  # where the two spirals begin
    points[6] += 0.3
    points[7] -= 0.5
    breaks = list(np.linspace(0, 1, 40)[1:-1])
    for x in points:
        expected = integrate.quad(integrand, 0, 1, args=(x,), points=breaks, epsabs=0, epsrel=1e-11, limit=2000)[0]
        assert float(density.log_density(torch.from_numpy(x)[None])) == pytest.approx(math.log(expected), abs=1e-8)


@pytest.mark.parametrize("density", [toy.TwoMoons(), toy.TwoSpirals()])
def test_more_nodes_change_nothing(density: toy.NoisyCurves) -> None:
    x = torch.from_numpy(
        np.concatenate([density.sample(1000, RandomState(4)), RandomState(5).uniform(-6, 6, (500, 2))])
    )
    finer = replace(density, nodes=3 * density.nodes)
    assert torch.allclose(density.log_density(x), finer.log_density(x), rtol=1e-9, atol=1e-8)


def test_pinwheel_map_preserves_volume() -> None:
    # The Jacobian of the twist, by automatic differentiation of its definition.
    def twist(f: torch.Tensor) -> torch.Tensor:
        angle = 0.25 * f.norm().exp()
        return torch.stack([angle.cos() * f[0] - angle.sin() * f[1], angle.sin() * f[0] + angle.cos() * f[1]])

    points = torch.from_numpy(RandomState(6).standard_normal((20, 2)) * [0.3, 0.1] + [1.0, 0.0])
    for f in points:
        jacobian = torch.autograd.functional.jacobian(twist, f)
        assert float(torch.linalg.det(jacobian)) == pytest.approx(1, abs=1e-12)
        # Turning by an arm's angle commutes with the twist: p(x) is the sum over arms of p(f turned back) / (5 * 2^2).
        arms = np.exp(-2j * np.pi * np.arange(5) / 5) * complex(*f.tolist())
        each = stats.norm.pdf(arms.real, 1, 0.3) * stats.norm.pdf(arms.imag, 0, 0.1)
        x = 2 * twist(f)[None]
        assert float(toy.Pinwheel().log_density(x)) == pytest.approx(math.log(each.sum() / 20), abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_log_density_takes_any_batch_and_is_finite_far_out(name: str, data: dict[str, Data]) -> None:
    log_density = data[name].log_density
    assert log_density is not None
    x = data[name].test.x[:2100]  # more than one chunk
    whole = log_density(x)
    assert whole.shape == (2100,)
    assert whole.dtype == torch.float64
    assert torch.equal(whole[2050:], log_density(x[2050:]))
    assert torch.equal(whole, log_density(x.double()))
    assert log_density(x[:0]).shape == (0,)
    far = log_density(torch.tensor([[1e4, 1e4], [-300.0, 20.0]]))
    if name == "checkerboard":
        assert far.tolist() == [-math.inf, -math.inf]
    else:
        assert torch.isfinite(far).all()
        assert (far < -1e4).all()


# The data sets


@pytest.mark.parametrize("name", NAMES)
def test_spec_shapes_and_scale(name: str, data: dict[str, Data]) -> None:
    spec = data[name].spec
    assert (spec.name, spec.shape, spec.levels, spec.classes) == (name, (2,), None, None)
    assert (spec.n_train, spec.n_val, spec.n_test) == (50_000, 5_000, 10_000)
    for split, n in ((data[name].train, 50_000), (data[name].val, 5_000), (data[name].test, 10_000)):
        assert split.x.shape == (n, 2)
        assert split.x.dtype == torch.float32
        assert split.y is None
        assert split.x.abs().max() < 5
        assert split.x.mean(0).abs().max() < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_point_and_ignore_the_global_generators(name: str) -> None:
    make = getattr(toy, name)
    torch.manual_seed(1)
    first = make(**SMALL)
    torch.manual_seed(2)
    second = make(**SMALL)
    assert first.spec == second.spec
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(first, split).x, getattr(second, split).x)
    points = torch.cat([first.train.x, first.val.x, first.test.x])
    assert len(torch.unique(points, dim=0)) == 450


def test_revision_tells_recipes_and_sizes_apart(data: dict[str, Data], monkeypatch: pytest.MonkeyPatch) -> None:
    revisions = [data[name].spec.revision for name in NAMES]
    revisions += [toy.two_moons(**{**SMALL, key: 77}).spec.revision for key in SMALL]
    monkeypatch.setattr(toy, "_VERSION", -1)
    revisions.append(toy.two_moons().spec.revision)
    assert len(set(revisions)) == len(revisions)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_empty_splits_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match=r"two_moons: .*data\.n_train"):
        toy.two_moons(*sizes)


@pytest.mark.parametrize(
    ("name", "revision", "checksum"),
    [
        ("two_moons", "29d6cc01da3059bd", (-118.52495, 332.31722, -504.16525, -2.39683)),
        ("eight_gaussians", "89c05afcb1af6c70", (-445.04860, -321.09894, 525.93023, -2.82303)),
        ("grid25", "9a86f0b370c9b984", (-453.52689, 87.24270, 614.57650, -0.06118)),
        ("pinwheel", "07ffccf6ff62c1dc", (-176.37176, 237.32587, -928.54199, -2.32572)),
        ("checkerboard", "b0c4b8e6d49128c8", (-412.06161, -1.62743, -760.11039, -3.46574)),
        ("two_spirals", "a9737c0a94799351", (581.72202, 104.99455, 29.24483, -2.54240)),
    ],
)
def test_numbers_are_the_same_everywhere(
    name: str, revision: str, checksum: tuple[float, ...], data: dict[str, Data]
) -> None:
    # Cosines may differ in their last digit between machines, so sums instead of bytes: sum x, sum y, a sum that
    # depends on the order, and the mean log-density of the test split. A change here needs a new _VERSION.
    assert data[name].spec.revision == revision
    log_density = data[name].log_density
    assert log_density is not None
    x = data[name].train.x.double()
    order = torch.arange(len(x), dtype=torch.float64).cos()
    found = [
        *x.sum(0).tolist(),
        float(order @ x[:, 0] * 2 + order @ x[:, 1]),
        float(log_density(data[name].test.x).mean()),
    ]
    assert found == pytest.approx(checksum, rel=0, abs=1e-3)
