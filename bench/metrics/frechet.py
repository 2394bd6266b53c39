r"""Fréchet distance between Gaussians fitted to features, and its standard error.

.. math:: d^2 = \|\mu_1 - \mu_2\|^2 + \operatorname{tr}\big(S_1 + S_2 - 2 (S_1^{1/2} S_2 S_1^{1/2})^{1/2}\big)

(Dowson, Landau 1982; as FID: Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash
equilibrium", arXiv 1706.08500). Everything is computed in float64 on centred features. No matrix square root is needed:
the trace follows from the eigenvalues of a symmetric matrix, or from the singular values of :math:`X_c Y_c^\top` if a
covariance does not have full rank. FID's bias depends on the model and on the numbers of examples, so only values with
equal numbers of examples can be compared.
"""

import math

import torch
from scipy.linalg import lapack
from torch import Tensor

from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.metrics.two_sets import two_sets
from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

__all__ = ["FID", "frechet_distance", "frechet_distance_from_features", "frechet_stderr"]

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
    root = torch.linalg.svdvals(r1 @ r2.T).sum()
    traces = scaled1.square().sum() + scaled2.square().sum()
    return float((x.mean(dim=0) - y.mean(dim=0)).square().sum() + traces - 2 * root)


def frechet_stderr(x: Tensor, y: Tensor) -> tuple[float, float]:
    r"""Return the standard errors of the distance that come from features x ``(N, D)`` and from features y ``(M, D)``.

    The total error is the root of the sum of their squares.

    The influence of one centred example z of x is, up to a constant,

    .. math:: 2 z^\top (\mu_1 - \mu_2) + z^\top (I - T) z,

    where T is the optimal transport map, :math:`T S_1 T = S_2`, because :math:`\partial \operatorname{tr}(S_1^{1/2} S_2
    S_1^{1/2})^{1/2} / \partial S_1 = T/2`. For y the two sides are exchanged. The squared error is the variance of the
    influence divided by N or M. From :math:`X_c Y_c^\top / \sqrt{(N-1)(M-1)} = U s V^\top` follows
    :math:`x_i^\top T x_i = (N-1) \sum_k s_k U_{ik}^2`, without computing T or an inverse. A bootstrap would add FID's
    bias a second time.
    """
    x, y = x.double(), y.double()
    q1, r1 = torch.linalg.qr(_scaled(x))
    q2, r2 = torch.linalg.qr(_scaled(y))
    u, s, vh = torch.linalg.svd(r1 @ r2.T, full_matrices=False)
    errors = []
    for side, other, basis in ((x, y, q1 @ u), (y, x, q2 @ vh.T)):
        centred = side - side.mean(dim=0)
        transported = (len(side) - 1) * (basis.square() @ s)  # (N,): z^T T z
        shift = centred @ (side.mean(dim=0) - other.mean(dim=0))  # (N,)
        influence = 2 * shift + centred.square().sum(dim=1) - transported
        errors.append(math.sqrt(influence.var().item() / len(side)))
    return errors[0], errors[1]


class FID(Metric):
    """Computes ``fid[<features>]`` between the test split and the subject's samples.

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
        sets = two_sets(examples, self.recipe, self.n_samples)
        real, fake = sets.real, sets.fake
        value = max(0.0, frechet_distance_from_features(real, fake))  # rounding gives about -1e-13 for equal sets
        of_test, of_samples = frechet_stderr(real, fake)
        return [measured(info, value, test=of_test, draws=of_samples, within=(0.0, math.inf), **sets.about)]


def _cholesky(cov: Tensor) -> Tensor | None:
    """Return the lower Cholesky factor ``(D, D)``, or None if the matrix is not positive definite within rounding."""
    factor, info = torch.linalg.cholesky_ex(cov)
    pivots = factor.diagonal()
    if int(info) != 0 or not bool(pivots.min() > SINGULAR * pivots.max()):
        return None
    return factor


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
