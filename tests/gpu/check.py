"""Check training and measuring on a CUDA device, and time them.

    python tests/gpu/check.py

First what a recording that fails leaves behind, NaN, steps that cannot be captured, and weights that move. Then for
each model a step eager, captured in our Trainer, and captured in a bare loop; peers; TarFlow's samples and MAF's
inverse against other ways; the quickstart; the classifier and distances of features as on the CPU; replayed chunks;
agreement of captured with eager steps; resume to the same bits; likelihoods as on the CPU, peak memory; round trips;
the quickstart with four runs at a time; peers compiled. It takes at most six minutes, begins nothing for which no time
is left, and needs only the repository and what it requires: data are synthetic, and peers that are not installed are
skipped. Rows are written as they come, and a check that breaks is a row with the reason.

    python tests/gpu/check.py --rehearse --only realnvp,vae --out /tmp/gpu.csv

runs the same on a CPU, with few steps, none of them captured: it shows that the script works; its times say nothing.
"""

import argparse
import csv
import logging
import sys
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from gpu_common import HERE, IMAGES, LINES, PLANE, ROOT, Check, compute_as_runs_do
from gpu_measuring import (
    SAMPLED,
    evaluation,
    inverse_of_glow,
    inverse_of_maf,
    moved,
    quickstart,
    replayed,
    round_trips,
    tarflow,
)
from gpu_metrics import CHECKS as METRICS
from gpu_peers import PEERS, compiled, eager, ours_of_glow
from gpu_training import agreement, divergence, failed_recording, fallback, low_precision, resume, step_times

FIELDS = ("device", "torch", "model", "what", "value", "unit", "status", "note")
FLOWS = {*PLANE, "realnvp_small", "glow_small"}

LATEST = 0.95
"""The share of the time after which no check begins."""

Planned = tuple[str, str, Check, float]
"""A row's model, what the check is given, the check, and after which share of the time it does not begin."""


def plan(names: list[str]) -> list[Planned]:
    """Every check in its order: what other numbers rest on first, what may be left out last."""
    mechanics = [failed_recording, fallback, divergence, moved] if HERE.is_cuda else [divergence, moved]
    peers = [(peer.split()[1], peer) for peer in PEERS if peer.split()[1] in names or peer.endswith("glow")]
    whole = [("tarflow", tarflow), ("maf", inverse_of_maf)]
    checks: list[Planned] = [("mechanics", "", check, LATEST) for check in mechanics]
    checks += [(name, name, step_times, LATEST) for name in names]
    checks += [(name, peer, eager, LATEST) for name, peer in peers]
    checks += [("glow", "glow", ours_of_glow, LATEST)]
    checks += [(name, name, check, LATEST) for name, check in whole]
    if HERE.is_cuda:
        checks += [("quickstart", "trainer=auto", quickstart, LATEST)]
    checks += [("metrics", "", check, LATEST) for check in METRICS]
    checks += [(name, name, replayed, LATEST) for name in SAMPLED if HERE.is_cuda or name in names]
    checks += [(name, name, low_precision, LATEST) for name in names if name == "realnvp_small"]
    checks += [(name, name, check, LATEST) for check in (agreement, resume, evaluation) for name in names]
    checks += [(name, name, round_trips, LATEST) for name in names if name in FLOWS]
    if HERE.is_cuda:  # its published size takes minutes on a CPU
        checks += [("glow", "glow", inverse_of_glow, LATEST)]
        checks += [("quickstart", "trainer=auto jobs=4 jobs_per_gpu=4", quickstart, 0.85)]
        checks += [(name, peer, compiled, 0.85) for name, peer in peers]
    return checks


def run(planned: Iterable[Planned], seconds: float, out: Path) -> list[dict[str, Any]]:
    """Do what time allows; write and return the rows."""
    begin = time.perf_counter()
    log = logging.getLogger("genbench")
    log.setLevel(logging.INFO)
    log.addHandler(LINES)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()

        def write(model: str, what: str, value: float | None, unit: str, status: str, note: str) -> None:
            shown = "" if value is None else f"{value:.5g}"
            entries = (HERE.name, torch.__version__, model, what, shown, unit, status, note)
            row = dict(zip(FIELDS, entries, strict=True))
            rows.append(row)
            writer.writerow(row)
            stream.flush()
            print(f"{model:14} {what}: {row['value']} {unit} {'' if status == 'ok' else status} {note}", flush=True)

        for model, given, check, latest in planned:
            title = check.__name__.replace("_", " ") + ("" if given in ("", model) else f" of {given}")
            start = time.perf_counter()
            if start - begin > latest * seconds:
                write(model, title, None, "", "skipped", "out of time")
                continue
            try:
                for what, value, unit, note in check(given):
                    write(model, what, value, unit, "ok", note)
            except ImportError as error:
                write(model, title, None, "", "skipped", str(error))
            except Exception as error:
                print(traceback.format_exc(), flush=True)
                write(model, title, None, "", "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            print(f"    {title} of {model} took {time.perf_counter() - start:.1f} s", flush=True)
            if HERE.is_cuda:
                with suppress(RuntimeError):  # a device that broke says so in every row that follows
                    torch.cuda.empty_cache()
    log.removeHandler(LINES)
    return rows


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=345.0, help="time for everything; the last check ends by then")
    parser.add_argument("--only", default=",".join(PLANE + IMAGES), help="names of models, with commas")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks" / "gpu.csv")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with few steps; give --out")
    chosen = parser.parse_args(arguments)
    if chosen.rehearse:
        HERE.rehearse()
    elif not torch.cuda.is_available():
        sys.exit("no CUDA device (--rehearse runs the script on the CPU)")
    compute_as_runs_do()
    return run(plan(chosen.only.split(",")), chosen.seconds, chosen.out)


if __name__ == "__main__":
    failed = [row for row in main() if row["status"] == "failed"]
    print(f"{len(failed)} checks failed", flush=True)
    sys.exit(bool(failed))
