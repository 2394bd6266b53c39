"""Measure what the activation of masked networks does to the test log-likelihood of autoregressive flows.

    python tests/benchmarks/bench_activation.py --jobs 2
    python tests/benchmarks/bench_activation.py --models maf naf --data two_moons --examples 1000000

Each run is ``genbench run`` in a process with one thread: 200,000 training examples in batches of 256 unless
``--examples`` says otherwise, the checkpoint that was best on the validation split, its log-likelihood on the test
split. Everything but the activation is the same in the runs of a model, a data set and a seed, so differences between
them are paired. ``--out`` gets one line a run as soon as it has ended. A run that has its line is not run again: the
same command goes on where it was stopped.

Nothing is downloaded but MAGIC, and that only if it lies neither in the cache nor in ``--tables`` (a folder with
magic.dat). Without it, and without a network, its runs are left out.
"""

import argparse
import csv
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from bench.data.tabular import magic
from bench.errors import UserError
from bench.files import durable_write
from bench.rows.store import read_rows
from bench.schema import Status

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "results" / "benchmarks" / "activation.csv"
FLOWS = ("maf", "nsf_ar", "naf", "iaf")
DATA = ("two_moons", "checkerboard", "magic", "two_spirals", "mnist5k")
ACTIVATIONS = ("silu", "relu", "elu")
BATCH = 256


@dataclass(frozen=True)
class Run:
    """What one run is told apart by."""

    model: str
    data: str
    activation: str
    seed: int
    examples: int

    def overrides(self, tables: Path | None) -> list[str]:
        """Arguments of ``genbench run``."""
        key = "model.flow.activation" if self.model == "vae_iaf" else "model.activation"
        places = [f"data.path={tables}"] if tables is not None and self.data == "magic" else []
        return [
            f"model={self.model}", f"data={self.data}", f"{key}={self.activation}", f"seed={self.seed}", *places,
            f"train.examples={self.examples}", f"train.batch_size={BATCH}",
            f"train.validate_every={self.examples // 5}", "metric=[likelihood]",
        ]  # fmt: skip


@dataclass(frozen=True)
class Result(Run):
    """A line of the file.

    Attributes:
        nats: Mean test log-likelihood of an example; for ``vae_iaf`` the bound from 16 draws.
        stderr: Its standard error, over test examples and draws.
        seconds: Of training.
    """

    nats: float
    stderr: float
    seconds: float
    device: str


def study(
    models: Sequence[str], data: Sequence[str], activations: Sequence[str], seeds: int, examples: int
) -> Iterator[Run]:
    """All runs, the most informative first: two activations of every model, then another seed, then the rest."""
    for some in (activations[:2], activations[2:]):
        for seed in range(seeds):
            for of in data:
                suits = [model for model in models if (model == "vae_iaf") == (of == "mnist5k")]
                yield from (Run(model, of, name, seed, examples) for model in suits for name in some)


def measure(run: Run, tables: Path | None) -> Result:
    """Train and measure in a process of its own.

    Raises:
        RuntimeError: It failed; the message is the last line of what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        places = [f"runs_dir={folder}/runs", f"results_dir={folder}/results"]
        ended = subprocess.run(
            [sys.executable, "-m", "bench", "run", *run.overrides(tables), *places], cwd=ROOT, capture_output=True,
            text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        files = sorted(Path(folder).glob("runs/*/*/rows.jsonl"))
        rows = [row for file in files for row in read_rows(file)]
        found = [row for row in rows if row.metric == "log_likelihood" and row.model == run.model]
        if ended.returncode != 0 or not found or found[0].status is not Status.OK:
            raise RuntimeError((ended.stderr.strip().splitlines() or ["it printed nothing"])[-1])
        row = found[0]
        assert row.value is not None
        assert row.stderr is not None
    return Result(**asdict(run), nats=row.value, stderr=row.stderr, seconds=row.train_seconds, device=row.device)


def read(path: Path) -> list[Result]:
    """The lines of the file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return [
            Result(**{field.name: field.type(line[field.name]) for field in fields(Result)})  # type: ignore[operator]
            for line in csv.DictReader(stream)
        ]


def write(path: Path, results: Iterable[Result]) -> None:
    """Write the file, whole or not at all, in the order of the runs' names."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Result)])
    for result in sorted(results, key=astuple):
        writer.writerow(f"{value:.6g}" if isinstance(value, float) else value for value in astuple(result))
    path.parent.mkdir(parents=True, exist_ok=True)
    durable_write(path, text.getvalue().encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[*FLOWS, "vae_iaf"])
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--activations", nargs="+", default=ACTIVATIONS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--examples", type=int, default=200_000)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, of one thread each")
    parser.add_argument("--tables", type=lambda text: Path(text).resolve(), help="folder with magic.dat")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    data = list(options.data)
    if "magic" in data:
        try:
            magic(None if options.tables is None else str(options.tables))
        except UserError as error:
            print(f"left out: {error}", flush=True)
            data.remove("magic")
    results = read(options.out)
    done = {tuple(getattr(result, field.name) for field in fields(Run)) for result in results}
    runs = study(options.models, data, options.activations, options.seeds, options.examples)
    missing = [run for run in runs if astuple(run) not in done]
    print(f"{len(done)} runs are measured, {len(missing)} are missing", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        started = {pool.submit(measure, run, options.tables): run for run in missing}
        for future in as_completed(started):
            run = started[future]
            try:
                results.append(future.result())
            except RuntimeError as error:
                print(f"failed: {run}: {error}", flush=True)
                continue
            write(options.out, results)
            print(results[-1], flush=True)


if __name__ == "__main__":
    main()
