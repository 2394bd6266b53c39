r"""The difference of two models' log-likelihoods on the same test examples, and what it certifies. Imports no torch.

With :math:`a_{si}` the log-likelihood of test example i of n under seed s of :math:`m_A` of the first model, :math:`b`
likewise, and :math:`d_i = \bar a_{\cdot i} - \bar b_{\cdot i}`,

.. math:: \bar d = \frac1n \sum_i d_i, \qquad
    \widehat{\operatorname{Var}}\, \bar d = \frac{s^2(d_i)}{n}
    + \frac{s^2(\bar a_{s \cdot})}{m_A} + \frac{s^2(\bar b_{s \cdot})}{m_B}.

The first term is that of other test examples. It is smaller than for unpaired examples, because what makes an example
hard makes it so for both. The others are of training again; they need two seeds of each model, and are left out without
them: then the difference is between these trained models, not between the ways of training them. Part of the variation
over seeds may be in the first term, too, so the sum is too large rather than too small.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.schema import Relation
from bench.tables.uncertainty import quantile

__all__ = ["Difference", "paired_difference", "verdict"]

_FLOORS, _CEILINGS = (Relation.EXACT, Relation.LOWER_BOUND), (Relation.EXACT, Relation.UPPER_BOUND)
_WORDS = {Relation.EXACT: "exact value", Relation.LOWER_BOUND: "lower bound", Relation.UPPER_BOUND: "upper bound"}


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its 95 % interval.

    Attributes:
        value: The first less the second.
        stderr: Standard error; ``of_test`` and ``of_seeds`` are its two parts, and the latter is None where a model has
            one seed.
        n: Number of test examples.
    """

    value: float
    stderr: float
    of_test: float
    of_seeds: float | None
    low: float
    high: float
    n: int


def paired_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> Difference:
    """Return the mean difference of a less b, ``(seeds, N)`` each, over the same N >= 2 test examples.

    The interval is that of a table's cells (``bench.tables.uncertainty.quantile``); the two variances over seeds share
    the degrees of freedom of Welch (1947).

    Raises:
        UserError: The examples are not as many, or fewer than two.
    """
    n = a.shape[1]
    if b.shape[1] != n or n < 2:
        raise UserError(f"compare: two models on the same test examples, at least 2, are compared; these are {n} and "
                        f"{b.shape[1]}")  # fmt: skip
    items = a.mean(0) - b.mean(0)
    value, of_test = float(items.mean()), float(items.std(ddof=1)) / math.sqrt(n)
    of_seeds, degrees = _seeds(a, b)
    stderr = math.hypot(of_test, of_seeds or 0.0)
    reach = stderr * quantile(of_seeds or 0.0, of_test, degrees + 1, n)
    return Difference(value, stderr, of_test, of_seeds, value - reach, value + reach, n)


def _seeds(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float | None, float]:
    """The standard error of training again, and its degrees of freedom."""
    if min(len(a), len(b)) < 2:
        return None, 1.0
    parts = [float(one.mean(1).var(ddof=1)) / len(one) for one in (a, b)]
    whole = sum(parts)
    squares = sum(part**2 / (len(one) - 1) for part, one in zip(parts, (a, b), strict=True))
    return math.sqrt(whole), whole**2 / squares if squares > 0 else 1.0


def verdict(difference: Difference, a: Relation, b: Relation) -> str:
    """Say in one line which model is better, as far as the relations of both numbers to the truth allow it.

    A model is better if a floor of its log-likelihood (exact or a lower bound) lies above a ceiling of the other's
    (exact or an upper bound), by more than the uncertainty. If both are exact, an interval around 0 is no difference;
    everything else is not certified.
    """
    if difference.low > 0 and a in _FLOORS and b in _CEILINGS:
        return f"A is better{_certified(a, b)}: its {_WORDS[a]} exceeds B's {_WORDS[b]}"
    if difference.high < 0 and b in _FLOORS and a in _CEILINGS:
        return f"B is better{_certified(b, a)}: its {_WORDS[b]} exceeds A's {_WORDS[a]}"
    if a is b is Relation.EXACT:
        reach = max(abs(difference.low), abs(difference.high))
        return f"no difference is seen; if there is one, it is smaller than {reach:.3g} nats"
    return f"not certified: {_why(a, b)}"


def _certified(better: Relation, worse: Relation) -> str:
    return "" if better is worse is Relation.EXACT else ", certified"


def _why(a: Relation, b: Relation) -> str:
    if Relation.ESTIMATE in (a, b):
        return "an estimate is neither a floor nor a ceiling"
    if a is b:
        return "both are bounds on the same side, and either truth may lie anywhere beyond"
    if Relation.EXACT in (a, b):
        bounded, exact = ("B", "A") if a is Relation.EXACT else ("A", "B")
        return f"{bounded}'s bound leaves its truth on either side of {exact}'s exact value"
    return "the bounds overlap"
