"""File systems without flock, processes that hold a lock or a temporary file, and a run of a second."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import locks

__all__ = ["RUN", "grow_old", "refuse_flock", "started"]

RUN = ["run", "model=gaussian", "data=two_moons", "data.n_train=200", "data.n_val=20", "data.n_test=20",
       "metric=[likelihood]", "evaluate.n_samples=20"]  # fmt: skip


def refuse_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """From now on ``flock`` fails with this error number, and nothing has been said of it yet."""

    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(locks, "_said", set())


def started(code: str, path: Path) -> subprocess.Popen[bytes]:
    """A process that runs this code on a path, once it has printed that it holds the lock or is in the middle."""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() in (b"held\n", b"in\n")
    return process


def grow_old(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)
