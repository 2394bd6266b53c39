"""The short version of tests/benchmarks/bench_reliability.py: faults cost no row, no traceback and no orphan."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
BAD = ("lost", "doubled", "tracebacks", "unreadable", "silent", "stuck", "orphans")


def run(arguments: list[str], out: Path) -> tuple[list[dict[str, str]], str]:
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "bench_reliability.py"), *arguments, "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCHMARKS.parent.parent), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert out.exists(), done.stderr[-3000:]
    with out.open() as file:
        return list(csv.DictReader(file)), done.stdout + done.stderr[-5000:]


def test_some_faults_cost_nothing(tmp_path: Path) -> None:
    lines, said = run(["--short"], tmp_path / "reliability.csv")
    assert len(lines) == 11
    assert all(int(line["cases"]) > 0 for line in lines)
    assert all(line[name] == "0" for line in lines for name in BAD), said


@pytest.mark.parametrize(("error", "expected"), [(5, "OSError"), (None, "killed")])
def test_faults_reach_the_operation_they_are_meant_for(error: int | None, expected: str, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(BENCHMARKS)!r})
from faults import Faults
from bench.files import durable_write
counted = Faults(Path("."))
counted.install()
durable_write("x", "old")
print(*counted.operations, flush=True)
Faults(Path("."), 3, {error}).install()
durable_write("x", "new")
"""
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["open", "write", "flush", "fsync", "replace", "close", "open", "fsync"]
    assert (tmp_path / "x").read_text() == "old"
    assert done.returncode == (1 if expected == "OSError" else -9)
    assert len(list(tmp_path.iterdir())) == (1 if expected == "OSError" else 2), "only a kill leaves a temporary file"
