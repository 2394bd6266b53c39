"""Rows of trainings that never were, for the gate."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from helpers_rows import FAILED, make_row

from bench.gate.finding import Finding
from bench.gate.items import items_of
from bench.gate.verdict import judge
from bench.schema import Relation, ResultRow

__all__ = ["board", "failed", "judged", "one_of", "rows_of"]


def rows_of(values: Sequence[float], seeds: Iterable[int] | None = None, **changes: Any) -> list[ResultRow]:
    """A row a seed; by default of FID."""
    seeds = range(len(values)) if seeds is None else seeds
    common = {"stderr_draws": None, "measuring_key": "m", "rank": 30, **changes}
    name = f"{common.get('model', '')}{common.get('group', '')}"
    return [
        make_row(seed=seed, value=float(value), run_id=f"r{name}{seed}", training_key=f"t{name}{seed}", **common)
        for seed, value in zip(seeds, values, strict=True)
    ]


def failed(seeds: Iterable[int], reason: str = "diverged at example 640", **changes: Any) -> list[ResultRow]:
    common = {"measuring_key": "m", "rank": 30, "reason": reason, **FAILED, **changes}
    return [make_row(seed=seed, run_id=f"r{seed}", training_key=f"t{seed}", **common) for seed in seeds]


def board(models: int = 2, seeds: int = 5, worse: float = 0.0, start: int = 0, stream: int = 0) -> list[ResultRow]:
    """FID and log-likelihood of some models; spreads are 1 and 2, and ``worse`` is in spreads."""
    rng = np.random.default_rng(stream)
    rows = []
    for model in range(models):
        places = range(start, start + seeds)
        fid, ll = 20 + worse + rng.normal(size=seeds), -700 - 2 * worse + 2 * rng.normal(size=seeds)
        name = {"model": f"model{model}", "group": f"g{model}"}
        rows += rows_of(fid, places, **name)
        rows += rows_of(
            ll, places, metric="log_likelihood", unit="nats", higher_is_better=True, extractor="", extractor_hash="",
            n_fake=None, n_draws=1, relation=Relation.EXACT, measuring_key="ll", metric_title="LL", **name,
        )  # fmt: skip
    return rows


def judged(base: list[ResultRow], new: list[ResultRow], **options: Any) -> list[Finding]:
    return judge(items_of(base, "BASE"), items_of(new, "NEW"), **options)


def one_of(findings: Iterable[Finding], metric: str = "fid[mnist-cnn]") -> Finding:
    (found,) = [one for one in findings if one.metric == metric]
    return found
