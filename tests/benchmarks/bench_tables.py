"""Rows to a table: seconds and memory of a million rows, against the bare parsing of their JSON.

    python tests/benchmarks/bench_tables.py

Makes rows in several files, 40 models x 25 data sets x 100 seeds x 10 metrics, and reads them in fresh processes: one
makes the table and its CSV, the other calls ``json.loads`` on every line and keeps nothing. The two take turns, so that
a change in the machine's speed meets both; the ratio, of processor seconds, is formed within a round. ``--out`` stores
the medians.
"""

import argparse
import csv
import hashlib
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.provenance import git_state
from bench.rows.wire import encode
from bench.schema import Relation, ResultRow, Source, Status

MODELS, DATA_SETS, SEEDS = 40, 25, 100
METRICS = {  # name, unit, direction, rank, relation, draws
    "log_likelihood": ("nats", True, 10, Relation.LOWER_BOUND, 16),
    "bits_per_dim": ("bits/dim", False, 20, Relation.UPPER_BOUND, 16),
    "fid[mnist-cnn]": ("", False, 30, Relation.ESTIMATE, None),
    "is[mnist-cnn]": ("", True, 40, Relation.ESTIMATE, None),
    "support[pixels]": ("", True, 50, Relation.LOWER_BOUND, None),
    "modes": ("", True, 100, None, None),
    "parameters": ("", None, 200, None, None),
    "train_seconds": ("s", False, 210, None, None),
    "samples_per_second": ("1/s", True, 230, None, None),
    "accuracy[mnist-cnn]": ("", None, 300, Relation.ESTIMATE, None),
}

TABLE = """
from bench.rows.frame import read_frame
from bench.tables.aggregate import make_table
from bench.tables.as_csv import to_csv
frame = read_frame([sys.argv[1]])
read = time.perf_counter()
table = make_table(frame)
made = time.perf_counter()
count = to_csv(table).count("\\n") - 1
parts = {"rows": len(frame), "cells": count, "read": read - start, "table": made - read,
         "csv": time.perf_counter() - made}
"""
BARE = """
import pathlib
for file in sorted(pathlib.Path(sys.argv[1]).glob("*.jsonl")):
    with open(file, "rb") as lines:
        for line in lines:
            json.loads(line)
parts = {}
"""
PROCESS = """
import json, resource, sys, time
start = time.perf_counter()
{body}
parts["seconds"] = time.perf_counter() - start
parts["cpu_seconds"] = time.process_time()
parts["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(parts))
"""


def write_files(folder: Path, seeds: int) -> None:
    """A file for each data set. One row in 50 is of a skipped metric."""
    rng = random.Random(0)
    for number in range(DATA_SETS):
        data = f"data{number}"
        lines = []
        for model, (name, info) in itertools.product(range(MODELS), METRICS.items()):
            # A row is checked once; its seeds are written into its fields.
            record = json.loads(encode(_row(f"model{model}", data, name, *info)))
            for seed in range(seeds):
                run = f"{data}-model{model}-s{seed}"
                changes: dict[str, object] = {"seed": seed, "run_id": run, "training_key": _key(run)}
                changes |= {"value": rng.gauss(0, 1), "stderr": rng.random(), "train_seconds": rng.random()}
                if rng.random() < 0.02:
                    changes |= {"value": None, "stderr": None, "status": "skipped", "reason": "n/a: not for this model"}
                lines.append(json.dumps(record | changes, ensure_ascii=False) + "\n")
        (folder / f"{data}.jsonl").write_text("".join(lines))


def _row(
    model: str, data: str, metric: str, unit: str, higher: bool | None, rank: int, relation: Relation | None,
    draws: int | None,
) -> ResultRow:  # fmt: skip
    return ResultRow(
        run_id="", training_key="", group=f"{model} {data}", measuring_key=_key(metric + data),
        git_commit="ce0546508cd7c8cfc83dc4358061c94cc5507ce4", dirty=False, model=model, model_family="flow",
        n_params=136_208, dataset=data, data_revision="b0c4b8e6d49128c8", split="test", seed=0,
        budget="200000 examples", examples_seen=200_192, train_seconds=0.0, checkpoint="best",
        device="cpu (1 threads)", precision="32-true", metric=metric, metric_title=metric, unit=unit,
        versions="python 3.11.7, torch 2.13.0+cpu, pytorch-lightning 2.6.6, numpy 2.4.6, scipy 1.17.1",
        higher_is_better=higher, rank=rank, relation=relation, n_real=10_000, n_fake=1000, n_draws=draws, value=0.0,
        stderr=0.0, status=Status.OK, source=Source.MEASURED,
    )  # fmt: skip


def _key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def run(body: str, folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS.format(body=body), str(folder)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(seeds: int, rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), seeds)
        megabytes = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
        pairs = [(run(TABLE, Path(folder)), run(BARE, Path(folder))) for _ in range(rounds)]
    ours, bare = ([pair[side] for pair in pairs] for side in (0, 1))

    def middle(found: list[dict[str, float]], name: str) -> float:
        return round(statistics.median(one[name] for one in found), 2)

    commit, dirty = git_state()
    return {
        "rows": int(ours[0]["rows"]), "cells": int(ours[0]["cells"]), "megabytes": round(megabytes), "rounds": rounds,
        **{f"{name}_seconds": middle(ours, name) for name in ("read", "table", "csv")},
        "seconds": middle(ours, "seconds"), "cpu_seconds": middle(ours, "cpu_seconds"),
        "peak_mb": round(max(one["peak_mb"] for one in ours)),
        "json_seconds": middle(bare, "seconds"), "json_cpu_seconds": middle(bare, "cpu_seconds"),
        "ratio": round(statistics.median(a["cpu_seconds"] / b["cpu_seconds"] for a, b in pairs), 2),
        "commit": f"{commit}{'-dirty' if dirty else ''}",
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="for example results/benchmarks/tables.csv")
    arguments = parser.parse_args()
    found = measure(arguments.seeds, arguments.rounds)
    for key, value in found.items():
        print(f"{key}: {value}")
    if arguments.out is not None:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found), lineterminator="\n")
            writer.writeheader()
            writer.writerow(found)
