"""Several processes for one run: none outlives the others, nor the one that started them; the cause is what is told.

Tiny workers stand for the trainings: each holds a lock, as a training holds that of its run's folder, and
waits for ever, as in a collective for a process that has ended.
"""

import fcntl
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_cli import PATIENCE, command_line, genbench, started, wait_until

from bench.processes import Place
from bench.runs import ddp as processes
from bench.runs.ddp import run_workers, tell_parent

WORKER = """\
import fcntl, os, signal, sys, threading, time
from pathlib import Path
from bench.processes import Place, become_worker
from bench.runs.ddp import follow_parent, tell_parent

def wait_for_ever():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.01)

follow_parent()
pipe, rank, size, port = map(int, sys.argv[2:])
become_worker(Place(rank, size, port))
held = open(f"{rank}.lock", "w")
fcntl.flock(held, fcntl.LOCK_EX)
Path(f"{rank}.ready").touch()
"""
PARENT = """\
import os, sys
from pathlib import Path
sys.path[0] = os.getcwd()  # workers look there only because it is named
from bench.runs import ddp as processes
processes.WORKER = "tiny"
print(processes.run_workers(Path("config.json"), 2))
"""


def work(code: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """What two workers of this code, in the current folder, come to."""
    Path("tiny.py").write_text(WORKER + code)
    monkeypatch.syspath_prepend(os.getcwd())
    monkeypatch.setattr(processes, "WORKER", "tiny")
    return run_workers(Path("config.json"), 2)


def held(lock: Path) -> bool:
    """Whether a process that lives holds the lock."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_worker_outlives_its_parent(number: signal.Signals, workplace: Path) -> None:
    Path("tiny.py").write_text(WORKER + "wait_for_ever()\n")
    locks = [workplace / "0.lock", workplace / "1.lock"]
    with started([sys.executable, "-c", PARENT], workplace) as parent:
        wait_until(lambda: all((workplace / f"{rank}.ready").exists() for rank in range(2)), parent)
        assert [held(lock) for lock in locks] == [True, True]
        parent.send_signal(number)
        code = parent.wait(PATIENCE)
        if number in (signal.SIGTERM, signal.SIGINT):  # it waits for their end, so that the same command can follow
            assert [held(lock) for lock in locks] == [False, False]
        wait_until(lambda: not any(held(lock) for lock in locks))
    assert code == (128 + number if number == signal.SIGTERM else -number)


def test_ctrl_c_at_a_terminal_reaches_the_parent_alone(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The terminal sends it to the whole group. Workers that unwind, each at a place of its own, would tell failures.
    code = "os.kill(os.getpid(), signal.SIGINT)\ntell_parent(pipe, 0, 'unharmed')\n"
    assert work(code, monkeypatch) == (0, "unharmed")


def test_a_worker_ends_by_sigterm_whoever_handles_it(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As Lightning, whose handler waits in a collective.
    code = """
if rank == 1:
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(9))
    os.kill(os.getpid(), signal.SIGTERM)
wait_for_ever()
"""
    assert work(code, monkeypatch) == (1, "process 1 of 2 ended without a word, by exit code 143")


def test_a_worker_tells_why_and_the_others_are_ended(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
if rank == 0:
    wait_for("1.ready")
    tell_parent(pipe, 2, "another process is at work there")
    sys.exit(2)
wait_for_ever()
"""
    assert work(code, monkeypatch) == (2, "another process is at work there")
    assert not held(workplace / "1.lock")


def test_the_first_to_fail_is_the_cause(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
if rank == 0:
    wait_for("told")
tell_parent(pipe, 1, "diverged at example 64" if rank else "RuntimeError: connection closed by peer")
Path("told").touch()
sys.exit(1)
"""
    monkeypatch.setattr(processes, "POLL_SECONDS", 1.5)  # both have ended when the parent looks
    assert work(code, monkeypatch) == (1, "diverged at example 64")


def test_a_killed_worker_is_the_cause_whatever_the_others_say(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
if rank == 0:
    tell_parent(pipe, 1, "RuntimeError: connection closed by peer")
    sys.exit(1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    monkeypatch.setattr(processes, "POLL_SECONDS", 1.5)
    assert work(code, monkeypatch) == (1, "process 1 of 2 ended without a word, by SIGKILL")


def test_a_worker_that_fails_after_its_work_is_a_failure(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exit_code, reason = work("tell_parent(pipe, 0, 'budget')\nsys.exit(7 * rank)\n", monkeypatch)
    assert (exit_code, reason) == (1, "process 1 of 2 ended with code 7 after all was done")


def test_all_well_is_what_the_first_process_says(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert work("tell_parent(pipe, 0, 'budget' if rank == 0 else '')\n", monkeypatch) == (0, "budget")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("letter", ["a", "é", "\n", "\0", "\U0001f600", "\udcff", '"'])
def test_a_long_word_is_one_line_that_no_other_can_break(letter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "place", lambda: Place(rank=3))
    out, into = os.pipe()
    os.set_blocking(into, False)
    tell_parent(into, 1, letter * 100_000)
    line = os.read(out, 1 << 20)
    os.write(into, line)
    told = processes._read_told(out)
    os.close(out)
    os.close(into)
    assert len(line) <= select.PIPE_BUF
    assert line.count(b"\n") == 1
    assert told[3][1] in (letter * processes.LONGEST_REASON, "?" * processes.LONGEST_REASON)


def test_the_real_worker_follows_its_parent_from_the_start(workplace: Path) -> None:
    os.mkfifo("config.json")  # which nobody ever writes: the main thread waits
    command = [sys.executable, "-m", "bench.runs.worker", "config.json", "1", "0", "1", "0"]
    with started(command, workplace, stdin=subprocess.PIPE) as worker:
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.5)
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(PATIENCE) == 128 + signal.SIGTERM


def test_the_real_worker_tells_its_parent(workplace: Path) -> None:
    Path("config.json").write_text('{"typo": 1}')
    exit_code, reason = run_workers(Path("config.json"), 1)
    assert exit_code == 2
    assert reason.startswith("typo: no such key")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_two_processes_that_lost_their_parent_go_on_by_the_same_command(
    number: signal.Signals, workplace: Path
) -> None:
    command = ["run", "model=realnvp", "model.couplings=2", "data=two_moons", "metric=[likelihood]", "trainer=ddp",
               "trainer.accelerator=cpu", "train.examples=64000", "train.validate_every=640"]  # fmt: skip
    with started(command_line(*command), workplace) as process:
        wait_until(lambda: list(workplace.glob("runs/*/*/last.ckpt")), process)
        process.send_signal(number)
        assert process.wait(PATIENCE) in (-signal.SIGKILL, 128 + number)
    assert not list(workplace.glob("runs/*/*/done.json"))
    done = genbench(*command, cwd=workplace)
    assert done.returncode == 0, done.stderr
