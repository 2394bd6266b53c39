r"""Seeds in turn: 3, 5, then 8, until the verdict is clear.

A look at n of 8 seeds may spend the chance :math:`\alpha(t) = \alpha \ln(1 + (e - 1)\,t)`, t = n/8, of a false alarm,
less what the looks before it could spend (K. K. G. Lan, D. L. DeMets 1983; Pocock's shape). Each look is tested at its
own share, so that the chances of all looks add up to at most alpha whatever the joint distribution is.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bench.gate.finding import LEVEL, Finding, Verdict
from bench.gate.items import Item, Items
from bench.gate.verdict import judge
from bench.statistics import t_quantile

__all__ = ["LOOKS", "Look", "in_turn", "spent"]

LOOKS = (3, 5, 8)

_CLEAR = 3.0  # seed spreads: before the last look, an upper bound below this many is clear


@dataclass(frozen=True)
class Look:
    """The verdict after so many seeds.

    Attributes:
        findings: Of the last look that the seeds allow; empty before the first.
        seeds: Its seeds a side.
        wanted: Seeds to run next, by data set and model; empty where the verdict is clear.
    """

    findings: list[Finding]
    seeds: int
    wanted: dict[str, dict[str, list[int]]]


def spent(look: int, level: float = LEVEL) -> float:
    """The chance of a false alarm that this look, counted from 0, may spend."""
    total = [level * math.log1p((math.e - 1) * n / LOOKS[-1]) for n in LOOKS]
    return total[0] if look == 0 else total[look] - total[look - 1]


def in_turn(base: Items, new: Items, margins: Mapping[str, float] | None = None) -> Look:
    """Judge the first 3 seeds, the first 5, and all 8, and stop where the verdict is clear.

    It is clear where something is a regression, or where more seeds would not help (missing, another protocol, a
    doubt), or where each blocking metric is clearly not worse: its upper 95 % bound lies below the margin or, without
    one, below three seed spreads of the baseline. The last look decides as without turns.
    """
    look = Look([], 0, {})
    for place, count in enumerate(LOOKS):
        wanted = _wanted(base, new, count)
        if wanted:
            return replace(look, wanted=wanted)
        findings = judge(_first(base, count), _first(new, count), margins, spent(place))
        if count < LOOKS[-1]:
            findings = [_early(one, base, margins or {}, count) for one in findings]
        look = Look(findings, count, {})
        blocking = [one for one in findings if one.blocking]
        is_bad = any(one.verdict in (Verdict.REGRESSION, Verdict.METRIC_CHANGED) for one in blocking)
        if is_bad or not any(one.verdict is Verdict.INCONCLUSIVE and not one.doubt for one in blocking):
            return look
    return look


def _early(one: Finding, base: Items, margins: Mapping[str, float], count: int) -> Finding:
    """A finding before the last look: open unless it is bad or clearly good."""
    is_open = one.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
    if (
        not one.blocking
        or not is_open
        or one.doubt
        or one.key is None
        or one.worse is None
        or one.stderr is None
        or one.df is None
    ):
        return one
    bound = margins.get(one.metric, _CLEAR * _spread(base[one.line][one.key]))
    if one.worse + t_quantile(LEVEL, one.df) * one.stderr < bound or one.stderr == 0:
        return replace(one, verdict=Verdict.PASS, reason=f"clear after {count} seeds")
    return replace(one, verdict=Verdict.INCONCLUSIVE, reason=f"not clear after {count} seeds")


def _spread(item: Item) -> float:
    means = [np.mean(list(draws.values())) for draws in item.values.values()]
    return float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def _wanted(base: Items, new: Items, count: int) -> dict[str, dict[str, list[int]]]:
    """Seeds that lines of the baseline lack for a look, those of the baseline first."""
    wanted: dict[str, dict[str, list[int]]] = {}
    for line, items in base.items():
        blocking = [item for item in items.values() if item.values and item.is_blocking and not item.is_exact]
        there = [other for other in new if other.place == line.place]
        if not blocking or len(there) != 1:
            continue
        have = _seeds(new[there[0]].values())
        order = [*sorted(_seeds(blocking)), *range(count + len(have))]
        lacking = [seed for seed in dict.fromkeys(order) if seed not in have][: max(0, count - len(have))]
        if lacking:
            wanted.setdefault(line.dataset, {})[line.model] = sorted(lacking)
    return wanted


def _first(items: Items, count: int) -> Items:
    """The items with their first seeds only. Metrics of stored samples, which have no trainings, stay whole."""
    made: Items = {}
    for line, inside in items.items():
        kept = set(sorted(_seeds(inside.values()))[:count])
        made[line] = {
            key: item if item.is_exact else Item(
                item.row, {seed: draws for seed, draws in item.values.items() if seed in kept},
                {seed: error for seed, error in item.draws.items() if seed in kept},
                {seed: reason for seed, reason in item.reasons.items() if seed in kept},
                {seed: note for seed, note in item.notes.items() if seed in kept},
                item.failed & kept, item.relations,
            )
            for key, item in inside.items()
        }  # fmt: skip
    return made


def _seeds(items: Iterable[Item]) -> set[int]:
    return {seed for item in items for seed in (*item.values, *item.reasons)}
