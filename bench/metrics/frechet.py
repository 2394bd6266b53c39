r"""Fréchet distance between Gaussians fitted to features, and its standard error.

.. math:: d^2 = \|\mu_1 - \mu_2\|^2 + \operatorname{tr}\big(S_1 + S_2 - 2 (S_1^{1/2} S_2 S_1^{1/2})^{1/2}\big)

(Dowson, Landau 1982; as FID: Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash
equilibrium", arXiv 1706.08500). Everything is computed in float64 on centred features. No matrix square root is needed:
the trace follows from the eigenvalues of a symmetric matrix, or from the singular values of :math:`X_c Y_c^\top` if a
covariance does not have full rank. FID's bias depends on the model and on the numbers of examples, so only values with
equal numbers of examples can be compared.

``fid_infinity`` is extrapolated to infinitely many examples. The estimate from N samples and M real examples has the
expectation

.. math:: E[\text{FID}_{N,M}] = \text{FID}_\infty + \frac{c}{N} + \frac{c'}{M} + O(N^{-2} + M^{-2}),

where c depends on the model, so that models with equal distances at one N need not be equally good (Chong, Forsyth
2020, "Effectively unbiased FID and Inception Score and where to find them", arXiv 1911.07023). A line in 1/N through
the distances of all examples and of halves meets 1/N = 0 at :math:`2\,\text{FID}_{N,M} - \text{FID}_{N/2,M/2}`. Both
sides are halved together, so that the line removes the bias of either.

The authors draw the samples from Sobol points in the latent space and shrink them to a tenth. Here subsets are plain,
because a subject may be anything that has samples, and are halves, because the terms of higher order are the smaller,
the larger the subsets. The two halves of a partition use all examples, so the extrapolation has the linear term of
:math:`\text{FID}_{N,M}` and with it its standard error, but for a term of second order.
"""

import math
from dataclasses import dataclass

import torch
from scipy.linalg import lapack
from torch import Generator, Tensor

from bench.data.formats.moments import Moments
from bench.device import on_gpu
from bench.errors import BrokenError, UnavailableError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = [
    "FID", "Extrapolated", "FIDInfinity", "frechet_distance", "frechet_distance_from_features", "frechet_infinity",
    "frechet_influences", "frechet_stderr", "frechet_to_moments",
]  # fmt: skip

OF_SAMPLES_ALONE = "standard error of the samples alone: the statistics file does not say how many examples it is of"
PARTITIONS = 4
LEAST = 4  # examples of either side for each feature: with fewer the bias is no line in 1/N
SINGULAR = 1e-6  # ratio of a Cholesky factor's pivots below which a covariance counts as rank-deficient


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    r"""Return the squared Fréchet distance from means ``(D,)`` and positive semidefinite covariances ``(D, D)``.

    With :math:`S_1 = L L^\top`, the trace of the root is :math:`\sum_i \sqrt{\lambda_i(L^\top S_2 L)}`. If the first
    covariance has no Cholesky factor, the second is used. If neither has one, a symmetric root of the first is used.
    """
    mean1, cov1, mean2, cov2 = (part.double() for part in (mean1, cov1, mean2, cov2))
    factor = _cholesky(cov1)
    other = cov2
    if factor is None:
        factor, other = _cholesky(cov2), cov1
    if factor is not None:
        product = _congruent(factor, other)
    else:
        values, vectors = torch.linalg.eigh(cov1)
        half = vectors * values.clamp_min(0).sqrt()
        product = half.T @ cov2 @ half
    root = torch.linalg.eigvalsh(product).clamp_min(0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root)


def frechet_distance_from_features(x: Tensor, y: Tensor) -> float:
    r"""Return the squared Fréchet distance between features ``(N, D)`` and ``(M, D)``, N, M >= 2.

    If both covariances have full rank, it is computed by ``frechet_distance``. Otherwise (fewer examples than
    dimensions, or constant features) the trace of the root is the nuclear norm of
    :math:`X_c Y_c^\top / \sqrt{(N-1)(M-1)}`, which takes no square roots of rounding errors.
    """
    x, y = x.double(), y.double()
    if min(len(x), len(y)) > x.shape[1]:
        cov1, cov2 = torch.cov(x.T).view(x.shape[1], -1), torch.cov(y.T).view(y.shape[1], -1)
        if _cholesky(cov1) is not None and _cholesky(cov2) is not None:
            return frechet_distance(x.mean(dim=0), cov1, y.mean(dim=0), cov2)
    # Avoid D x D matrices, because D may be the number of pixels.
    scaled1, scaled2 = _scaled(x), _scaled(y)
    _, r1 = torch.linalg.qr(scaled1, mode="r")  # X_c Y_c^T = Q1 R1 R2^T Q2^T has the singular values of R1 R2^T
    _, r2 = torch.linalg.qr(scaled2, mode="r")
    root = torch.linalg.svdvals((r1 @ r2.T).cpu()).sum().item()  # see _svd
    traces = scaled1.square().sum() + scaled2.square().sum()
    return float((x.mean(dim=0) - y.mean(dim=0)).square().sum() + traces - 2 * root)


def frechet_stderr(x: Tensor, y: Tensor) -> tuple[float, float]:
    r"""Return the standard errors of the distance that come from features x ``(N, D)`` and from features y ``(M, D)``.

    The total error is the root of the sum of their squares. The squared error of a side is the variance of its
    influences divided by N or M. A bootstrap would add FID's bias a second time.
    """
    of_x, of_y = (math.sqrt(influence.var().item() / len(influence)) for influence in frechet_influences(x, y))
    return of_x, of_y


def frechet_influences(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the influences ``(N,)`` and ``(M,)`` of the examples of x ``(N, D)`` and of y ``(M, D)`` on the distance.

    The influence of one centred example z of x is, up to a constant,

    .. math:: 2 z^\top (\mu_1 - \mu_2) + z^\top (I - T) z,

    where T is the optimal transport map, :math:`T S_1 T = S_2`, because :math:`\partial \operatorname{tr}(S_1^{1/2} S_2
    S_1^{1/2})^{1/2} / \partial S_1 = T/2`. For y the two sides are exchanged. From :math:`X_c Y_c^\top /
    \sqrt{(N-1)(M-1)} = U s V^\top` follows :math:`x_i^\top T x_i = (N-1) \sum_k s_k U_{ik}^2`, without computing T or
    an inverse. If both covariances have full rank, :math:`S_i = L_i L_i^\top`, the decomposition is that of
    :math:`L_1^\top L_2`, and U is :math:`X_c L_1^{-\top} U / \sqrt{N-1}`.
    """
    x, y = x.double(), y.double()
    if min(len(x), len(y)) > x.shape[1]:
        lower1, lower2 = (_cholesky(torch.cov(side.T).view(side.shape[1], -1)) for side in (x, y))
        if lower1 is not None and lower2 is not None:
            u, s, vh = _svd(lower1.T @ lower2)
            difference = x.mean(dim=0) - y.mean(dim=0)
            turned = (torch.linalg.solve_triangular(lower1.T, u, upper=True),
                      torch.linalg.solve_triangular(lower2.T, vh.T, upper=True))  # fmt: skip
            bases = [_scaled(side) @ turn for side, turn in zip((x, y), turned, strict=True)]
            return _influences(x, difference, bases[0], s), _influences(y, -difference, bases[1], s)
    q1, r1 = torch.linalg.qr(_scaled(x))
    q2, r2 = torch.linalg.qr(_scaled(y))
    u, s, vh = _svd(r1 @ r2.T)
    shift = x.mean(dim=0) - y.mean(dim=0)
    return _influences(x, shift, q1 @ u, s), _influences(y, -shift, q2 @ vh.T, s)


def frechet_to_moments(x: Tensor, mean: Tensor, cov: Tensor) -> tuple[float, float]:
    r"""Return the distance between features ``(N, D)``, N >= 2, and a distribution, and its standard error from x.

    The distribution has the mean ``(D,)`` and the positive semidefinite covariance ``(D, D)``. With its root
    :math:`S_2 = R R^\top` in the place of :math:`Y_c^\top / \sqrt{M-1}` everything is as in ``frechet_stderr``: the
    trace of the root is the nuclear norm of :math:`X_c R / \sqrt{N-1}`.
    """
    x, mean, cov = x.double(), mean.double(), cov.double()
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp_min(0).sqrt()  # below 0 by rounding only
    q, r = torch.linalg.qr(_scaled(x))
    u, s, _ = _svd(r @ root)
    shift = x.mean(dim=0) - mean
    distance = shift.square().sum() + r.square().sum() + cov.trace() - 2 * s.sum()
    return float(distance), math.sqrt(_influences(x, shift, q @ u, s).var().item() / len(x))


def _influences(side: Tensor, shift: Tensor, basis: Tensor, s: Tensor) -> Tensor:
    """Return the influences ``(N,)`` of one side's examples.

    Arguments:
        side: ``(N, D)``.
        shift: Its mean less the other's, ``(D,)``.
        basis, s: Left singular vectors ``(N, K)`` and values ``(K,)`` of the product with the other side.
    """
    centred = side - side.mean(dim=0)
    transported = (len(side) - 1) * (basis.square() @ s)  # (N,): z^T T z
    return 2 * (centred @ shift) + centred.square().sum(dim=1) - transported


@dataclass(frozen=True)
class Extrapolated:
    """A distance, its standard errors from x and from y, and that of second order, which belongs to both."""

    value: float
    stderr_x: float
    stderr_y: float
    stderr_second: float

    @property
    def stderr(self) -> float:
        return math.hypot(self.stderr_x, self.stderr_y, self.stderr_second)


def frechet_infinity(x: Tensor, y: Tensor, generator: Generator) -> Extrapolated:
    r"""Return the squared Fréchet distance of features ``(N, D)`` and ``(M, D)`` extrapolated to N = M = infinity.

    N and M should be at least 4 D. The value may be below 0, as that of an unbiased estimate must be where the truth
    is 0.

    The errors from x and y are those of the distance of all examples. The term of second order is a sum over pairs of
    examples that are in different halves. In a half it has the variance v, which the two halves of each of R partitions
    show by the difference of their distances less that of their influences; in the extrapolation :math:`(1 + 1/R)\,v /
    4`.

    Arguments:
        generator: Of the R = 4 partitions.
    """
    x, y = x.double(), y.double()
    on_x, on_y = (influence - influence.mean() for influence in frechet_influences(x, y))
    halves, squares = [], []
    for _ in range(PARTITIONS):
        parts = [torch.randperm(len(side), generator=generator).tensor_split(2) for side in (x, y)]
        first, second = (frechet_distance_from_features(x[i], y[j]) for i, j in zip(*parts, strict=True))
        linear = [float(on_x[i].mean() + on_y[j].mean()) for i, j in zip(*parts, strict=True)]
        halves += [first, second]
        squares.append((first - second - (linear[0] - linear[1])) ** 2 / 2)
    value = 2 * frechet_distance_from_features(x, y) - math.fsum(halves) / len(halves)
    variance = math.fsum(squares) / PARTITIONS
    of_x, of_y = (math.sqrt(influence.var().item() / len(influence)) for influence in (on_x, on_y))
    return Extrapolated(value, of_x, of_y, math.sqrt((1 + 1 / PARTITIONS) * variance / 4))


class FID(Metric):
    """Computes ``fid[<features>]`` between the test split and the subject's samples.

    Where only the test split's mean and covariance are known, they are compared with the samples, and the standard
    error is that of the samples alone.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"fid[{name}]", "", False, self.version, f"FID[{name}]", rank=30),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        if examples.moments is not None:
            return [self._to_moments(info, examples, examples.moments)]
        sets = two_sets(examples, self.recipe, self.n_samples)
        real, fake = on_gpu(sets.real, sets.fake)
        value = max(0.0, frechet_distance_from_features(real, fake))  # rounding gives about -1e-13 for equal sets
        of_test, of_samples = frechet_stderr(real, fake)
        return [measured(info, value, test=of_test, draws=of_samples, within=(0.0, math.inf), **sets.about)]

    def _to_moments(self, info: MetricInfo, examples: Examples, moments: Moments) -> Estimate:
        examples.need(self.recipe)
        samples = examples.samples(self.n_samples)
        extractor = examples.extractor(self.recipe)
        fake = examples.features(extractor, samples)
        if fake.shape[1] != len(moments.mean):
            raise UnavailableError(f"{extractor.name} has {fake.shape[1]} features, and {moments.name} is of "
                                   f"{len(moments.mean)}: it was made with another extractor")  # fmt: skip
        if len(fake) < 2 or not bool(torch.isfinite(fake).all()):
            raise BrokenError(f"needs at least 2 samples with finite features, of {len(fake)}")
        fake, mean, cov = on_gpu(fake, moments.mean, moments.cov)
        value, of_samples = frechet_to_moments(fake, mean, cov)
        return measured(
            info, max(0.0, value), draws=of_samples, within=(0.0, math.inf), n_fake=len(fake),
            extractor=extractor.name, extractor_hash=extractor.hash, reason=OF_SAMPLES_ALONE,
        )  # fmt: skip


class FIDInfinity(Metric):
    """Computes ``fid_infinity[<features>]`` between the test split and the subject's samples.

    Arguments:
        features: Recipe of the features.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"fid_infinity[{name}]", "", False, self.version, f"FID∞[{name}]", rank=31),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        sets = two_sets(examples, self.recipe, self.n_samples)
        n, dim = min(len(sets.real), len(sets.fake)), sets.real.shape[1]
        if n < LEAST * dim:
            raise UnavailableError(f"needs at least {LEAST * dim} real examples and samples, {LEAST} for each of "
                                   f"{dim} features, not {len(sets.real)} and {len(sets.fake)}")  # fmt: skip
        # The same halves of the real examples for all subjects of one seed.
        generator = Generator().manual_seed(derive_seed(examples.seed, "fid_infinity"))
        real, fake = on_gpu(sets.real, sets.fake)
        found = frechet_infinity(real, fake, generator)
        draws = math.hypot(found.stderr_y, found.stderr_second)
        return [measured(info, found.value, test=found.stderr_x, draws=draws, **sets.about)]


def _cholesky(cov: Tensor) -> Tensor | None:
    """Return the lower Cholesky factor ``(D, D)``, or None if the matrix is not positive definite within rounding."""
    factor, info = torch.linalg.cholesky_ex(cov)
    pivots = factor.diagonal()
    if int(info) != 0 or not bool(pivots.min() > SINGULAR * pivots.max()):
        return None
    return factor


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, s and V^T of a matrix on its device, by LAPACK on the CPU.

    The matrix has no row for each example, so it is small beside the features, which stay where they are.
    """
    u, s, vh = torch.linalg.svd(matrix.cpu(), full_matrices=False)
    return u.to(matrix.device), s.to(matrix.device), vh.to(matrix.device)


def _congruent(factor: Tensor, cov: Tensor) -> Tensor:
    """Return the lower triangle of L^T S L ``(D, D)`` for a lower triangular L and a symmetric S.

    On a CPU LAPACK's ``dsygst`` uses that L is triangular and the result symmetric: D^3 operations in place of 4 D^3.
    """
    if factor.device.type != "cpu":
        return factor.T @ cov @ factor
    product, info = lapack.dsygst(cov.numpy(), factor.numpy(), itype=2, lower=1)
    assert info == 0
    return torch.from_numpy(product)


def _scaled(x: Tensor) -> Tensor:
    """Return the centred features divided by sqrt(N - 1). Their Gram matrix is the covariance."""
    return (x - x.mean(dim=0)) / math.sqrt(len(x) - 1)
