r"""Log-likelihood in nats and in bits per dimension: the one place for bounds from K draws and for bits/dim.

Each draw w of a model's ``log_weight`` has :math:`E[w] = p(x)`. The mean of K draws gives the importance-weighted bound
(Burda, Grosse, Salakhutdinov 2016, "Importance weighted autoencoders")

.. math:: L_K(x) = \log \frac1K \sum_k w_k, \qquad E[L_1] \le E[L_2] \le \dots \le \log p(x),

an equality for K = 1 where w is deterministic. Where log w itself is an unbiased estimate (of a log-determinant), the
logarithm of a mean would be biased upwards; draws are then averaged as they are. Data of integers have probabilities, so their bits/dim is the length of
a lossless code; a density of reals has no bits per dimension.
"""

import math

import torch
from torch import Tensor

from bench.metrics.base import Context, Metric, Need
from bench.schema import Estimate, MetricInfo, Relation, Status

__all__ = ["LogLikelihood", "bits_per_dim", "k_draw_bound", "log_mean_exp"]


def log_mean_exp(log_w: Tensor, dim: int) -> Tensor:
    r""":math:`\log \frac1K \sum_k e^{\log w_k}` along ``dim`` of size K, in float64; -inf if all weights are 0."""
    return torch.logsumexp(log_w.double(), dim=dim) - math.log(log_w.shape[dim])


def k_draw_bound(log_w: Tensor) -> Tensor:
    """``(K, N)`` draws of log w to the bound L_K of each example, ``(N,)`` nats, float64."""
    return log_mean_exp(log_w, dim=0)


def bits_per_dim(nats: float, dim: int) -> float:
    r""":math:`-\text{nats} / (D \ln 2)` for a log-probability of an example with D entries."""
    return -nats / (dim * math.log(2))


class LogLikelihood(Metric):
    """``log_likelihood``, mean nats per test example, and ``bits_per_dim`` where the data are integers."""

    needs = (Need.LIKELIHOOD,)

    def infos(self, context: Context) -> tuple[MetricInfo, ...]:
        return (
            MetricInfo("log_likelihood", "nats", True, title="log-likelihood"),
            MetricInfo("bits_per_dim", "bits/dim", False, title="bits/dim"),
        )

    def compute(self, context: Context) -> list[Estimate]:
        nats_info, bits_info = self.infos(context)
        draws, n = context.log_weights.shape
        log_w = context.log_weights
        bound = log_w.mean(0) if context.relation == Relation.ESTIMATE else k_draw_bound(log_w)  # (N,)
        bad = int((~torch.isfinite(bound)).sum())
        if bad > 0 or n == 0:
            reason = f"log-likelihood is not finite for {bad} of {n} examples"
            return [Estimate(info, status=Status.FAILED, reason=reason) for info in (nats_info, bits_info)]
        value = bound.mean().item()
        stderr = bound.std().item() / math.sqrt(n) if n > 1 else None
        nats = _estimate(nats_info, value, stderr, Relation(context.relation), n, draws)
        if context.spec.levels is None:
            reason = "the data are real-valued: a density has no bits per dimension"
            return [nats, Estimate(bits_info, status=Status.SKIPPED, reason=reason)]
        error = None if stderr is None else abs(bits_per_dim(stderr, context.spec.dim))
        bits = bits_per_dim(value, context.spec.dim)
        return [nats, _estimate(bits_info, bits, error, Relation(context.relation).negated, n, draws)]


def _estimate(info: MetricInfo, value: float, stderr: float | None, relation: Relation, n: int, draws: int) -> Estimate:
    half = None if stderr is None else 1.959964 * stderr
    low, high = (None, None) if half is None else (value - half, value + half)
    return Estimate(info, value, stderr, low, high, relation, n_real=n, n_draws=draws)
