r"""Metrics that stream: ``torchmetrics.Metric`` objects around our pure functions, for training loops of your own.

Each keeps the count, the mean and the centred second moment of what it is given, batch by batch, as one symmetric
matrix in float64. Two such matrices merge without loss (Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise
algorithm for computing sample variances", Stanford STAN-CS-79-773), so that the order and the sizes of batches do not
matter, and neither does the number of processes. A sum of squares would cancel where the mean is far from 0. States are
float64, so a metric cannot be on a device that has none (Apple's GPUs), and one that has seen examples must not be cast
with ``to(dtype)``.

``OfSamples`` does the same for every other metric, and keeps all samples for it.

This is the only file that imports torchmetrics: it takes seconds, and nothing that the commands do needs it.
"""

from typing import Any

import numpy as np
import torch
import torchmetrics
from torch import Tensor

from bench.data.base import Data
from bench.errors import BrokenError, UnavailableError
from bench.metrics.base import Metric
from bench.metrics.frechet import frechet_distance
from bench.metrics.likelihood import k_draw_bound
from bench.schema import Status
from bench.subjects.base import Origin
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples

__all__ = ["FrechetDistance", "InceptionScore", "MeanLogLikelihood", "OfSamples", "merge", "moments"]


def moments(x: Tensor) -> Tensor:
    r"""Count, mean and centred second moment of ``(N, D)`` as one symmetric matrix ``(D+1, D+1)``, float64.

    .. math:: \begin{pmatrix} N & \mu^\top \\ \mu & \sum_i (x_i - \mu)(x_i - \mu)^\top \end{pmatrix}

    Of no examples all entries are 0.
    """
    x = x.double()
    mean = x.sum(dim=0) / max(len(x), 1)
    centred = x - mean
    return _matrix(x.new_tensor(len(x)), mean, centred.T @ centred)


def merge(parts: Tensor) -> Tensor:
    r"""The matrix of all examples together from those of W parts, ``(W, D+1, D+1) -> (D+1, D+1)``.

    .. math:: N = \sum_w N_w, \quad \mu = \sum_w \frac{N_w}{N} \mu_w, \quad
        M = \sum_w M_w + N_w (\mu_w - \mu)(\mu_w - \mu)^\top
    """
    parts = parts.double()
    counts, means = parts[:, 0, 0], parts[:, 0, 1:]  # (W,), (W, D)
    total = counts.sum()
    mean = counts @ means / total.clamp_min(1)
    shifts = means - mean
    return _matrix(total, mean, parts[:, 1:, 1:].sum(dim=0) + (counts[:, None] * shifts).T @ shifts)


class FrechetDistance(torchmetrics.Metric):
    r"""Squared Fréchet distance between Gaussians fitted to real and to fake features.

    .. math:: d^2 = \|\mu_1 - \mu_2\|^2 + \operatorname{tr}\big(S_1 + S_2 - 2 (S_1^{1/2} S_2 S_1^{1/2})^{1/2}\big)

    (Dowson, Landau 1982; as FID: Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local
    Nash equilibrium", arXiv 1706.08500.) The value is that of ``bench.metrics.frechet.frechet_distance``, a float64
    tensor in squared units of the features. Memory is two matrices ``(D+1, D+1)``, whatever the number of examples.
    Bring more examples than dimensions on both sides. With fewer, the covariances have no full rank, and roots of
    rounding errors enter: about 1e-8 of the features' total variance.

    Arguments:
        dim: D, the number of features of an example.
        kwargs: Of ``torchmetrics.Metric``, such as ``sync_on_compute``.

    >>> import torch
    >>> from bench.metrics.streaming import FrechetDistance
    >>> metric = FrechetDistance(dim=1)
    >>> metric.update(torch.tensor([[0.0], [2.0]]), real=True)
    >>> metric.update(torch.tensor([[3.0]]), real=False)
    >>> metric.update(torch.tensor([[5.0]]), real=False)
    >>> metric.compute()  # equal variances, means 1 and 4
    tensor(9., dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    real: Tensor
    fake: Tensor

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.add_state("real", _nothing(dim), dist_reduce_fx=merge)
        self.add_state("fake", _nothing(dim), dist_reduce_fx=merge)

    def update(self, features: Tensor, real: bool) -> None:
        """Add features ``(N, D)`` of real or of fake examples.

        Raises:
            ValueError: They have another shape, or are not finite.
        """
        _check("features", features, self.dim)
        if real:
            self.real = merge(torch.stack([self.real, moments(features)]))
        else:
            self.fake = merge(torch.stack([self.fake, moments(features)]))

    def compute(self) -> Tensor:
        """The distance of all examples so far.

        Raises:
            ValueError: There are fewer than two examples on a side.
        """
        distance = frechet_distance(*_gaussian(self.real, "real"), *_gaussian(self.fake, "fake"))
        return self.real.new_tensor(distance, dtype=torch.float64)


class InceptionScore(torchmetrics.Metric):
    r"""Inception Score from class probabilities, all samples one split, and its standard error.

    .. math:: \text{IS} = \exp\Big(\frac1N \sum_i \mathrm{KL}\big(p(y|x_i) \,\big\|\, \bar p\big)\Big), \qquad
        \bar p = \frac1N \sum_i p(y|x_i)

    between 1 and C (Salimans et al. 2016, "Improved techniques for training GANs", arXiv 1606.03498). Score and error
    are those of ``bench.metrics.inception_score.inception_score``: :math:`\mathrm{KL}_i = h_i - p_i^\top \log \bar p`
    with :math:`h_i = \sum_c p_{ic} \log p_{ic}` is linear in :math:`(h_i, p_i)`, whose mean and covariance are kept.

    Arguments:
        classes: C, the number of classes.
        kwargs: Of ``torchmetrics.Metric``.

    >>> import torch
    >>> from bench.metrics.streaming import InceptionScore
    >>> metric = InceptionScore(classes=2)
    >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))  # sure of each, and both classes equally often
    >>> metric.compute()
    (tensor(2., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    seen: Tensor

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes
        self.add_state("seen", _nothing(classes + 1), dist_reduce_fx=merge)

    def update(self, probabilities: Tensor) -> None:
        """Add class probabilities ``(N, C)``; rows sum to 1, but for rounding.

        Raises:
            ValueError: They have another shape, or are no probabilities.
        """
        _check("probabilities", probabilities, self.classes)
        p = probabilities.double()
        sums = p.sum(dim=1, keepdim=True)  # (N, 1)
        if bool((p < 0).any() or ((sums - 1).abs() > 0.02).any()):  # half precision sums to 1 within 0.01
            raise ValueError("probabilities must not be negative, and those of an example must sum to 1")
        p = p / sums
        h = torch.xlogy(p, p).sum(dim=1, keepdim=True)  # (N, 1)
        self.seen = merge(torch.stack([self.seen, moments(torch.cat([h, p], dim=1))]))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Score and standard error of all samples so far.

        Raises:
            ValueError: There are fewer than two samples.
        """
        mean, cov = _gaussian(self.seen, "given")  # of (h, p): (C+1,), (C+1, C+1)
        log_marginal = torch.where(mean[1:] > 0, mean[1:], 1.0).log()  # of a class that nobody predicts p is 0
        weights = torch.cat([log_marginal.new_ones(1), -log_marginal])
        score = (weights @ mean).exp()
        variance = (weights @ cov @ weights).clamp_min(0)  # of KL_i
        return score, score * (variance / self.seen[0, 0]).sqrt()


class MeanLogLikelihood(torchmetrics.Metric):
    r"""Mean log-likelihood of examples, or of its K-draw bound, and its standard error, both in nats.

    .. math:: L = \frac1N \sum_i L_K(x_i), \qquad L_K(x) = \log \frac1K \sum_k w_k, \qquad
        \mathrm{se} = \mathrm{sd}(L_K(x_i)) / \sqrt N

    (Burda, Grosse, Salakhutdinov 2016, "Importance weighted autoencoders", arXiv 1509.00519.) The error is over other
    examples and other draws. For bits/dim of integers use ``bench.metrics.likelihood.bits_per_dim``. Where log w is an
    unbiased estimate of log p, not w of p, average the draws yourself and give the means ``(N,)``; the error then lacks
    what draws share among examples (``bench.metrics.likelihood.estimate_errors``).

    Arguments:
        kwargs: Of ``torchmetrics.Metric``.

    >>> import torch
    >>> from bench.metrics.likelihood import bits_per_dim
    >>> from bench.metrics.streaming import MeanLogLikelihood
    >>> metric = MeanLogLikelihood()
    >>> metric.update(torch.tensor([-3.0, -5.0]))
    >>> metric.update(torch.tensor([[-4.0, -6.0], [-4.0, -6.0]]))  # two draws of two examples
    >>> nats, stderr = metric.compute()
    >>> nats
    tensor(-4.5000, dtype=torch.float64)
    >>> round(bits_per_dim(nats.item(), dim=2), 4)
    3.2461
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    seen: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("seen", _nothing(1), dist_reduce_fx=merge)

    def update(self, log_w: Tensor) -> None:
        """Add log-likelihoods ``(N,)``, or K draws of log w ``(K, N)``, in nats.

        Raises:
            ValueError: They have another shape, or a log-likelihood is not finite.
        """
        if log_w.ndim not in (1, 2) or len(log_w) == 0 < log_w.ndim - 1:
            raise ValueError(f"log-likelihoods have the shape {tuple(log_w.shape)}; wanted is (N,) or (K, N)")
        bound = k_draw_bound(log_w) if log_w.ndim == 2 else log_w.double()  # (N,)
        _check("log-likelihoods", bound[:, None], 1)
        self.seen = merge(torch.stack([self.seen, moments(bound[:, None])]))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard error of all examples so far, in nats.

        Raises:
            ValueError: There are fewer than two examples.
        """
        mean, variance = _gaussian(self.seen, "given")
        return mean[0], (variance[0, 0] / self.seen[0, 0]).sqrt()


class OfSamples(torchmetrics.Metric):
    """Any metric of ``bench.metrics`` that needs samples alone: its numbers by name.

    All samples are kept, and those of all processes are brought together. They are put into an order that depends on
    them alone, so that the numbers do not depend on batches, nor on which process had which samples.

    Arguments:
        metric: Such as ``bench.metrics.manifold.Manifold(features, n_samples)``; it takes ``n_samples`` of all.
        data: What the samples imitate. Every process has all of it.
        seed: Of what the metric draws.
        kwargs: Of ``torchmetrics.Metric``.

    >>> import torch
    >>> from bench.data.toy import ring8
    >>> from bench.features.pixels import Pixels
    >>> from bench.metrics.kernel_distance import KID
    >>> from bench.metrics.streaming import OfSamples
    >>> data = ring8()
    >>> metric = OfSamples(KID(Pixels(), n_samples=400), data)
    >>> for batch in data.test.x[:400].split(100):
    ...     metric.update(batch)
    >>> list(metric.compute())
    ['kid[pixels]']
    """

    is_differentiable = False
    full_state_update = False
    samples: list[Tensor]

    def __init__(self, metric: Metric, data: Data, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metric, self.data, self.seed = metric, data, seed
        self.add_state("samples", [], dist_reduce_fx="cat")

    def update(self, samples: Tensor) -> None:
        """Add samples ``(N, *shape)`` in the data's own space and dtype.

        Raises:
            ValueError: They have another shape or dtype.
        """
        like = self.data.test.x
        if samples.shape[1:] != like.shape[1:] or samples.dtype != like.dtype:
            wanted = f"(N, {', '.join(map(str, like.shape[1:]))}) {like.dtype}"
            raise ValueError(f"samples are {tuple(samples.shape)} {samples.dtype}; wanted is {wanted}")
        self.samples.append(samples)

    def compute(self) -> dict[str, Tensor]:
        """The metric's numbers by name, float64: those that apply to these data and samples.

        Raises:
            ValueError: There are no samples, the metric needs more than samples, or it failed.
        """
        kept = self.samples if isinstance(self.samples, list) else [self.samples]
        if sum(map(len, kept)) == 0:
            raise ValueError("at least one sample is needed; none was given")
        x = torch.cat(kept).cpu()
        x = x[torch.from_numpy(np.lexsort(x.flatten(1).numpy().T))]
        origin = Origin("", "", "", "", "", "")
        try:
            found = self.metric.compute(Examples(GivenSamples(x, self.seed, origin), self.data, seed=self.seed))
        except (UnavailableError, BrokenError) as error:
            raise ValueError(str(error)) from error
        failed = [f"{one.info.name}: {one.reason}" for one in found if one.status is Status.FAILED]
        if failed:
            raise ValueError("; ".join(failed))
        return {one.info.name: torch.tensor(one.value, dtype=torch.float64) for one in found if one.value is not None}


def _matrix(count: Tensor, mean: Tensor, scatter: Tensor) -> Tensor:
    """The symmetric matrix of ``moments`` from its parts."""
    made = scatter.new_empty(len(mean) + 1, len(mean) + 1)
    made[0, 0] = count
    made[0, 1:] = made[1:, 0] = mean
    made[1:, 1:] = scatter
    return made


def _nothing(dim: int) -> Tensor:
    """The matrix of no examples."""
    return torch.zeros(dim + 1, dim + 1, dtype=torch.float64)


def _gaussian(matrix: Tensor, which: str) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)`` and unbiased covariance ``(D, D)``; ValueError where fewer than two examples were ``which``."""
    count = int(matrix[0, 0])
    if count < 2:
        raise ValueError(f"at least 2 examples are needed; {count} {'was' if count == 1 else 'were'} {which}")
    return matrix[0, 1:].double(), matrix[1:, 1:].double() / (count - 1)


def _check(what: str, x: Tensor, dim: int) -> None:
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"{what} have the shape {tuple(x.shape)}; wanted is (N, {dim})")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{what} contain NaN or infinity")
