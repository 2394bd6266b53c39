"""Several processes for one run (DDP), started fresh: each reads the run's configuration from its folder.

Lightning would start the command line again, and with it the whole sweep; here one process is one run.

Two pipes join the workers to the process that started them. Their standard input never brings a byte: that it ends
tells them that their parent has, however it died. The other brings back how each worker ended, in the order of time.

A worker is always ended at once, and never asked to come to an end: what it leaves can be gone on from, and in a run
whose workers stop one by one the last ones report the loss of the first as the run's failure.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from bench.ours import python_path

__all__ = ["follow_parent", "is_worker", "run_workers", "tell_parent"]

WORKER = "bench.runs.worker"  # the module that each process runs
POLL_SECONDS = 0.2
LONGEST_REASON = 600  # characters; a line of up to PIPE_BUF (4096) bytes is never mixed with another's


def is_worker() -> bool:
    """Whether this process is one of several that train one model."""
    return "LOCAL_RANK" in os.environ


def follow_parent() -> None:
    """In a worker: from here on, end at once when the parent does, or by SIGTERM, and leave Ctrl-C to the parent.

    Call it before there are other threads.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Lightning would answer SIGTERM with a collective, in which this process waits for those that got none.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for end in (_end_with_parent, _end_by_sigterm):
        threading.Thread(target=end, daemon=True).start()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    # The main thread may wait for ever in a collective for a process that has ended before.
    os._exit(128 + signal.SIGTERM)


def _end_by_sigterm() -> None:
    signal.sigwait({signal.SIGTERM})
    os._exit(128 + signal.SIGTERM)


def tell_parent(pipe: int, exit_code: int, reason: str) -> None:
    """In a worker: say how it ended, through the ``pipe`` that its parent named."""
    line = json.dumps([int(os.environ["LOCAL_RANK"]), exit_code, reason[:LONGEST_REASON]], ensure_ascii=False)
    os.write(pipe, line.encode(errors="replace") + b"\n")


def run_workers(config: Path, processes: int) -> tuple[int, str]:
    """Start ``processes`` workers on one configuration file and wait for all.

    No worker is left when this function is, by whatever way. SIGTERM leaves it by ``SystemExit``, as Ctrl-C by
    ``KeyboardInterrupt``.

    Returns:
        Exit code and reason: those of the first worker that failed (the others are then ended), or 0 and what the
        first process said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    shared["WORLD_SIZE"] = str(processes)
    shared["PYTHONPATH"] = python_path()
    life, our_life = os.pipe()
    told, tell = os.pipe()
    workers: list[subprocess.Popen[bytes]] = []
    try:
        with _sigterm_unwinds():
            for rank in range(processes):
                command = [sys.executable, "-P", "-m", WORKER, str(config), str(tell)]
                environment = {**shared, "LOCAL_RANK": str(rank)}
                workers.append(subprocess.Popen(command, env=environment, stdin=life, pass_fds=[tell]))
            codes = [worker.poll() for worker in workers]
            while None in codes and not any(codes):
                time.sleep(POLL_SECONDS)
                codes = [worker.poll() for worker in workers]
            return _verdict(codes, _read_told(told))
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()
        for pipe in (life, our_life, told, tell):
            os.close(pipe)
        Console(stderr=True).show_cursor()  # which the bar of a worker that was ended has hidden


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM ends this process through its ``finally`` clauses. Other threads may not, and need not, ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit_as_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_as_terminated(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _read_told(pipe: int) -> dict[int, tuple[int, str]]:
    """Exit code and reason that each worker told, by rank, the first to end first."""
    os.set_blocking(pipe, False)
    try:
        lines = os.read(pipe, 1 << 20).splitlines()
    except BlockingIOError:  # nobody said anything
        return {}
    return {rank: (exit_code, reason) for rank, exit_code, reason in map(json.loads, lines)}


def _verdict(codes: list[int | None], told: dict[int, tuple[int, str]]) -> tuple[int, str]:
    """How the run ended, from its workers' exit codes (None: it still ran) and words."""
    for rank, code in enumerate(codes):
        if code and rank not in told:  # before all words: those of the others would be about the loss of this one
            how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
            return 1, f"process {rank} of {len(codes)} ended without a word, by {how}"
    for exit_code, reason in told.values():
        if exit_code:
            return exit_code, reason
    for rank, code in enumerate(codes):
        if code:
            return 1, f"process {rank} of {len(codes)} ended with code {code} after all was done"
    return 0, told[0][1] if 0 in told else ""
