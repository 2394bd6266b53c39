"""Hand-made rows for tests."""

import dataclasses
import json
from typing import Any

from bench.rows.version1 import rank_of
from bench.schema import Relation, ResultRow, Source, Status

__all__ = ["FAILED", "line_of", "make_row", "rows_of"]


def make_row(**changes: Any) -> ResultRow:
    row = ResultRow(
        run_id="r0", training_key="c0", group="g0", measuring_key="", git_commit="abc", dirty=False,
        model="dcgan", model_family="gan", n_params=12, dataset="mnist5k", data_revision="d0", split="test", seed=0,
        budget="60000 examples", examples_seen=60000, train_seconds=12.5, checkpoint="best", device="cpu",
        precision="32", versions="torch 2.13.0", metric="fid[mnist-cnn]", metric_title="FID", metric_version=1,
        extractor="mnist-cnn", extractor_hash="e0", n_real=1000, n_fake=1000, n_draws=None, unit="",
        higher_is_better=False, relation=None, value=12.25, stderr=0.5, ci_low=11.0, ci_high=13.5, status=Status.OK,
        reason="", source=Source.MEASURED,
    )  # fmt: skip
    row = dataclasses.replace(row, **changes)
    return row if "rank" in changes else dataclasses.replace(row, rank=rank_of(row.metric, row.higher_is_better))


def rows_of(model: str, family: str, seed: int, **values: float) -> list[ResultRow]:
    """One measured row of a model for each of ``values``, metric by metric."""
    return [
        dataclasses.replace(
            make_row(), model=model, model_family=family, seed=seed, run_id=f"{model}{seed}", group=model,
            training_key=f"{model}{seed}", load=1.0, metric_version=1, extractor_hash="", n_real=10, n_fake=10,
            metric=name, value=value, status=Status.OK,
            relation=Relation.EXACT if name == "log_likelihood" else None,
            device="cpu (1 threads)", checkpoint="best", source=Source.MEASURED,
        )
        for name, value in values.items()
    ]  # fmt: skip


# What a row without a value has instead.
FAILED: dict[str, Any] = {"value": None, "stderr": None, "ci_low": None, "ci_high": None, "status": Status.FAILED}


def line_of(row: ResultRow) -> str:
    """Every stored field; a sampling seed of 0 is none."""
    left_out = {"more"} if row.sampling_seed else {"more", "sampling_seed"}
    return json.dumps({name: value for name, value in dataclasses.asdict(row).items() if name not in left_out})
