"""The gate's verdicts: each metric of each model against a baseline.

Three tiers. *Exact*: what must be the same number again, to 1e-8: metrics of stored samples, and seeds that were
trained again to the same result. *Paired*: the same seeds on both sides. *Seeds*: different ones. Blocking metrics
share the chance of a false alarm (Holm 1979); advisory ones, which never fail the gate, the rate of false discoveries
(Benjamini and Hochberg 1995). That runs fail more often is a test of its own (Fisher 1935).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from bench.gate.blame import beyond_the_data, metrics_apart
from bench.gate.compare import Shift, design_df, effect, p_value, paired, unpaired, upper_bound
from bench.gate.finding import FAILURES, LEVEL, SPREADS, TOLERANCE, Finding, Verdict, joined
from bench.gate.items import Item, Items, Key, Line, changed, matched
from bench.statistics import (
    benjamini_hochberg,
    detectable,
    fisher_one_sided,
    holm,
    satterthwaite,
    two_way_components,
)

__all__ = ["judge", "seeds_needed"]


@dataclass(frozen=True)
class _Test:
    """A comparison that waits for its place among the others."""

    finding: Finding
    shift: Shift
    declared: bool
    spreads: float  # standard error in seed spreads, as the numbers of seeds alone determine it
    design: float  # and its degrees of freedom


@np.errstate(over="ignore", invalid="ignore")  # numbers near the largest float are said to be too large
def judge(base: Items, new: Items, margins: Mapping[str, float] | None = None, level: float = LEVEL) -> list[Finding]:
    """A finding for each metric of the baseline that has a direction, and for each stored sample's metric.

    Arguments:
        base, new: From ``items_of``.
        margins: Tolerated worsening by the metric's name in rows.
        level: The chance of any false alarm among blocking metrics, and the rate of false discoveries of the others.
    """
    margins = margins or {}
    done: list[Finding] = []
    tests: list[_Test] = []
    for line, other in matched(base, new).items():
        found = new.get(other, {}) if other is not None else {}
        for key, item in base[line].items():
            if not item.values or not (item.sign or item.is_exact):
                continue
            one = _compared(line, key, item, _counterpart(key, base[line], found), other, margins.get(key[0]))
            (tests if isinstance(one, _Test) else done).append(one)  # type: ignore[arg-type]
        failures = _failures(line, base[line], found) if other is not None else None
        if failures is not None:
            tests.append(failures)
    judged = _decided(tests, level, blocking=True) + _decided(tests, level, blocking=False)
    return beyond_the_data(metrics_apart([*done, *judged], base), new)


def seeds_needed(count: int, level: float = LEVEL) -> int:
    """Seeds a side with which ``count`` blocking comparisons each see a worsening by ``SPREADS`` seed spreads."""
    enough = (n for n in range(2, 65) if not _is_blind(math.sqrt(2 / n), n - 1, level / count))
    return next(enough, 65)


def _is_blind(stderr: float, df: float, level: float) -> bool:
    """Whether a test, by its number of seeds alone, often misses a worsening by ``SPREADS`` seed spreads."""
    return detectable(stderr, df, level, known=True) > SPREADS


def _counterpart(key: Key, base: Mapping[Key, Item], found: Mapping[Key, Item]) -> Item | None:
    """The new item of a metric; where it was measured differently, the one that the baseline does not have."""
    others = [found[other] for other in found if other == key] or [
        found[other] for other in found if other[0] == key[0] and other not in base
    ]
    return others[0] if others else None


def _compared(
    line: Line, key: Key, base: Item, new: Item | None, other: Line | None, margin: float | None
) -> Finding | _Test:
    blocking = base.is_exact or base.is_blocking
    seeds = base.seeds
    finding = Finding(
        line, key[0], base.row.unit, blocking, Verdict.MISSING, n_base=len(seeds), base=_mean(base),
        margin=margin or 0.0, key=key,
    )  # fmt: skip
    if other is None:
        return replace(finding, reason="no rows of this model on this data set" if blocking else "no such rows")
    if new is None or not new.values:
        why = next(iter(new.reasons.values()), "") if new is not None else ""
        return replace(finding, reason=f"no value: {why}" if why else "no row of this metric")
    finding = replace(finding, new=_mean(new), n_new=len(new.seeds))
    differs = changed(base, new)
    keys = sorted(base.keys & new.keys)
    if not differs and not (base.keys and new.keys):
        side = "new rows" if base.keys else "baseline"
        differs = f"in the {side} no settings of the metric (measuring key) are those of all seeds"
    if not differs and not keys and "" not in base.keys | new.keys:
        differs = "other settings of the metric (measuring key)"
    if differs:
        return replace(finding, verdict=Verdict.PROTOCOL_CHANGED, reason=f"measured differently: {differs}")
    note = _configuration(base.row.config, new.row.config) if other.group != line.group else ""
    if base.is_exact and other.group != line.group:
        return replace(
            finding, verdict=Verdict.PROTOCOL_CHANGED, reason="these are other samples (their group differs)"
        )
    of_base, of_new = (base.panel(base.seeds, _keys(base, keys)), new.panel(new.seeds, _keys(new, keys)))
    if base.seeds == new.seeds and of_base.shape == of_new.shape and _same(of_base, of_new):
        said = f"the same numbers again, on {_count(len(seeds), 'seed')}"
        return replace(finding, verdict=Verdict.PASS, tier="exact", worse=0.0, reason=said)
    if base.is_exact:
        said = (
            f"of the same samples it was {finding.base!r} and is {finding.new!r}, under the same version of the metric"
        )
        return replace(finding, verdict=Verdict.METRIC_CHANGED, tier="exact", reason=said)
    if min(len(seeds), len(new.seeds)) < 2:
        said = f"one seed says nothing of how much seeds differ ({len(seeds)} before, {len(new.seeds)} now)"
        return replace(finding, verdict=Verdict.INCONCLUSIVE, reason=joined(said, note))
    return _tested(finding, base, new, keys, margin, note)


def _tested(
    finding: Finding, base: Item, new: Item, keys: list[str], margin: float | None, note: str
) -> Finding | _Test:
    """The paired test where one side's seeds are among the other's, else the one of different seeds."""
    common = sorted(set(base.seeds) & set(new.seeds))
    is_paired = len(common) >= 2 and (common == base.seeds or common == new.seeds)
    of_base, of_new = (
        item.sign * item.panel(common if is_paired else item.seeds, _keys(item, keys)) for item in (base, new)
    )
    n, m = len(of_new), len(of_base)
    if is_paired:
        shift = paired(of_new.mean(1), of_base.mean(1))
        panels, design = [of_new - of_base], n - 1.0
    else:
        shift = unpaired(of_new.mean(1), of_base.mean(1), _draws(new, keys), _draws(base, keys))
        panels, design = [of_new, of_base], design_df(n, m)
    if not np.isfinite(shift).all():
        said = "the numbers are too large to be compared"
        return replace(finding, verdict=Verdict.INCONCLUSIVE, reason=joined(said, note))
    shift = _with_shared_draws(shift, [panel for panel in panels if panel.shape[1] > 1])
    finding = replace(
        finding, tier="paired" if is_paired else "seeds", n_base=m, n_new=n,
        base=float(base.sign * of_base.mean()), new=float(new.sign * of_new.mean()), worse=float(shift.shift),
        stderr=float(shift.stderr), df=float(shift.df), p=float(p_value(shift, margin or 0.0)), reason=note,
        doubt=_doubt(base, new),
    )  # fmt: skip
    return _Test(finding, shift, margin is not None, math.sqrt(1 / n + 1 / m), design)


def _doubt(base: Item, new: Item) -> str:
    """Why good numbers are no good news, with the reason that rows give; empty where nothing is wrong.

    Seeds were skipped this time (those that failed have a test of their own), or rows have a note that the baseline's
    have not: samples that became copies of training examples have the best distances there are.
    """
    seeds = [seed for seed in base.seeds if seed in new.reasons and seed not in new.values and seed not in new.failed]
    if seeds:
        return f"no value of {_named(seeds)} any more: {new.reasons[seeds[0]]}"
    if base.is_blocking and new.notes and not base.notes:
        seeds = sorted(new.notes)
        return f"{_named(seeds)}, unlike the baseline: {new.notes[seeds[0]]}"
    return ""


def _named(seeds: list[int]) -> str:
    return f"seed {', '.join(map(str, seeds))}"


def _with_shared_draws(shift: Shift, panels: "list[np.ndarray]") -> Shift:
    """Add what sampling seeds do to all trainings alike, which the spread of the trainings' means does not show."""
    parts = [two_way_components(panel) for panel in panels]
    shared = [part.shared / part.draws for part in parts if part.shared > 0]
    if not shared:
        return shift
    variances = [float(shift.stderr) ** 2, *shared]
    degrees = [float(shift.df), *(part.draws - 1 for part in parts if part.shared > 0)]
    total = np.float64(math.sqrt(sum(variances)))
    return shift._replace(stderr=total, df=np.float64(satterthwaite(variances, degrees)))  # type: ignore[arg-type]


def _failures(line: Line, base: Mapping[Key, Item], new: Mapping[Key, Item]) -> _Test | None:
    """The test of how many runs failed. Where none did on either side there is nothing to test (Tarone 1990)."""
    failed, of, failed_before, of_before = *_failed(new), *_failed(base)
    if failed + failed_before == 0 or of == 0 or of_before == 0:
        return None
    p = fisher_one_sided(failed, of, failed_before, of_before)
    reasons = [item.reasons[seed] for item in new.values() for seed in sorted(item.failed)]
    finding = Finding(
        line, FAILURES, "", True, Verdict.PASS, tier="failures", base=failed_before / of_before, new=failed / of,
        n_base=of_before, n_new=of, worse=failed / of - failed_before / of_before, margin=0.0, p=p,
        reason=f"{failed} of {_count(of, 'run')} failed, {failed_before} of {of_before} before"
        + (f" ({reasons[0]})" if reasons else ""),
    )  # fmt: skip
    nothing = np.float64(0.0)
    return _Test(finding, Shift(nothing, nothing, nothing), False, 0.0, 0.0)  # type: ignore[arg-type]


def _failed(items: Mapping[Key, Item]) -> tuple[int, int]:
    """Runs that failed, and all runs."""
    failed = set().union(*(item.failed for item in items.values()))
    return len(failed), len(failed.union(*(set(item.values) | set(item.reasons) for item in items.values())))


def _decided(tests: list[_Test], level: float, *, blocking: bool) -> list[Finding]:
    """The verdicts of all blocking or of all advisory tests."""
    tests = [test for test in tests if test.finding.blocking is blocking]
    adjust = holm if blocking else benjamini_hochberg
    p = [1.0 if test.finding.p is None else test.finding.p for test in tests]
    better = [_p_better(test) for test in tests]
    steps = zip(tests, adjust(p), adjust(better), strict=True)
    return [_decided_one(test, float(a), float(b), level, len(tests)) for test, a, b in steps]


def _p_better(test: _Test) -> float:
    if test.finding.tier == "failures":
        return 1.0
    return float(p_value(test.shift._replace(shift=-test.shift.shift)))


def _decided_one(test: _Test, p: float, better: float, level: float, count: int) -> Finding:
    finding = replace(test.finding, p_adjusted=p)
    if finding.tier == "failures":
        return _decided_failures(finding, level)
    at = level / count if finding.blocking else level
    margin = finding.margin or 0.0
    finding = replace(finding, detectable=margin + effect(finding.stderr or 0.0, finding.df or 1.0, at))
    if p <= level:
        return replace(finding, verdict=Verdict.REGRESSION)
    if test.declared and not upper_bound(test.shift, level) < margin:
        need = _for_margin(test, margin, level)
        said = f"neither within the margin nor beyond it for certain; {need}"
        return replace(finding, verdict=Verdict.INCONCLUSIVE, reason=joined(said, finding.reason))
    unsure = finding.blocking and not test.declared and (finding.stderr or 0) > 0
    if unsure and _is_blind(test.spreads, test.design, at):
        suffice = f"{seeds_needed(count, level)} a side suffice"
        said = f"too few seeds for {_count(count, 'blocking comparison')}: {suffice}"
        return replace(finding, verdict=Verdict.INCONCLUSIVE, reason=joined(said, finding.reason))
    if finding.doubt:
        return replace(finding, verdict=Verdict.INCONCLUSIVE, reason=joined(finding.doubt, finding.reason))
    return replace(finding, verdict=Verdict.IMPROVED if better <= level else Verdict.PASS)


def _decided_failures(finding: Finding, level: float) -> Finding:
    if (finding.p_adjusted or 0.0) <= level:
        return replace(finding, verdict=Verdict.REGRESSION)
    if (finding.worse or 0.0) > 0:
        return replace(finding, verdict=Verdict.INCONCLUSIVE, reason=f"{finding.reason}; more seeds tell")
    return finding


def _for_margin(test: _Test, margin: float, level: float) -> str:
    """How many seeds would show that an unchanged model stays within the margin."""
    if margin <= 0:
        return "a margin of 0 is for improvements"
    spread = (test.finding.stderr or 0.0) / test.spreads
    for n in range(3, 201):
        if detectable(spread * math.sqrt(2 / n), n - 1, level, known=True) <= margin:
            return f"about {n} seeds a side tell" if n > test.finding.n_new else "more seeds tell"
    return "the margin is too small for any number of seeds up to 200"


def _configuration(before: str, now: str) -> str:
    """Which keys of the configuration changed, as far as rows say."""
    try:
        old, new = json.loads(before), json.loads(now)
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    except (ValueError, AttributeError, RecursionError):
        return "the configuration changed"
    shown = [f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}" for name in names[:3]]
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"the configuration changed: {', '.join(shown)}{rest}" if names else "the configuration changed"


def _keys(item: Item, keys: list[str]) -> list[str]:
    return keys or sorted(item.keys)[:1]


def _draws(item: Item, keys: list[str]) -> float:
    """Standard error of a training's mean from its own draws, as the rows state it."""
    known = list(item.draws.values())
    return math.sqrt(sum(error**2 for error in known) / len(known) / len(_keys(item, keys))) if known else 0.0


def _mean(item: Item) -> float:
    return float(np.mean([np.mean(list(draws.values())) for draws in item.values.values()]))


def _same(a: "np.ndarray", b: "np.ndarray") -> bool:
    return bool(np.allclose(a, b, rtol=TOLERANCE, atol=0.0))


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
