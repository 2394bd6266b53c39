"""What the answers of a judge say about the samples: true copies among the closest pairs, and the support size.

A judge overlooks copies and sees some that are none. Decoys of known truth, mixed with the pairs, measure both.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy import special, stats

from bench.birthday.pairs import FEWEST, MOST
from bench.birthday.record import Answer, Key, Shown
from bench.metrics.support_size import pair_limits

__all__ = ["Copies", "Support", "Tally", "Verdict", "both", "can_tell", "copies", "support", "tally"]

_TAIL = 0.025  # on either side of a 95 % interval
_REST = 4  # the last quarter of the list tells whether the list is long enough


@dataclass(frozen=True)
class Tally:
    """How often a judge said "same". What is not "same" is "different", "cannot tell", or no answer.

    Attributes:
        candidates, called: Close pairs of samples, and how many of them were called the same.
        same, found: Decoys of one real example, and how many of them were called the same.
        different, mistaken: Decoys of two different real examples, and how many of them were called the same.
    """

    candidates: int
    called: int
    same: int
    found: int
    different: int
    mistaken: int

    @property
    def sensitivity(self) -> float:
        """Share of copies that are called the same."""
        return self.found / self.same

    @property
    def specificity(self) -> float:
        """Share of different pairs that are not called the same."""
        return 1 - self.mistaken / self.different


class Verdict(StrEnum):
    """How N_eff is to be read."""

    SUPPORTED = "supported"
    AT_LEAST = "at least"
    AT_MOST = "at most"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Copies:
    """How many of the candidates are copies, corrected for the judge's mistakes, with its 95 % interval."""

    value: float
    low: int
    high: int


@dataclass(frozen=True)
class Support:
    """The Rényi-2 support N_eff with its 95 % interval; None where there is none. ``why`` explains the verdict."""

    verdict: Verdict
    why: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


def tally(pairs: Sequence[Shown], answers: Mapping[str, Answer]) -> Tally:
    """Count the pairs that were called the same."""
    shown = Counter(pair.kind for pair in pairs)
    called = Counter(pair.kind for pair in pairs if answers.get(pair.hash) == "y")
    return Tally(
        shown["candidate"], called["candidate"], shown["same"], called["same"], shown["different"], called["different"]
    )


def both(first: Mapping[str, Answer], second: Mapping[str, Answer]) -> dict[str, Answer]:
    """Return the answers of two judges as one: "same" where both say so, "cannot tell" elsewhere.

    Decoys measure this pair of judges like a single one.
    """
    return {name: "y" if answer == second.get(name) == "y" else "?" for name, answer in first.items()}


def can_tell(counts: Tally) -> bool:
    """Whether the decoys show that the judge tells copies from different pairs (Fisher's exact test, 5 %)."""
    table = [
        [counts.found, counts.same - counts.found],
        [counts.mistaken, counts.different - counts.mistaken],
    ]
    return min(counts.same, counts.different) > 0 and float(stats.fisher_exact(table, "greater").pvalue) <= 0.05


def copies(counts: Tally) -> Copies:
    r"""Return how many of the M candidates are copies, from the K that were called the same.

    .. math:: \hat T = M \, \frac{K / M + \text{specificity} - 1}{\text{sensitivity} + \text{specificity} - 1}

    clipped to [0, M] (Rogan and Gladen 1978, "Estimating prevalence from the results of a screening test"). The
    interval holds every T for which neither K or more, nor K or fewer, has a probability below 2.5 %. Under T, K is the
    sum of two beta-binomial numbers: of T copies those that are recognized, and of M - T different pairs those that are
    taken for copies. Their probabilities have the decoys' Jeffreys posteriors.

    Arguments:
        counts: With decoys of both kinds, and a sensitivity + specificity above 1.
    """
    m, gain = counts.candidates, counts.sensitivity + counts.specificity - 1
    estimate = min(float(m), max(0.0, (counts.called - m * (1 - counts.specificity)) / gain))
    possible = [t for t in range(m + 1) if _is_possible(t, counts)]
    low, high = min(possible, default=0), max(possible, default=m)
    return Copies(estimate, min(low, math.floor(estimate)), max(high, math.ceil(estimate)))


def _is_possible(t: int, counts: Tally) -> bool:
    p = called_same(t, counts)
    return p[: counts.called + 1].sum() >= _TAIL and p[counts.called :].sum() >= _TAIL


def called_same(t: int, counts: Tally) -> np.ndarray[Any, Any]:
    """Return the probabilities that 0 .. M candidates are called the same if ``t`` are copies: ``(M + 1,)``."""
    missed, rejected = counts.same - counts.found, counts.different - counts.mistaken
    found = _beta_binomial(t, counts.found + 0.5, missed + 0.5)
    return np.convolve(found, _beta_binomial(counts.candidates - t, counts.mistaken + 0.5, rejected + 0.5))


def _beta_binomial(n: int, a: float, b: float) -> np.ndarray[Any, Any]:
    k = np.arange(n + 1)
    log_choose = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return np.exp(log_choose + special.betaln(k + a, n - k + b) - special.betaln(a, b))


def support(key: Key, answers: Mapping[str, Answer]) -> tuple[Tally, Copies | None, Support]:
    r"""Return the counts, the copies among the candidates, and what they say about the support.

    With T copies among the :math:`\binom s2` pairs of samples, :math:`N_{\text{eff}} = \binom s2 / T`. The interval
    joins that of T with the sampling error of T: ``pair_limits`` of its upper and of its lower limit, with the variance
    of groups that the pairs called the same show. It is conservative.

    The verdict is *inconclusive* if the judge does not recognize the decoys; *at most* if there are copies in the
    farthest quarter of the list, so that there may be more beyond it; *at least* if no copy is certain (inconclusive if
    both hold); else *supported*.
    """
    counts = tally(key.pairs, answers)
    if not can_tell(counts):
        why = (
            f"the judge called {counts.found} of {counts.same} copies the same, and {counts.mistaken} of "
            f"{counts.different} different pairs: these answers do not tell copies from look-alikes"
        )
        return counts, None, Support(Verdict.INCONCLUSIVE, why)
    found = copies(counts)
    return counts, found, _support(key, answers, found)


def _support(key: Key, answers: Mapping[str, Answer], found: Copies) -> Support:
    candidates = sorted((pair for pair in key.pairs if pair.kind == "candidate"), key=lambda pair: pair.distance)
    same = [pair for pair in candidates if answers.get(pair.hash) == "y"]
    degrees = Counter(sample for pair in same for sample in (pair.first, pair.second))
    shared = sum(degree * (degree - 1) // 2 for degree in degrees.values())
    pairs = key.samples * (key.samples - 1) / 2

    def limits(count: int) -> tuple[float, float]:
        return pair_limits(count, count * (1 - count / pairs), 2 * shared, pairs)

    low = pairs / limits(found.high)[1]
    rest = candidates[-max(1, len(candidates) // _REST) :]
    beyond = sum(answers.get(pair.hash) == "y" for pair in rest)
    # A list of 200 cannot be longer; half as many samples have a quarter of the copies.
    more = f"show more pairs, as in pairs={min(MOST, 4 * len(candidates))}"
    fewer = f"search fewer samples, as in evaluate.n_samples={max(FEWEST, key.samples // 2)}"
    longer = (
        f"{beyond} of the {len(rest)} farthest pairs are called the same, so there may be more copies beyond the list; "
        f"{more if len(candidates) < MOST else fewer}"
    )
    if found.low == 0 and beyond > 0:
        return Support(Verdict.INCONCLUSIVE, f"it is not certain that any pair is a copy, and {longer}")
    if found.low == 0:
        return Support(Verdict.AT_LEAST, "it is not certain that any pair is a copy", low, low)
    value, high = pairs / found.value, pairs / limits(found.low)[0]
    if beyond > 0:
        return Support(Verdict.AT_MOST, longer, value, None, high)
    return Support(Verdict.SUPPORTED, "the copies end before the list does", value, low, high)
