"""Sweeps that are killed at random moments: the command, the process that starts the runs, or a run.

A sweep of cheap runs, two at a time, is started again with the same command until it has ended, and then the next one
in an empty folder. The processes are the real ones, with one difference: the process that starts the runs is forked
from this one, which has imported torch, and so starts at once.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from counted import Result, leftovers, readable, rows_of

from bench.cli.main import main as genbench
from bench.errors import UserError
from bench.runs import forkserver, pool
from bench.runs.folder import Ended, RunFolder

__all__ = ["killed_sweeps"]

MOST_COMMANDS = 200  # to bring one sweep to its end
OUTLIVE_SECONDS = 10.0


def killed_sweeps(place: Path, command: Sequence[str], kills: int, seed: int = 0) -> Result:
    """Kill ``kills`` times, and count what that costs."""
    result = Result(f"sweeps of several runs, 2 at a time, {kills} SIGKILLs" + (f", seed {seed}" if seed else ""))
    generator = random.Random(seed)
    folder, said = place / "swept", place / "swept-said"
    began = time.monotonic()
    _in_folder(folder)
    code = _ended(_start(command, folder, said), 600.0)
    assert code == 0, said.read_text()
    seconds, expected = time.monotonic() - began, rows_of(folder)
    while result.cases < kills:
        _in_folder(folder)
        finished: dict[Path, object] = {}
        for _ in range(MOST_COMMANDS):
            process = _start(command, folder, said)
            code = _disturbed(process, result, kills, generator, 0.35 * seconds)
            result.stuck += _outlived(process)
            result.tracebacks += "Traceback (most recent" in said.read_text(errors="replace")
            result.silent += code > 0 and "genbench: " not in said.read_text(errors="replace")
            result.unreadable += sum(not readable(path) for path in folder.rglob("*") if path.is_file())
            now = _finished(folder)
            result.doubled += sum(now.get(run) != state for run, state in finished.items())
            finished = now
            if code == 0:
                break
        else:
            result.stuck += 1
        try:
            for there, wanted in zip(rows_of(folder), expected, strict=True):
                result.lost += (wanted - there).total()
                result.doubled += (there - wanted).total()
        except UserError:
            result.unreadable += 1
        result.orphans += leftovers(folder)
        if result.bad:
            print(result, said.read_text(errors="replace"), file=sys.stderr)
    return result


def _in_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _finished(folder: Path) -> dict[Path, object]:
    """The runs that say they have ended well, with what tells whether they were made again."""
    ended = [run for run in folder.glob("runs/*/*") if RunFolder(run).outcome("").ended is Ended.OK]
    return {
        run: [(run / name).stat().st_mtime_ns for name in ("rows.jsonl", "best.ckpt", "done.json")] for run in ended
    }


def _start(command: Sequence[str], folder: Path, said: Path) -> int:
    """Start the command in a process group of its own."""
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        pool.subprocess = SimpleNamespace(Popen=_Forked, TimeoutExpired=subprocess.TimeoutExpired)  # type: ignore[assignment]
        code = genbench(list(command))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _disturbed(process: int, result: Result, kills: int, generator: random.Random, longest: float) -> int:
    """Kill one of the command's processes after a random time, again and again; return the command's exit code."""
    while True:
        code = _ended(process, generator.uniform(0, longest))
        if code is not None:
            return code
        if result.cases < kills:
            servers = _children(process)
            runs = [run for server in servers for run in _children(server)]
            victims = generator.choice([[process], servers or [process], runs or [process]])
            with contextlib.suppress(ProcessLookupError):
                os.kill(generator.choice(victims), signal.SIGKILL)
                result.cases += 1


def _ended(process: int, seconds: float) -> int | None:
    """The exit code of a child that ends within this time."""
    until = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def _outlived(group: int) -> bool:
    """Whether a process of the command lives on; it is killed then."""
    until = time.monotonic() + OUTLIVE_SECONDS
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.01)
        os.killpg(group, signal.SIGKILL)
        return True
    return False


def _children(process: int) -> list[int]:
    try:
        return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


class _Forked:
    """Stands for ``subprocess.Popen`` of the process that starts the runs (``bench.runs.pool``)."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], stdin: int, pass_fds: Sequence[int]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 99
        try:
            os.dup2(stdin, 0)
            for number in map(int, os.listdir("/proc/self/fd")):
                if number > 2 and number not in pass_fds:
                    with contextlib.suppress(OSError):
                        os.close(number)
            os.environ.update(env)
            sys.argv = ["forkserver", *command[-2:]]
            code = forkserver.main()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> Any:
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("forkserver", timeout)
            time.sleep(0.005)
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
