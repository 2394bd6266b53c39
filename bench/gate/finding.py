"""What the gate says of one metric of one model, with the numbers behind it."""

from dataclasses import dataclass
from enum import StrEnum

from bench.gate.items import Key, Line

__all__ = ["FAILURES", "LEVEL", "SPREADS", "TOLERANCE", "Finding", "Verdict", "joined"]

LEVEL = 0.05
"""The chance that anything blocking is called a regression where nothing changed."""

TOLERANCE = 1e-8
"""Relative difference of numbers that are the same."""

SPREADS = 5.0
"""Without a margin, too few seeds are those with which a worsening by this many seed spreads would often be missed."""

FAILURES = "failed runs"
"""The name of the test of how many runs fail, where others have a metric's name."""


class Verdict(StrEnum):
    """What the gate says of one metric of one model."""

    REGRESSION = "regression"
    METRIC_CHANGED = "metric changed"
    PROTOCOL_CHANGED = "protocol changed"
    MISSING = "missing"
    INCONCLUSIVE = "inconclusive"
    IMPROVED = "improved"
    PASS = "pass"


@dataclass(frozen=True)
class Finding:
    """A verdict with the numbers behind it.

    Attributes:
        line, metric, unit: What was compared.
        blocking: Whether it can fail the gate.
        verdict, reason: What is said, and why in words.
        tier: ``exact``, ``paired``, ``seeds``, ``failures``, or empty where nothing could be compared.
        base, new: Means of the baseline and of the new rows.
        n_base, n_new: Seeds behind them.
        worse: By how much the new mean is worse; negative where it is better. In the metric's unit, as what follows.
        stderr, df: Standard error of ``worse`` and its degrees of freedom.
        margin: Worsening that is tolerated.
        detectable: The worsening that would be called a regression in 80 of 100 cases; None where there is no test.
        p, p_adjusted: Of the worsening being at most the margin; adjusted for all comparisons of its kind.
        key: Of the metric's item in the baseline; None for failures.
        doubt: Why this is no pass even if it is no regression. More seeds would not tell.
    """

    line: Line
    metric: str
    unit: str
    blocking: bool
    verdict: Verdict
    reason: str = ""
    tier: str = ""
    base: float | None = None
    new: float | None = None
    n_base: int = 0
    n_new: int = 0
    worse: float | None = None
    stderr: float | None = None
    df: float | None = None
    margin: float | None = None
    detectable: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    key: Key | None = None
    doubt: str = ""


def joined(*texts: str) -> str:
    """Reasons in one line."""
    return "; ".join(text for text in texts if text)
