r"""Log-likelihood in nats and in bits per dimension: the one place for bounds from K draws and for bits/dim.

Each draw w of a model's ``log_weight`` has :math:`E[w] = p(x)`. The mean of K draws gives the importance-weighted bound
(Burda, Grosse, Salakhutdinov 2016, "Importance weighted autoencoders")

.. math:: L_K(x) = \log \frac1K \sum_k w_k, \qquad E[L_1] \le E[L_2] \le \dots \le \log p(x),

an equality for K = 1 where w is deterministic. Where log w itself is an unbiased estimate (of a log-determinant), the
logarithm of a mean would be biased upwards; draws are then averaged as they are, and what the estimator adds to the
error of that average is measured too. Data of integers have probabilities, so their bits/dim is the length of a
lossless code; a density of reals has no bits per dimension.
"""

import math
from types import MappingProxyType

import torch
from torch import Tensor

from bench.metrics.base import Context, Metric, Need
from bench.schema import Estimate, MetricInfo, Relation, Status

__all__ = ["LogLikelihood", "bits_per_dim", "estimate_errors", "k_draw_bound", "log_mean_exp"]


def log_mean_exp(log_w: Tensor, dim: int) -> Tensor:
    r""":math:`\log \frac1K \sum_k e^{\log w_k}` along ``dim`` of size K, in float64; -inf if all weights are 0."""
    return torch.logsumexp(log_w.double(), dim=dim) - math.log(log_w.shape[dim])


def k_draw_bound(log_w: Tensor) -> Tensor:
    """``(K, N)`` draws of log w to the bound L_K of each example, ``(N,)`` nats, float64."""
    return log_mean_exp(log_w, dim=0)


def estimate_errors(log_w: Tensor) -> tuple[float, float]:
    r"""Standard errors of the mean over ``(K, N)`` draws of estimated log-likelihoods, K and N at least 2, in nats.

    A draw k of an example i is modelled as :math:`y_{ki} = \mu + a_i + d_k + e_{ki}`: the example's own value, noise
    that a draw shares among examples (the number of terms of a random series is drawn for whole batches), and the rest.
    With the mean squares of a two-way analysis of variance (Searle, Casella, McCulloch 1992, Variance components)

    .. math::
        \operatorname{Var} \bar y = \frac{\sigma_a^2}{N} + \frac{\sigma_d^2}{K} + \frac{\sigma_e^2}{NK}, \qquad
        \widehat{\operatorname{Var}} \bar y = \frac{M_a + \max(0, M_d - M_e)}{NK}, \qquad
        \widehat{\operatorname{Var}}_{\text{draws}} \bar y = \frac{M_d}{NK}

    Returns:
        The error over other examples and other draws; and that over other draws for the same examples, which more draws
        make smaller: the estimator's own.
    """
    y = log_w.double()
    draws, n = y.shape
    per_example, per_draw, mean = y.mean(0), y.mean(1), y.mean()
    of_examples = draws * per_example.var()
    of_draws = n * per_draw.var()
    rest = (y - per_example - per_draw[:, None] + mean).square().sum() / ((draws - 1) * (n - 1))
    total = (of_examples + (of_draws - rest).clamp(min=0)) / (n * draws)
    return total.sqrt().item(), (of_draws / (n * draws)).sqrt().item()


def bits_per_dim(nats: float, dim: int) -> float:
    r""":math:`-\text{nats} / (D \ln 2)` for a log-probability of an example with D entries."""
    return -nats / (dim * math.log(2))


class LogLikelihood(Metric):
    """``log_likelihood``, mean nats per test example, and ``bits_per_dim`` where the data are integers.

    Standard errors are over test examples; where the relation is ``estimate``, over draws as well. The estimator's
    share then has a row of its own, ``estimator_stderr``, in nats: how far other draws would move the value.
    """

    needs = (Need.LIKELIHOOD,)
    needs_of = MappingProxyType({"bits_per_dim": (Need.INTEGER_DATA,)})

    def infos(self, context: Context) -> tuple[MetricInfo, ...]:
        infos = (
            MetricInfo("log_likelihood", "nats", True, title="log-likelihood"),
            MetricInfo("bits_per_dim", "bits/dim", False, title="bits/dim"),
        )
        if context.relation != Relation.ESTIMATE:
            return infos
        return (*infos, MetricInfo("estimator_stderr", "nats", None, title="estimator's error"))

    def compute(self, context: Context) -> list[Estimate]:
        infos = self.infos(context)
        nats_info, bits_info = infos[:2]
        draws, n = context.log_weights.shape
        log_w = context.log_weights
        bound = log_w.mean(0) if context.relation == Relation.ESTIMATE else k_draw_bound(log_w)  # (N,)
        bad = int((~torch.isfinite(bound)).sum())
        if bad > 0 or n == 0:
            reason = f"log-likelihood is not finite for {bad} of {n} examples"
            return [Estimate(info, status=Status.FAILED, reason=reason) for info in infos]
        value = bound.mean().item()
        stderr = bound.std().item() / math.sqrt(n) if n > 1 else None
        of_estimator: list[Estimate] = []
        if context.relation == Relation.ESTIMATE and n > 1 and draws > 1:
            stderr, estimator_stderr = estimate_errors(log_w)
            of_estimator.append(Estimate(infos[2], estimator_stderr, n_real=n, n_draws=draws))
        elif context.relation == Relation.ESTIMATE:
            reason = "needs two draws and two examples; add evaluate.n_draws=16"
            of_estimator.append(Estimate(infos[2], status=Status.SKIPPED, reason=reason))
        nats = _estimate(nats_info, value, stderr, Relation(context.relation), n, draws)
        if context.spec.levels is None:
            reason = "the data are real-valued: a density has no bits per dimension"
            return [nats, Estimate(bits_info, status=Status.SKIPPED, reason=reason), *of_estimator]
        error = None if stderr is None else abs(bits_per_dim(stderr, context.spec.dim))
        bits = bits_per_dim(value, context.spec.dim)
        return [nats, _estimate(bits_info, bits, error, Relation(context.relation).negated, n, draws), *of_estimator]


def _estimate(info: MetricInfo, value: float, stderr: float | None, relation: Relation, n: int, draws: int) -> Estimate:
    half = None if stderr is None else 1.959964 * stderr
    low, high = (None, None) if half is None else (value - half, value + half)
    return Estimate(info, value, stderr, low, high, relation, n_real=n, n_draws=draws)
