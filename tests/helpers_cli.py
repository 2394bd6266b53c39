"""The real command line, in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["genbench", "genbench_killed_after"]


def genbench(*arguments: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run ``genbench`` and wait."""
    command = [sys.executable, "-W", "ignore", "-m", "bench", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=_environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def genbench_killed_after(seconds: float, log: Callable[[], int], *arguments: str, cwd: Path) -> int | None:
    """Run ``genbench`` and send SIGKILL, ``seconds`` after ``log()`` has grown: the run is then past its imports.

    Returns:
        Its exit code if it ended before, None if it was killed.
    """
    command = [sys.executable, "-W", "ignore", "-m", "bench", *arguments]
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
