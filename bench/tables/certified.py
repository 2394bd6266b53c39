"""Whether one measured number is beyond doubt better than another. Standard library only."""

from dataclasses import dataclass

from bench.schema import Relation, ResultRow
from bench.tables.model import Cell

__all__ = ["certainly_better", "certified"]


def certified(a: ResultRow, b: ResultRow) -> bool:
    """Whether "A beats B" holds beyond doubt: A's worst possible value is better than B's best possible one.

    For a metric where higher is better, A needs a floor (an exact value or a lower bound, less its uncertainty) above
    B's ceiling (an exact value or an upper bound, plus its uncertainty); else the other way round. The uncertainty is
    the 95 % interval, or 1.96 standard errors where there is none. Two lower bounds certify nothing, however far apart.
    Rows of different protocols, without values, without relation or without direction are never certified.
    """
    if a.protocol != b.protocol or a.higher_is_better is None or a.higher_is_better is not b.higher_is_better:
        return False
    return _is_better(_known(a, a.stderr), _known(b, b.stderr), a.higher_is_better)


def certainly_better(a: Cell, b: Cell, higher_is_better: bool) -> bool:
    """The same of two cells of one column of a table."""
    return _is_better(_known(a, a.spread), _known(b, b.spread), higher_is_better)


@dataclass(frozen=True)
class _Known:
    """A number with its relation to the truth and the limits of its uncertainty."""

    relation: Relation | None
    low: float
    high: float


def _known(number: ResultRow | Cell, stderr: float | None) -> _Known | None:
    if number.value is None:
        return None
    reach = 1.96 * (stderr or 0.0)
    low = number.value - reach if number.ci_low is None else number.ci_low
    high = number.value + reach if number.ci_high is None else number.ci_high
    return _Known(number.relation, low, high)


def _is_better(a: _Known | None, b: _Known | None, higher_is_better: bool) -> bool:
    above, below = (a, b) if higher_is_better else (b, a)
    if above is None or below is None:
        return False
    has_floor = above.relation in (Relation.EXACT, Relation.LOWER_BOUND)
    has_ceiling = below.relation in (Relation.EXACT, Relation.UPPER_BOUND)
    return has_floor and has_ceiling and above.low > below.high
