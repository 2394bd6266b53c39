"""Hand-made rows for tests of tables, and looks into the tables that they make."""

import csv
import dataclasses
import io
import itertools
import random
from typing import Any

from helpers_rows import FAILED, make_row

from bench.schema import Relation, ResultRow, Status
from bench.tables.aggregate import make_table
from bench.tables.as_csv import to_csv
from bench.tables.model import Cell, Section

__all__ = ["PLAIN", "SKIPPED", "cells", "csv_rows", "likelihood", "only", "realistic", "run"]

PLAIN: dict[str, Any] = {"stderr": None, "ci_low": None, "ci_high": None}
SKIPPED: dict[str, Any] = FAILED | {"status": Status.SKIPPED}


def run(model: str = "dcgan", seed: int = 0, value: float = 1.0, **changes: Any) -> ResultRow:
    return make_row(
        **{"model": model, "group": f"group of {model}", "seed": seed, "run_id": f"{model}-{seed}", "value": value}
        | PLAIN
        | changes
    )


def likelihood(model: str, value: float, relation: Relation, draws: int, **changes: Any) -> ResultRow:
    same = {"metric": "log_likelihood", "metric_title": "log-likelihood", "unit": "nats", "extractor": ""}
    changes = same | {"extractor_hash": "", "n_fake": None, "higher_is_better": True} | changes
    return run(model, value=value, relation=relation, n_draws=draws, **changes)


def only(rows: list[ResultRow], **options: Any) -> Section:
    (section,) = make_table(rows, **options).sections
    return section


def cells(section: Section) -> dict[str, Cell]:
    """By label, for a section of one column."""
    assert len(section.columns) == 1
    return {section.lines[line].label: cell for (line, _), cell in section.cells.items()}


def csv_rows(rows: list[ResultRow]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(make_table(rows)))))


def realistic() -> list[ResultRow]:
    """Two data sets; six models with 3 seeds; bounds, skipped and failed rows, a second configuration, timings."""
    rng = random.Random(0)
    rows = []
    models = {"gaussian": 1, "maf": 1, "realnvp": 8, "vae": 64, "dcgan": 0, "wgan-gp": 0}
    for (model, draws), seed, dataset in itertools.product(models.items(), range(3), ["mnist5k", "digits"]):
        common: dict[str, Any] = {
            "dataset": dataset,
            "seed": seed,
            "run_id": f"{dataset}-{model}-{seed}",
            "dirty": model == "maf",
        }
        if draws == 0:
            skipped = likelihood(model, 0.0, Relation.ESTIMATE, 1, **common)
            rows.append(dataclasses.replace(skipped, **SKIPPED, relation=None, n_draws=None, reason="no likelihood"))
        else:
            relation = Relation.EXACT if draws == 1 else Relation.LOWER_BOUND
            rows.append(likelihood(model, rng.gauss(-100, 9), relation, draws, **common))
        if (model, seed) == ("wgan-gp", 2):
            rows.append(run(model, **common | FAILED, reason="diverged at example 64", n_real=None, n_fake=None))
        else:
            rows.append(run(model, value=rng.gauss(30, 5), **common))
        rows.append(run(model, value=rng.gauss(30, 5), **common, n_fake=500))
        rows.append(run(model, value=rng.gauss(30, 5), **common, n_fake=500, checkpoint="final"))
        speed: dict[str, Any] = {
            "metric": "samples_per_second",
            "metric_title": "samples/s",
            "unit": "1/s",
            "higher_is_better": True,
        }
        rows.append(run(model, value=rng.uniform(1, 1e5), **common | speed, n_fake=None, n_real=None))
    rows += [run("maf", seed, 7.0, group="another", run_id=f"x{seed}", dataset="digits") for seed in range(2)]
    return rows
