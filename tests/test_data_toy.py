"""Toy densities: samples and density are held against each other, and both against closed forms."""

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy import integrate, stats
from scipy.spatial.distance import pdist

from bench.data import toy
from bench.data.base import Data, Modes
from bench.errors import UserError

NAMES = ("two_moons", "eight_gaussians", "grid25", "ring8", "pinwheel", "checkerboard", "two_spirals")
MIXTURES = ("eight_gaussians", "grid25", "ring8")
SMALL = {"n_train": 200, "n_val": 100, "n_test": 150}
LogDensity = Callable[[torch.Tensor], torch.Tensor]


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
    if name == "ring8":
        far = math.sqrt(0.5)
        return Grid(np.array([m + 0.01 * k for m in (-1, -far, 0, far, 1) for k in (-8, -1, 0, 1, 8)]), 16)
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
    entropy_check(data["ring8"], math.log(8) + math.log(2 * math.pi * math.e * 0.01**2))


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


def means_and_std(name: str) -> tuple[NDArray[np.float64], float]:
    """Written down apart from the code under test."""
    angles = np.arange(8) * np.pi / 4
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ticks = np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], dtype=np.float64)
    return {
        "eight_gaussians": (math.sqrt(8) * circle, math.sqrt(1 / 8)),
        "ring8": (circle, 0.01),
        "grid25": (ticks, 0.05),
    }[name]


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_against_scipy(name: str, data: dict[str, Data]) -> None:
    means, std = means_and_std(name)
    x = RandomState(0).uniform(-5, 5, (500, 2))
    x[250:] = means[RandomState(1).randint(len(means), size=250)] + std * RandomState(2).standard_normal((250, 2))
    each = stats.norm.logpdf(x[:, None], means, std).sum(2)
    expected = np.logaddexp.reduce(each, axis=1) - np.log(len(means))
    log_density = data[name].log_density
    assert log_density is not None
    assert np.allclose(log_density(torch.from_numpy(x)).numpy(), expected, rtol=1e-11, atol=1e-9)


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


# Modes


@pytest.mark.parametrize("name", MIXTURES)
def test_points_belong_to_the_nearest_mean_within_three_standard_deviations(name: str, data: dict[str, Data]) -> None:
    means, std = means_and_std(name)
    modes = data[name].modes
    assert isinstance(modes, Modes)
    assert (modes.n, modes.probabilities) == (len(means), None)
    x = data[name].test.x
    distance = np.linalg.norm(x.numpy().astype(np.float64)[:, None] - means, axis=2)  # (N, K)
    near = distance.min(axis=1) < 3 * std
    found = modes.assign(x).numpy()
    assert found.dtype == np.int64
    assert ((found >= 0) == near).all()
    # Modes are numbered as the means of the density are, in whatever order: each stands for one mean.
    pairs = {(int(mode), int(mean)) for mode, mean in zip(found[near], distance.argmin(axis=1)[near], strict=True)}
    assert len(pairs) == len(means) == len({mode for mode, _ in pairs}) == len({mean for _, mean in pairs})
    # 1 - exp(-9/2) of a normal on the plane lies within three standard deviations.
    share = -math.expm1(-4.5)
    assert near.mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / len(x)))
    edge = torch.from_numpy(np.array([means[0] * (1 + r * std / np.linalg.norm(means[0])) for r in (2.99, 3.01)]))
    assert [mode >= 0 for mode in modes.assign(edge).tolist()] == [True, False]
    assert modes.assign(x[:0]).shape == (0,)


def test_only_mixtures_have_modes(data: dict[str, Data]) -> None:
    assert {name for name in NAMES if data[name].modes is not None} == set(MIXTURES)


# Mixtures in any dimension


@pytest.mark.parametrize("dim", [1, 3, 16, 200])
def test_mixture_of_any_dimension_against_scipy(dim: int) -> None:
    means = RandomState(dim).uniform(-2, 2, (5, dim))
    density = toy.GaussianMixture(tuple(map(tuple, means.tolist())), 0.7)
    x = density.sample(300, RandomState(7))
    each = np.stack([stats.multivariate_normal.logpdf(x, mean, 0.49 * np.eye(dim)) for mean in means], axis=1)
    expected = np.logaddexp.reduce(each, axis=1) - math.log(5)
    assert np.allclose(density.log_density(torch.from_numpy(x)).numpy(), expected, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("dim", [1, 3, 16, 200])
def test_separated_mixture_of_any_dimension(dim: int) -> None:
    data = toy.gaussian_mixture(dim, 6, 4.0, n_train=20_000, n_val=10, n_test=10)
    assert (data.spec.shape, data.train.x.shape) == ((dim,), (20_000, dim))
    assert isinstance(data.modes, Modes)
    mode = data.modes.assign(data.train.x)
    x, members = data.train.x.double(), [mode == k for k in range(6)]
    assert min(int(member.sum()) for member in members) > 3000
    share = -math.expm1(-4.5)  # in every dimension
    assert float((mode >= 0).double().mean()) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 20_000))
    # The two nearest means are c std sqrt(D) apart, to what the means of samples can tell.
    means = torch.stack([x[member].mean(0) for member in members])
    std = float(torch.cat([x[member] - mean for member, mean in zip(members, means, strict=True)]).std())
    nearest = pdist(means).min()
    assert nearest / (std * math.sqrt(dim)) == pytest.approx(4, rel=0.1 if dim == 1 else 0.03)


def test_density_of_an_overlapping_mixture_integrates_to_one_and_describes_its_samples() -> None:
    data = toy.gaussian_mixture(2, 5, 0.5, n_train=20_000, n_val=10, n_test=10)
    assert data.log_density is not None
    grid = Grid(np.linspace(-12, 12, 41), 10)
    masses = grid.masses(data.log_density)
    assert masses.sum() == pytest.approx(1, abs=1e-9)
    assert chi_square(grid.counts(data.train.x.numpy()), masses, len(data.train)) > 1e-3


def test_separation_scales_the_noise_and_leaves_the_means() -> None:
    far, near = (toy.gaussian_mixture(4, 5, c, n_train=50, n_val=1, n_test=1).train.x.double() for c in (4.0, 1.0))
    finest = toy.gaussian_mixture(4, 5, 1e9, n_train=50, n_val=1, n_test=1).train.x.double()  # the means themselves
    assert torch.allclose(4 * (far - finest), near - finest, rtol=1e-3, atol=1e-5)
    assert finest.abs().max() <= 2
    specs = [
        toy.gaussian_mixture(*shape, **SMALL).spec for shape in ((4, 5, 1.0), (4, 5, 2.0), (4, 6, 1.0), (5, 5, 1.0))
    ]
    assert len({spec.revision for spec in specs}) == 4
    assert {spec.name for spec in specs} == {"gaussian_mixture"}


@pytest.mark.parametrize("shape", [(0, 8, 2.0), (2, 1, 2.0), (2, 8, 0.0), (2, 8, math.inf), (2, 8, math.nan)])
def test_mixtures_that_are_none_are_refused(shape: tuple[int, int, float]) -> None:
    with pytest.raises(UserError, match=r"gaussian_mixture: data\.dim=.*data\.components=.*data\.separation="):
        toy.gaussian_mixture(*shape, **SMALL)


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
        ("ring8", "4e7f0b586ba492df", (70.68408, 139.61026, -138.15308, 4.28800)),
        ("grid25", "9a86f0b370c9b984", (-453.52689, 87.24270, 614.57650, -0.06118)),
        ("pinwheel", "07ffccf6ff62c1dc", (-176.37176, 237.32587, -928.54199, -2.32572)),
        ("checkerboard", "b0c4b8e6d49128c8", (-412.06161, -1.62743, -760.11039, -3.46574)),
        ("two_spirals", "a9737c0a94799351", (581.72202, 104.99455, 29.24483, -2.54240)),
        ("gaussian_mixture", "a91ee2f1332af158", (-14683.01688, -9919.88581, 376.77497, -16.22205)),
    ],
)
def test_numbers_are_the_same_everywhere(
    name: str, revision: str, checksum: tuple[float, ...], data: dict[str, Data]
) -> None:
    # Cosines may differ in their last digit between machines, so sums instead of bytes: sum x, sum y, a sum that
    # depends on the order, and the mean log-density of the test split. A change here needs a new _VERSION.
    one = toy.gaussian_mixture() if name == "gaussian_mixture" else data[name]
    assert one.spec.revision == revision
    log_density = one.log_density
    assert log_density is not None
    x = one.train.x.double()
    order = torch.arange(len(x), dtype=torch.float64).cos()
    found = [
        *x.sum(0)[:2].tolist(),
        float(order @ x[:, 0] * 2 + order @ x[:, 1]),
        float(log_density(one.test.x).mean()),
    ]
    assert found == pytest.approx(checksum, rel=0, abs=1e-3)


def test_scipy_stats_is_not_imported_for_one_quantile() -> None:
    """`genbench data list` would wait for it most of its time."""
    code = "import sys, bench.data.toy; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
