"""What is no matter of chance: a metric that changed instead of the model, and likelihoods that cannot be."""

import math
from dataclasses import replace

import numpy as np

from bench.gate.finding import Finding, Verdict, joined
from bench.gate.items import Item, Items
from bench.schema import Relation

__all__ = ["beyond_the_data", "metrics_apart"]

_MOVED = 1e-6  # a reproduced run whose metric moved more than this was measured by another metric
_SURE = 5.0  # standard errors


def metrics_apart(findings: list[Finding], base: Items) -> list[Finding]:
    """Blame the metric, not the model, where the numbers of unchanged trainings or of stored samples moved."""
    blamed = {one.metric for one in findings if one.verdict is Verdict.METRIC_CHANGED}
    items = {id(one): base[one.line][one.key] for one in findings if one.key is not None}
    reproduced = {
        (one.line, items[id(one)].row.n_fake is None)
        for one in findings
        if one.tier == "exact" and one.verdict is Verdict.PASS and _tells_trainings_apart(items[id(one)])
    }
    made = []
    for one in findings:
        if one.verdict in (Verdict.MISSING, Verdict.PROTOCOL_CHANGED, Verdict.METRIC_CHANGED) or one.tier in (
            "exact", "failures",
        ):  # fmt: skip
            made.append(one)
        elif one.metric in blamed:
            said = "of the same stored samples it is another number now, so this says nothing of the model"
            made.append(replace(one, verdict=Verdict.METRIC_CHANGED, reason=joined(said, one.reason)))
        elif (
            one.blocking
            and (one.line, items[id(one)].row.n_fake is None) in reproduced
            and abs(one.worse or 0.0) > _MOVED * abs(one.base or 0.0)
        ):
            said = "the trainings are reproduced, other metrics give the same numbers again; this metric does not"
            made.append(replace(one, verdict=Verdict.METRIC_CHANGED, reason=joined(said, one.reason)))
        else:
            made.append(one)
    return made


def _tells_trainings_apart(item: Item) -> bool:
    """Whether a metric depends on the weights: it is no cost, and seeds differ in it."""
    return item.is_blocking and len({value for draws in item.values.values() for value in draws.values()}) > 1


def beyond_the_data(findings: list[Finding], new: Items) -> list[Finding]:
    """Call likelihoods above that of the data's own density a regression: no model has one, so it is a mistake.

    The density is among the new rows where it is known (family ``data``). A wrong log-determinant often looks like an
    improvement. Estimates, which may lie above the truth, are left out.
    """
    densities = {
        (line.dataset, key): item
        for line, items in new.items()
        for key, item in items.items()
        if item.row.model_family == "data" and item.values
    }
    return [_beyond(one, densities.get((one.line.dataset, one.key))) if one.key else one for one in findings]


def _beyond(one: Finding, density: Item | None) -> Finding:
    if density is None or one.new is None or not one.blocking or one.key is None:
        return one
    if not density.sign or density.row.relation not in (Relation.EXACT, Relation.LOWER_BOUND, Relation.UPPER_BOUND):
        return one
    best = float(np.mean([value for draws in density.values.values() for value in draws.values()]))
    error = math.hypot(one.stderr or 0.0, density.row.stderr or 0.0)
    if density.sign * (best - one.new) <= _SURE * error + 1e-9 * abs(best):
        return one
    said = f"better than the data's own density ({best:.6g}), which no model is: its likelihood is wrong"
    return replace(one, verdict=Verdict.REGRESSION, reason=joined(said, one.reason))
