"""Toy densities with known log-density, one function for each. All but ``gaussian_mixture`` are two-dimensional.

Every density is a small frozen object that can be sampled and evaluated; a test checks that samples and density agree.
The examples are drawn with a fixed seed of the data set, not with the run's seed. They use
``numpy.random.RandomState``, because numpy promises not to change its streams. Each split has its own stream. The
densities follow Grathwohl et al. 2019, "FFJORD: Free-form continuous dynamics for scalable reversible generative
models" (arXiv 1810.01367), except where theirs has no formula. Coordinates lie within about [-4, 4]. Mixtures also give
their modes, so that the modes a model covers can be counted.
"""

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.special import chdtri, roots_legendre
from torch import Tensor

from bench.data.base import Data, Modes, Split
from bench.errors import UserError
from bench.schema import DataSpec
from bench.seeds import derive_seed

__all__ = [
    "Checkerboard",
    "Density",
    "GaussianMixture",
    "NoisyCurves",
    "Pinwheel",
    "TwoMoons",
    "TwoSpirals",
    "checkerboard",
    "eight_gaussians",
    "gaussian_mixture",
    "grid25",
    "pinwheel",
    "ring8",
    "two_moons",
    "two_spirals",
]

_SEED = 20250601
_VERSION = 1  # increase it when a formula changes, so that the same parameters give other numbers
_CHUNK = 2048  # examples evaluated at a time: a density may need many numbers for each
_LOG_2PI = math.log(2 * math.pi)


class Density(ABC):
    """A distribution of points in D dimensions. Subclasses are frozen, and either final or abstract."""

    @abstractmethod
    def sample(self, n: int, rng: RandomState) -> NDArray[np.float64]:
        """Return n independent points, ``(n, D)``."""

    def log_density(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, ``(B, D) -> (B,)``, float64 on the CPU for any dtype of x."""
        return torch.cat([self._log_density(chunk) for chunk in x.detach().cpu().double().split(_CHUNK)])

    @abstractmethod
    def _log_density(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class GaussianMixture(Density):
    r"""Equal mixture of K round Gaussians in D dimensions, :math:`p(x) = \frac1K \sum_k N(x; \mu_k, \sigma^2 I)`.

    Each component is a mode. A point belongs to the mode with the nearest mean, if the mean is closer than the radius
    that contains :math:`1 - e^{-9/2} = 98.9\,\%` of a component. In two dimensions this radius is :math:`3\sigma`
    (Srivastava et al. 2017, "VEEGAN: Reducing mode collapse in GANs using implicit variational learning", arXiv
    1705.07761). In D dimensions it is the same quantile of :math:`\sigma\chi_D`, because in high dimensions almost no
    point lies within :math:`3\sigma`.

    Attributes:
        means: The K means :math:`\mu_k`, all different.
        std: :math:`\sigma > 0` of every coordinate.
    """

    means: tuple[tuple[float, ...], ...]
    std: float

    @property
    def dim(self) -> int:
        return len(self.means[0])

    @property
    def modes(self) -> Modes:
        return Modes(len(self.means), self.nearest)

    def sample(self, n: int, rng: RandomState) -> NDArray[np.float64]:
        centres = np.array(self.means)[rng.randint(len(self.means), size=n)]  # (n, D)
        return centres + self.std * rng.standard_normal((n, self.dim))

    def nearest(self, x: Tensor) -> Tensor:
        """Return the mode of each point, ``(B, D) -> (B,)`` int64, or -1 if it is too far from every mean."""
        radius = self.std * math.sqrt(chdtri(self.dim, math.exp(-9 / 2)))
        found = []
        for chunk in x.detach().cpu().double().split(_CHUNK):
            square, mode = self._squares(chunk).min(dim=1)  # (B,) each
            found.append(torch.where(square < radius**2, mode, -1))
        return torch.cat(found)

    def _log_density(self, x: Tensor) -> Tensor:
        constant = self.dim / 2 * _LOG_2PI
        parts = -self._squares(x) / (2 * self.std**2) - constant - self.dim * math.log(self.std)  # (B, K)
        return parts.logsumexp(1) - math.log(len(self.means))

    def _squares(self, x: Tensor) -> Tensor:
        """Return the squared distances to the means, ``(B, D) -> (B, K)``."""
        # One mean at a time, because B x K x D numbers may not fit into memory.
        return torch.stack([(x - mean).square().sum(1) for mean in torch.tensor(self.means, dtype=torch.float64)], 1)


@dataclass(frozen=True)
class Checkerboard(Density):
    """Uniform on the dark fields of a board of 4 x 4 squares of side 2 on [-4, 4]^2.

    A field (i, j), counted from the lower left corner, is dark if i + j is even. The density is 1 / 32 on dark fields
    and 0 elsewhere (log-density -inf). The lower and left edges belong to a field, the others to its neighbours. The
    entropy is log 32.
    """

    def sample(self, n: int, rng: RandomState) -> NDArray[np.float64]:
        column = rng.randint(4, size=n)
        row = 2 * rng.randint(2, size=n) + column % 2
        # The offset lies on a grid of 2^20 midpoints, so that float32 represents the point exactly and rounding cannot
        # move it across an edge into density 0.
        offset = (rng.randint(2**20, size=(n, 2)) + 0.5) / 2**20
        return 2 * (np.stack([column, row], axis=1) + offset) - 4

    def _log_density(self, x: Tensor) -> Tensor:
        field = ((x + 4) / 2).floor()  # (B, 2)
        dark = ((field >= 0) & (field < 4)).all(1) & (field.sum(1) % 2 == 0)
        return torch.where(dark, 0.0, -math.inf).double() - math.log(32)


@dataclass(frozen=True)
class Pinwheel(Density):
    r"""Five bent arms (after Johnson et al. 2016, "Composing graphical models with neural networks for structured
    representations and fast inference").

    .. math:: x = s\, R(2\pi k/5 + g(|f|))\, f, \qquad f \sim N((1, 0), \mathrm{diag}(\sigma_r^2, \sigma_t^2)),
        \quad k \sim U\{0..4\}, \quad g(r) = c\, e^{\min(r, 20)}

    R(a) is the rotation by the angle a. No data lie beyond radius 20; the bound keeps g finite everywhere. In the
    original the angle depends on the first coordinate of f. Here it depends on the radius |f| alone, which a rotation
    preserves. The map is therefore inverted by rotating back; in polar coordinates it is a shear, which preserves
    volume, and the density has the closed form

    .. math:: p(x) = \frac{1}{5 s^2} \sum_k N(R(-2\pi k/5 - g(|x|/s))\, x/s;\ (1, 0),
        \mathrm{diag}(\sigma_r^2, \sigma_t^2)).

    Attributes:
        radial_std, tangential_std: :math:`\sigma_r, \sigma_t`, along and across an arm, before scaling by s.
        bend: c, in radians.
        scale: s.
    """

    radial_std: float = 0.3
    tangential_std: float = 0.1
    bend: float = 0.25
    scale: float = 2.0

    def sample(self, n: int, rng: RandomState) -> NDArray[np.float64]:
        arm = rng.randint(5, size=n)
        f = rng.standard_normal((n, 2)) * [self.radial_std, self.tangential_std] + [1.0, 0.0]
        angle = 2 * np.pi * arm / 5 + self.bend * np.exp(np.hypot(f[:, 0], f[:, 1]).clip(max=20))
        cos, sin = np.cos(angle), np.sin(angle)
        return self.scale * np.stack([cos * f[:, 0] - sin * f[:, 1], sin * f[:, 0] + cos * f[:, 1]], axis=1)

    def _log_density(self, x: Tensor) -> Tensor:
        radius = x.norm(dim=1) / self.scale  # (B,)
        arms = 2 * math.pi / 5 * torch.arange(5, dtype=torch.float64)
        straight = torch.atan2(x[:, 1], x[:, 0]) - self.bend * radius.clamp(max=20).exp()  # (B,)
        angle = straight[:, None] - arms  # (B, 5)
        along = (radius[:, None] * angle.cos() - 1) / self.radial_std
        across = radius[:, None] * angle.sin() / self.tangential_std
        parts = -(along.square() + across.square()) / 2 - _LOG_2PI - math.log(self.radial_std * self.tangential_std)
        return parts.logsumexp(1) - math.log(5 * self.scale**2)


@dataclass(frozen=True)
class NoisyCurves(Density):
    r"""A point on one of two curves, each with probability 1/2, plus isotropic Gaussian noise.

    .. math:: x = c_j(T u^{1/q}) + \sigma \epsilon, \quad u \sim U(0, 1) \qquad
        p(x) = \frac12 \sum_j \int_0^1 N(x; c_j(T s), \sigma^2 I)\, q s^{q-1}\, ds

    The integral is computed by Gauss-Legendre quadrature. The nodes are closer together than the width of the noise,
    so that wherever there are data the error is no larger than that of float64 arithmetic.

    Attributes:
        std: :math:`\sigma` of the noise in each coordinate.
        length: T, the largest parameter, in radians.
        power: q. With q = 1 the parameter is uniform.
        nodes: Number of quadrature nodes. It sets the precision of the density and does not affect samples.
    """

    std: float
    length: float
    power: int
    nodes: int

    @abstractmethod
    def curves(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the two curves at parameters t, ``(N,) -> (2, N, 2)``."""

    def sample(self, n: int, rng: RandomState) -> NDArray[np.float64]:
        which = rng.randint(2, size=n)
        t = self.length * rng.random_sample(n) ** (1 / self.power)
        return self.curves(t)[which, np.arange(n)] + self.std * rng.standard_normal((n, 2))

    def _log_density(self, x: Tensor) -> Tensor:
        nodes, weights = _gauss_legendre(self.nodes)
        points = torch.from_numpy(self.curves(self.length * nodes)).reshape(-1, 2)  # (2 N, 2)
        log_weights = torch.from_numpy(np.log(weights * self.power * nodes ** (self.power - 1))).repeat(2)  # (2 N,)
        square = (x[:, :1] - points[:, 0]).square() + (x[:, 1:] - points[:, 1]).square()  # (B, 2 N)
        parts = log_weights - square / (2 * self.std**2)
        return parts.logsumexp(1) - _LOG_2PI - 2 * math.log(self.std) - math.log(2)


@dataclass(frozen=True)
class TwoMoons(NoisyCurves):
    r"""Two half circles of radius 2 facing each other, each the other's mirror image in the origin,

    .. math:: c_\pm(t) = \pm (2\cos t - 1,\ 2\sin t - 1/2), \quad t = \pi u.
    """

    std: float = 0.2
    length: float = math.pi
    power: int = 1
    nodes: int = 256

    def curves(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        upper = np.stack([2 * np.cos(t) - 1, 2 * np.sin(t) - 0.5], axis=1)
        return np.stack([upper, -upper])


@dataclass(frozen=True)
class TwoSpirals(NoisyCurves):
    r"""Two Archimedean spirals of one and a half turns, each the other's mirror image in the origin,

    .. math:: c_\pm(t) = \pm (-t \cos t,\ t \sin t) / 3, \quad t = 3\pi\sqrt{u}.
    """

    std: float = 0.1
    length: float = 3 * math.pi
    power: int = 2
    nodes: int = 512

    def curves(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        arm = np.stack([-t * np.cos(t), t * np.sin(t)], axis=1) / 3
        return np.stack([arm, -arm])


def two_moons(n_train: int = 50_000, n_val: int = 5_000, n_test: int = 10_000) -> Data:
    """Return ``TwoMoons`` with noise 0.2: the usual two moons with noise 0.1, scaled by 2 and centred at the origin."""
    return _make("two_moons", TwoMoons(), (n_train, n_val, n_test))


def eight_gaussians(n_train: int = 50_000, n_val: int = 5_000, n_test: int = 10_000) -> Data:
    r"""Return eight Gaussians of standard deviation :math:`1/\sqrt 8` on a circle of radius :math:`\sqrt 8`."""
    far = math.sqrt(8)
    axes = ((far, 0.0), (0.0, far), (-far, 0.0), (0.0, -far))
    diagonals = ((2.0, 2.0), (-2.0, 2.0), (-2.0, -2.0), (2.0, -2.0))
    return _make("eight_gaussians", GaussianMixture(axes + diagonals, math.sqrt(1 / 8)), (n_train, n_val, n_test))


def grid25(n_train: int = 50_000, n_val: int = 5_000, n_test: int = 10_000) -> Data:
    """Return 25 Gaussians of standard deviation 0.05 on the grid {-4, -2, 0, 2, 4}^2.

    Lin et al. 2018, "PacGAN: The power of two samples in generative adversarial networks" (arXiv 1712.04086).
    """
    ticks = (-4.0, -2.0, 0.0, 2.0, 4.0)
    return _make("grid25", GaussianMixture(tuple((x, y) for x in ticks for y in ticks), 0.05), (n_train, n_val, n_test))


def ring8(n_train: int = 50_000, n_val: int = 5_000, n_test: int = 10_000) -> Data:
    """Return eight Gaussians of standard deviation 0.01 on the unit circle, at multiples of 45 degrees.

    Lin et al. 2018, as for ``grid25``. They count the modes of 2,500 samples.
    """
    far = math.sqrt(0.5)
    axes = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
    diagonals = ((far, far), (-far, far), (-far, -far), (far, -far))
    return _make("ring8", GaussianMixture(axes + diagonals, 0.01), (n_train, n_val, n_test))


def gaussian_mixture(
    dim: int = 16,
    components: int = 8,
    separation: float = 2.0,
    n_train: int = 50_000,
    n_val: int = 5_000,
    n_test: int = 10_000,
) -> Data:
    r"""Return an equal mixture of K round Gaussians in D dimensions, with means drawn uniformly from [-2, 2]^D.

    Arguments:
        dim: D.
        components: K, at least 2.
        separation: c > 0. The standard deviation :math:`\sigma` is such that the two nearest means are
            :math:`c\,\sigma\sqrt D` apart, to four digits, so that the mixture is c-separated (Dasgupta 1999, "Learning
            mixtures of Gaussians"). At c = 2 the components hardly overlap; at c = 1/2 they overlap clearly.
        n_train, n_val, n_test: Sizes of the splits.

    Raises:
        UserError: An argument is out of its range.
    """
    if dim < 1 or components < 2 or not 0 < separation < math.inf:
        raise UserError(
            f"gaussian_mixture: data.dim={dim} must be at least 1, data.components={components} at least 2 and "
            f"data.separation={separation} above 0 and finite"
        )
    rng = RandomState(derive_seed(_SEED, "gaussian_mixture", "means") % 2**32)
    means = 4 * rng.random_sample((components, dim)) - 2
    # Rounded, because the last digits of a sum depend on the machine.
    distance = torch.pdist(torch.from_numpy(means)).min().item()
    std = float(f"{distance / (separation * math.sqrt(dim)):.4g}")
    density = GaussianMixture(tuple(map(tuple, means.tolist())), std)
    return _make("gaussian_mixture", density, (n_train, n_val, n_test))


def pinwheel(n_train: int = 50_000, n_val: int = 5_000, n_test: int = 10_000) -> Data:
    """Return ``Pinwheel``: five arms, bent by a volume-preserving twist."""
    return _make("pinwheel", Pinwheel(), (n_train, n_val, n_test))


def checkerboard(n_train: int = 50_000, n_val: int = 5_000, n_test: int = 10_000) -> Data:
    """Return ``Checkerboard``: uniform on eight squares, with density 0 between them."""
    return _make("checkerboard", Checkerboard(), (n_train, n_val, n_test))


def two_spirals(n_train: int = 50_000, n_val: int = 5_000, n_test: int = 10_000) -> Data:
    """Return ``TwoSpirals`` with noise 0.1."""
    return _make("two_spirals", TwoSpirals(), (n_train, n_val, n_test))


def _make(name: str, density: Density, sizes: tuple[int, int, int]) -> Data:
    """Draw the splits. Raises UserError if a size is below 1."""
    if min(sizes) < 1:
        raise UserError(
            f"{name}: every split needs at least one example, not {sizes}; set data.n_train, n_val, n_test above 0"
        )
    train, val, test = (
        _draw(density, n, derive_seed(_SEED, name, split))
        for n, split in zip(sizes, ("train", "val", "test"), strict=True)
    )
    # The fields are Python numbers computed without cos or sin, so their repr is the same on every machine.
    recipe = repr((name, density, sizes, _SEED, _VERSION))
    spec = DataSpec(
        name=name,
        revision=hashlib.sha256(recipe.encode()).hexdigest()[:16],
        shape=tuple(train.x.shape[1:]),
        levels=None,
        n_train=sizes[0],
        n_val=sizes[1],
        n_test=sizes[2],
        licence="none needed: generated",
        source="generated",
    )
    modes = density.modes if isinstance(density, GaussianMixture) else None
    return Data(spec, train, val, test, log_density=density.log_density, modes=modes)


def _draw(density: Density, n: int, seed: int) -> Split:
    rng = RandomState(seed % 2**32)
    return Split(torch.from_numpy(density.sample(n, rng).astype(np.float32)))


@functools.cache
def _gauss_legendre(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = roots_legendre(n)
    return (nodes + 1) / 2, weights / 2
