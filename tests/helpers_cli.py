"""The real command line, in a process of its own. Nothing that is started here outlives its test."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["PATIENCE", "command_line", "genbench", "genbench_killed_after", "started", "wait_until"]

PATIENCE = 300.0  # seconds until what a test waits for counts as lost, on a machine that does much else besides


def command_line(*arguments: str) -> list[str]:
    """The command line that runs ``genbench`` with these arguments."""
    return [sys.executable, "-W", "ignore", "-m", "bench", *arguments]


def genbench(
    *arguments: str, cwd: Path, timeout: float = PATIENCE, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``genbench`` and wait; ``extra`` are further variables of its environment."""
    command = command_line(*arguments)
    with started(command, cwd, {**_environment(), **(extra or {})}, stdout=subprocess.PIPE) as process:
        out, errors = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


@contextlib.contextmanager
def started(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None, **streams: Any
) -> Iterator["subprocess.Popen[str]"]:
    """A process in a group of its own. It, and whatever it started, is killed at the end of the block."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **streams}
    environment = _environment() if environment is None else environment
    process = subprocess.Popen(command, cwd=cwd, env=environment, text=True, start_new_session=True, **streams)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def wait_until(seen: Callable[[], object], process: "subprocess.Popen[Any] | None" = None) -> None:
    """Wait until a condition holds; fail if it never does, or if the process that should bring it about has ended."""
    deadline = time.monotonic() + PATIENCE
    while not seen():
        assert process is None or process.poll() is None or seen(), "the process ended before"
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def genbench_killed_after(seconds: float, log: Callable[[], int], *arguments: str, cwd: Path) -> int | None:
    """Run ``genbench`` and send SIGKILL, ``seconds`` after ``log()`` has grown: the run is then past its imports.

    Returns:
        Its exit code if it ended before, None if it was killed.
    """
    command = command_line(*arguments)
    before = log()
    # A group of its own: its workers, if any, die with it.
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while log() == before and process.poll() is None:
        time.sleep(0.005)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
