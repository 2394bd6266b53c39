"""K draws of log w for each example: what they say of its log-likelihood."""

import math

import torch
from torch import Tensor

from bench.schema import Relation

__all__ = ["k_draw_bound", "log_mean_exp", "per_example"]


def log_mean_exp(log_w: Tensor, dim: int) -> Tensor:
    r"""Return :math:`\log \frac1K \sum_k e^{\log w_k}` along ``dim`` of size K, float64; -inf if all weights are 0."""
    return torch.logsumexp(log_w.double(), dim=dim) - math.log(log_w.shape[dim])


def k_draw_bound(log_w: Tensor) -> Tensor:
    """Return the bound L_K of each example from ``(K, N)`` draws of log w: ``(N,)`` nats, float64."""
    return log_mean_exp(log_w, dim=0)


def per_example(log_w: Tensor, relation: Relation) -> Tensor:
    """Return what K draws say of each example's log-likelihood, ``(K, N, ...)`` to ``(N, ...)`` nats, float64.

    It is the bound L_K, which is exact where a draw is, or the mean of the draws where log w itself is an estimate.
    """
    return log_w.double().mean(0) if relation is Relation.ESTIMATE else k_draw_bound(log_w)
