"""What judges found as a row of results: ``support_judged``, beside the rows of the run whose samples they saw."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from bench.birthday.record import Key
from bench.schema import Relation, ResultRow, Source, Status

__all__ = ["row_of"]


def row_of(key: Key, report: Mapping[str, Any], rows: Sequence[ResultRow]) -> ResultRow:
    """Return N_eff by the answers, of two judges where both agree, as a row. It has no direction and is never ranked.

    Arguments:
        report: Of ``bench.birthday.report``.
        rows: Of the run whose samples the page shows; empty where it is not known, as for samples of others.
    """
    reading = list(report["readings"].values())[-1]["n_eff"]
    sessions = sorted(one["session"] for one in report["judges"].values())
    measuring_key = hashlib.sha256(" ".join([key.page, *sessions]).encode()).hexdigest()
    known = [row for row in rows if (row.training_key, row.checkpoint) == (key.training_key, key.checkpoint)]
    name = f"judged-{key.page[:16]}"
    plain = ResultRow(
        run_id=name, training_key=name, group=name, model=key.model, model_family="", dataset=key.dataset,
        data_revision=key.revision, split="", seed=key.seed, checkpoint=key.checkpoint or "final", metric="",
        higher_is_better=None, value=None, status=Status.SKIPPED, source=Source.EXTERNAL_SAMPLES,
    )  # fmt: skip
    by = "one person" if len(sessions) == 1 else "two people, both of whom must agree"
    return dataclasses.replace(
        known[0] if known else plain,
        **_value(reading, by), measuring_key=measuring_key, metric="support_judged", metric_title="N_eff, judged",
        metric_version=1, unit="", higher_is_better=None, rank=310, n_real=None, n_fake=key.samples, n_draws=None,
        extractor="", extractor_hash="", stderr=None, stderr_test=None, stderr_draws=None, load=None,
        sampling_seed=0, more="",
    )  # fmt: skip


def _value(reading: Mapping[str, Any], by: str) -> dict[str, Any]:
    """Return the fields of the row that hold the value, or why there is none."""
    value, low, high = reading["value"], reading["low"], reading["high"]
    ok = {"status": Status.OK, "reason": f"judged by eye by {by}"}
    match reading["verdict"]:
        case "supported":
            return {**ok, "value": value, "ci_low": low, "ci_high": high, "relation": Relation.ESTIMATE}
        case "at least":
            return {**ok, "value": low, "ci_low": low, "ci_high": None, "relation": Relation.LOWER_BOUND}
        case "at most":
            return {**ok, "value": high, "ci_low": None, "ci_high": high, "relation": Relation.UPPER_BOUND}
    none = {"value": None, "ci_low": None, "ci_high": None, "relation": None}
    return {**none, "status": Status.SKIPPED, "reason": f"inconclusive: {reading['why']}"}
