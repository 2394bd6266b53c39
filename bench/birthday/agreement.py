"""Agreement of two judges beyond chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.metrics.intervals import Z975

__all__ = ["Kappa", "cohens_kappa"]


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa with its standard error and 95 % interval; None where both always give one and the same answer."""

    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    n: int


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> Kappa:
    r"""Return the agreement of two judges about the same n pairs.

    .. math::
        \kappa = \frac{p_o - p_e}{1 - p_e}, \qquad p_o = \sum_i p_{ii}, \quad p_e = \sum_i p_{i\cdot} p_{\cdot i}

    (Cohen 1960, "A coefficient of agreement for nominal scales"), with the large-sample variance of Fleiss, Cohen and
    Everitt 1969, "Large sample standard errors of kappa and weighted kappa":

    .. math::
        n (1 - p_e)^2 \operatorname{var} \hat\kappa = \sum_i p_{ii} [1 - (p_{i\cdot} + p_{\cdot i})(1 - \kappa)]^2
        + (1 - \kappa)^2 \sum_{i \ne j} p_{ij} (p_{\cdot i} + p_{j\cdot})^2 - [\kappa - p_e (1 - \kappa)]^2

    The interval is clipped to [-1, 1]. There is none with full agreement, where the formula gives a variance of 0, or
    if one judge always gives the same answer, so that kappa is 0 whatever the other says.

    Arguments:
        first, second: The answers of either judge, in the same order.
    """
    n = len(first)
    words = sorted({*first, *second})
    p = np.zeros((len(words), len(words)))
    for one, other in zip(first, second, strict=True):
        p[words.index(one), words.index(other)] += 1 / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    if len(words) < 2:
        return Kappa(None, None, None, None, n)
    observed, expected = float(p.trace()), float(rows @ columns)
    if len(set(first)) < 2 or len(set(second)) < 2:
        return Kappa(0.0, None, None, None, n)
    kappa = (observed - expected) / (1 - expected)
    diagonal = float((p.diagonal() * (1 - (rows + columns) * (1 - kappa)) ** 2).sum())
    weights = (columns[:, None] + rows[None, :]) ** 2  # (p_.i + p_j.)^2 in row i, column j
    beside = p * weights
    np.fill_diagonal(beside, 0)
    variance = diagonal + (1 - kappa) ** 2 * float(beside.sum()) - (kappa - expected * (1 - kappa)) ** 2
    stderr = math.sqrt(max(variance, 0.0) / n) / (1 - expected)
    if observed > 1 - 0.5 / n:
        return Kappa(1.0, None, None, None, n)
    return Kappa(kappa, stderr, max(-1.0, kappa - Z975 * stderr), min(1.0, kappa + Z975 * stderr), n)
