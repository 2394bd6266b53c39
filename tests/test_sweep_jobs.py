"""Sweeps of several processes through the real command line: whatever happens to one run, the others finish."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers_cli import PATIENCE, command_line, genbench, started, wait_until
from helpers_sweep import TINY, at_work, children, unruly

from bench.rows.store import read_rows
from bench.schema import Status
from bench.stopping import MESSAGE

WITHOUT_TORCH = """\
import sys
from bench.cli.main import main
code = main()
assert not {"torch", "pytorch_lightning"} & set(sys.modules), "the parent has imported torch"
sys.exit(code)
"""
REASONS = {
    "hang": "timed out after 20 s",
    "raise": "ValueError: it is unruly",
    "die": "ended without a word, by SIGKILL",
    "abort": "ended without a word, by SIGABRT",
    "want_memory": "out of memory",
    "diverge": "diverged at example",
}


pytestmark = pytest.mark.slow  # every command imports torch; tests/test_jobs.py has the same without


def markers(folder: Path) -> dict[str, str]:
    """How the runs below a folder ended, by what their model does."""
    ended = {}
    for file in folder.glob("runs/*/*/done.json"):
        does = json.loads((file.parent / "config.json").read_text())["model"]["does"]
        ended[does] = json.loads(file.read_text())["ended"]
    return ended


def test_whatever_happens_to_one_run_the_others_finish(workplace: Path) -> None:
    ways = ",".join([*REASONS, "nothing"])
    command = ["run", "-m", f"model.does={ways}", "jobs=2", "timeout=20", *unruly(workplace)]
    parent = [sys.executable, "-W", "ignore", "-c", WITHOUT_TORCH, *command]
    with started(parent, workplace) as process:
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert markers(workplace) == {
        "hang": "timed out", "raise": "failed", "die": "killed", "abort": "killed", "want_memory": "out of memory",
        "diverge": "diverged", "nothing": "ok",
    }  # fmt: skip
    for run in workplace.glob("runs/*/*/"):
        does = json.loads((run / "config.json").read_text())["model"]["does"]
        rows = read_rows(run / "rows.jsonl")
        assert rows
        if does in REASONS:
            assert all(row.status is Status.FAILED and REASONS[does] in row.reason for row in rows), does
            assert rows[0].model_family == "baseline"
        assert "unruly-s0" in (run / "run.log").read_text()
    assert "Fatal Python error: Aborted" in "".join(log.read_text() for log in workplace.glob("runs/*/*/run.log"))
    assert (
        "genbench: of 7 runs 1 is done, 6 failed (1 diverged, 1 failed, 2 killed, 1 out of memory, 1 timed out)" in said
    )
    # What the cause is removed of goes on by the same command, and what is done is not done again.
    (workplace / "healed").touch()
    done = genbench(*command, cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert set(markers(workplace).values()) == {"ok"}
    assert "1 of 7 runs were finished before" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_sweep_ends_with_all_its_processes(number: signal.Signals, workplace: Path) -> None:
    command = command_line("run", "-m", "model.does=hang", "model.tag=0,1,2", "jobs=2", *unruly(workplace))
    with started(command, workplace) as process:
        wait_until(lambda: len(list(workplace.glob("hangs-*"))) == 2, process)
        assert len(at_work(workplace)) == 2
        begin = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        took = time.monotonic() - begin
        if number != signal.SIGKILL:  # it waits for their end, so that the same command can follow
            assert at_work(workplace) == []
        wait_until(lambda: not at_work(workplace))
    assert took < 10
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or said.splitlines()[-1] == MESSAGE
    assert "Traceback" not in said
    assert not list(workplace.glob("runs/*/*/done.json"))
    assert len(list(workplace.glob("runs/*/*/last.ckpt"))) == 2


def test_a_signal_to_every_process_of_a_sweep_makes_no_failures(workplace: Path) -> None:
    command = command_line("run", "-m", "model.does=hang", "model.tag=0,1", "jobs=2", *unruly(workplace))
    with started(command, workplace) as process:
        wait_until(lambda: len(list(workplace.glob("hangs-*"))) == 2, process)
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1] == MESSAGE
    assert not list(workplace.glob("runs/*/*/done.json"))


def test_a_sweep_outlives_the_process_that_forks(workplace: Path) -> None:
    command = command_line("run", "-m", "model.does=hang,nothing", "jobs=1", *unruly(workplace))
    with started(command, workplace) as process:
        wait_until(lambda: list(workplace.glob("hangs-*")), process)
        (server,) = children(process.pid)
        os.kill(server, signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert markers(workplace) == {"hang": "killed", "nothing": "ok"}


def test_two_sweeps_share_the_runs(workplace: Path) -> None:
    command = command_line("run", "-m", "seed=range(0,5)", "jobs=2", *unruly(workplace), "train.examples=6400")
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with started(command, workplace, **streams) as one, started(command, workplace, **streams) as other:
        said = [process.communicate(timeout=PATIENCE)[1] for process in (one, other)]
    assert {one.returncode, other.returncode} <= {0, 75}, said
    assert 0 in (one.returncode, other.returncode)
    logs = [log.read_text() for log in workplace.glob("runs/*/*/run.log")]
    assert [log.count(" starts\n") for log in logs] == [1] * 5


def test_a_mistake_is_told_before_anything_starts(workplace: Path) -> None:
    done = genbench("run", "-m", "model=vae", "seed=0,1", "model.hiden=7", *TINY, cwd=workplace)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    done = genbench("run", "-m", "model=vae", "seed=0,1", "++model.hiden=7", "jobs=2", *TINY, cwd=workplace)
    assert done.returncode == 2
    assert "takes no such argument" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(workplace.glob("runs/*/*"))
