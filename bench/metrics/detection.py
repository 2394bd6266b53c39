r"""How well a score detects examples of another data set: AUROC, AUPR and FPR95, each with its standard error.

The examples of the other set are the positives, as in Hendrycks, Mazeika, Dietterich 2019, "Deep anomaly detection with
outlier exposure" (arXiv 1812.04606), and a detector calls everything positive whose score is at least a threshold t.
With the shares :math:`R(t)` of the M positives and :math:`F(t)` of the N negatives whose score is at least t, and
:math:`\pi = M / (M + N)`,

.. math:: \text{AUROC} = P(s^+ > s^-) + \tfrac12 P(s^+ = s^-), \qquad
    \text{AUPR} = E_{t \sim s^+}\Big[\frac{\pi R(t)}{\pi R(t) + (1 - \pi) F(t)}\Big], \qquad
    \text{FPR95} = F(\max\{t: R(t) \ge 0.95\}).

A score that tells nothing has 1/2, :math:`\pi` and 0.95. Ties are counted as above, so the order of the examples does
not matter. Scores may be infinite. Nothing is ever turned round: an AUROC below 1/2 is a score that points the wrong
way. All functions take the scores of the negatives ``(N,)`` and of the positives ``(M,)``, N, M >= 2, and return a
value and its standard error over other examples of both sets, for the same numbers of them.
"""

import math

import numpy as np
import torch
from scipy.special import betainc
from torch import Tensor

__all__ = ["aupr", "auroc", "fpr95"]


def auroc(negatives: Tensor, positives: Tensor) -> tuple[float, float]:
    """Return the area under the ROC curve and its standard error.

    The error is that of DeLong, DeLong, Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver
    operating characteristic curves". It is 0 where the sets are separated perfectly.
    """
    above, below = _place(negatives, positives), 1 - _place(positives, negatives)
    return above.mean().item(), math.sqrt(above.var().item() / len(above) + below.var().item() / len(below))


def _place(a: Tensor, b: Tensor) -> Tensor:
    """The share of a that lies below each entry of b, ties counted by half."""
    ordered, b = a.double().sort().values, b.double()
    twice = torch.searchsorted(ordered, b) + torch.searchsorted(ordered, b, right=True)
    return twice.double() / (2 * len(a))


def aupr(negatives: Tensor, positives: Tensor) -> tuple[float, float]:
    r"""Return the average precision, the area under the precision-recall curve by steps, and its standard error.

    The error is that of the influence functions: with the precision :math:`p_i` at the score of positive i, positive j
    adds :math:`p_j` and moves the :math:`R(s_i)` of all scores that are at most its own; a negative moves
    :math:`F(s_i)` likewise.
    """
    plus, minus = positives.double().sort().values, negatives.double().sort().values
    m, n = len(plus), len(minus)
    share = m / (m + n)
    r = (m - torch.searchsorted(plus, plus)).double() / m  # (M,) R at each positive's score
    f = (n - torch.searchsorted(minus, plus)).double() / n  # (M,)
    whole = share * r + (1 - share) * f
    precision = share * r / whole
    value = precision.mean()
    by_r, by_f = share * (1 - share) * f / whole**2, -share * (1 - share) * r / whole**2
    on_plus = precision - value + _at_most(plus, by_r, plus) - (by_r * r).mean()
    on_minus = _at_most(plus, by_f, minus) - (by_f * f).mean()
    return value.item(), math.sqrt(on_plus.var().item() / m + on_minus.var().item() / n)


def _at_most(ordered: Tensor, weights: Tensor, scores: Tensor) -> Tensor:
    """The mean over ``ordered`` of the weights, without those of entries above each of the scores."""
    sums = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
    return sums[torch.searchsorted(ordered, scores, right=True)] / len(ordered)


def fpr95(negatives: Tensor, positives: Tensor) -> tuple[float, float]:
    """Return the share of negatives that are called positive where 95 % of the positives are, and its standard error.

    The error is that of the bootstrap over both sets, computed rather than drawn: the threshold is an order statistic,
    whose bootstrap distribution is known (Maritz, Jarrett 1978, "A note on estimating the variance of the sample
    median").
    """
    plus, minus = positives.double().sort().values, negatives.double().sort().values
    m, n = len(plus), len(minus)
    place = m - -(-19 * m // 20)  # so many positives may lie below the threshold
    false = (n - torch.searchsorted(minus, plus)).numpy() / n  # (M,) F at each positive's score
    # The (place + 1)-th smallest of M draws from the positives is at most the j-th with this probability.
    at_most = betainc(place + 1, m - place, np.arange(m + 1) / m)
    weights = np.diff(at_most)
    mean = float(weights @ false)
    of_threshold = float(weights @ (false - mean) ** 2)
    of_negatives = float(weights @ (false * (1 - false))) / n
    return float(false[place]), math.sqrt(of_threshold + of_negatives)
