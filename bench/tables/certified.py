"""Whether one measured number is beyond doubt better than another. Standard library only."""

from bench.schema import Relation, ResultRow

__all__ = ["certified"]


def certified(a: ResultRow, b: ResultRow) -> bool:
    """Whether "A beats B" holds beyond doubt: A's worst possible value is better than B's best possible one.

    For a metric where higher is better, A needs a floor (an exact value or a lower bound, less its uncertainty) above
    B's ceiling (an exact value or an upper bound, plus its uncertainty); else the other way round. The uncertainty is
    the 95 % interval, or 1.96 standard errors where there is none. Two lower bounds certify nothing, however far apart.
    Rows of different protocols, without values, without relation or without direction are never certified.
    """
    if a.protocol != b.protocol or a.higher_is_better is None or a.higher_is_better is not b.higher_is_better:
        return False
    if a.higher_is_better:
        floor, ceiling = _limit(a, Relation.LOWER_BOUND), _limit(b, Relation.UPPER_BOUND)
    else:
        floor, ceiling = _limit(b, Relation.LOWER_BOUND), _limit(a, Relation.UPPER_BOUND)
    return floor is not None and ceiling is not None and floor > ceiling


def _limit(row: ResultRow, side: Relation) -> float | None:
    """The number that the truth does not fall below (side: lower bound) or rise above (upper bound), or None."""
    if row.value is None or row.relation not in (Relation.EXACT, side):
        return None
    lower = side is Relation.LOWER_BOUND
    limit = row.ci_low if lower else row.ci_high
    if limit is not None:
        return limit
    return row.value + (-1.96 if lower else 1.96) * (row.stderr or 0.0)
