"""Processes for runs, seen from the process that starts them. Imports no torch: ``bench.runs.forkserver`` does."""

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from bench.ours import python_path
from bench.runs.ddp import signals_blocked

__all__ = ["Pool", "PoolLostError"]

SERVER = "bench.runs.forkserver"
END_SECONDS = 1.5  # less than the grace of bench.stopping


class PoolLostError(Exception):
    """The process that starts the runs has ended, and the runs with it."""


class Pool:
    """Starts and ends processes for runs, and hears from them. Use it as a context manager.

    No process outlives it, nor this process, however that ends.

    Arguments:
        threads: Of each process; None leaves that to torch and to environment variables.
    """

    def __init__(self, threads: int | None) -> None:
        self._threads = threads

    def __enter__(self) -> Self:
        life, self._life = os.pipe()
        requests, self._requests = os.pipe()
        self._reports, reports = os.pipe()
        self._text = b""
        environment = {**os.environ, "PYTHONPATH": python_path()}
        if self._threads is not None:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        command = [sys.executable, "-P", "-m", SERVER, str(requests), str(reports)]
        try:
            with signals_blocked():
                self._server = subprocess.Popen(command, env=environment, stdin=life, pass_fds=[requests, reports])
        finally:
            for pipe in (life, requests, reports):
                os.close(pipe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._life, self._requests):  # each process that still runs ends now
            os.close(pipe)
        try:
            self._server.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it imports still, and has no children
            self._server.kill()
            self._server.wait()
        os.close(self._reports)

    def start(self, job: int, do: str, environment: Mapping[str, str] | None = None, **request: Any) -> None:
        """Let a process do something: ``run``, ``check`` or ``note`` (bench.runs.forkserver).

        Raises:
            PoolLostError: Nothing can be started any more.
        """
        self._send({"job": job, "do": do, "environment": dict(environment or {}), **request})

    def kill(self, job: int) -> None:
        """End the process of a job at once."""
        self._send({"job": job, "do": "kill"})

    def reports(self, seconds: float) -> list[dict[str, Any]]:
        """What the processes report, after at most ``seconds`` of waiting.

        Raises:
            PoolLostError: The server has ended, and reports nothing more.
        """
        if not select.select([self._reports], [], [], seconds)[0]:
            if self._server.poll() is not None:
                raise PoolLostError(f"exit code {self._server.returncode}")
            return []
        read = os.read(self._reports, 1 << 16)
        if not read:
            self._server.wait()
            raise PoolLostError(f"exit code {self._server.returncode}")
        *lines, self._text = (self._text + read).split(b"\n")
        return [json.loads(line) for line in lines]

    def _send(self, request: dict[str, Any]) -> None:
        line = memoryview(json.dumps(request).encode() + b"\n")
        with contextlib.suppress(InterruptedError):
            try:
                while line:
                    line = line[os.write(self._requests, line) :]
            except BrokenPipeError as error:
                raise PoolLostError("it reads no more") from error
