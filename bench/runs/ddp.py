"""Train one run in several new processes (DDP). Each process reads the run's configuration from a file.

Lightning would run the command line again in each process, and with it the whole sweep. Here each process works on one
run only.

Two pipes connect the workers to their parent process. The workers' standard input carries no bytes; its end tells them
that the parent has ended, for whatever reason. Through the other pipe each worker reports its exit code and reason, in
order of time.

Workers are always killed, never asked to stop. Training can resume from their files at any time. If workers stopped one
by one, the last ones would report the loss of the first as the reason of the failure.
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
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from bench.ours import python_path
from bench.processes import place

if TYPE_CHECKING:
    from torch.distributed import TCPStore

__all__ = ["follow_parent", "run_workers", "signals_blocked", "tell_parent"]

WORKER = "bench.runs.worker"  # the module that each process runs
POLL_SECONDS = 0.2
LONGEST_REASON = 600  # characters; lines of up to PIPE_BUF (4096) bytes from several writers are never mixed


def follow_parent(life: int = 0) -> None:
    """Make a worker exit immediately when its parent ends or on SIGTERM, and ignore Ctrl-C, which the parent handles.

    Call it before other threads start.

    Arguments:
        life: The pipe whose end says that the parent has ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # On SIGTERM Lightning would start a collective operation, and wait there for processes that got no signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, args=[life], daemon=True).start()
    threading.Thread(target=_end_by_sigterm, daemon=True).start()


def _end_with_parent(life: int) -> None:
    while os.read(life, 1):
        pass
    # The main thread may be waiting forever in a collective operation for a process that has ended.
    os._exit(128 + signal.SIGTERM)


def _end_by_sigterm() -> None:
    signal.sigwait({signal.SIGTERM})
    os._exit(128 + signal.SIGTERM)


def tell_parent(pipe: int, exit_code: int, reason: str) -> None:
    """Report a worker's exit code and reason to its parent through ``pipe``."""
    line = json.dumps([place().rank, exit_code, reason[:LONGEST_REASON]], ensure_ascii=False)
    os.write(pipe, line.encode(errors="replace") + b"\n")


def run_workers(config: Path, processes: int) -> tuple[int, str]:
    """Start ``processes`` workers on one configuration file and wait for all of them.

    No worker remains after this function returns or raises.

    Returns:
        Exit code and reason of the first worker that failed (the others are then killed), or 0 and the message of
        process 0.

    Raises:
        SystemExit: This process received SIGTERM and has no handler of its own for it.
        KeyboardInterrupt: The user pressed Ctrl-C.
    """
    store = _store()
    environment = {**os.environ, "PYTHONPATH": python_path()}
    life, our_life = os.pipe()
    told, tell = os.pipe()
    workers: list[subprocess.Popen[bytes]] = []
    try:
        with _sigterm_unwinds():
            for rank in range(processes):
                numbers = map(str, (tell, rank, processes, store.port))
                command = [sys.executable, "-P", "-m", WORKER, str(config), *numbers]
                with signals_blocked():
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
        del store
        Console(stderr=True).show_cursor()  # the progress bar of a killed worker leaves the cursor hidden


def _store() -> "TCPStore":
    """Return the store at which the workers meet, on a port of this machine alone that is bound from the beginning."""
    from torch.distributed import TCPStore

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        return TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )  # fmt: skip


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Let a new process inherit blocked signals: until ``follow_parent`` they would end it with a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Make SIGTERM end this process through its ``finally`` clauses, where it has no handler and would end at once.

    Has no effect outside the main thread.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
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
    """Return the exit code and reason that each worker reported, by rank, in the order in which they ended."""
    os.set_blocking(pipe, False)
    try:
        lines = os.read(pipe, 1 << 20).splitlines()
    except BlockingIOError:  # no worker has reported
        return {}
    return {rank: (exit_code, reason) for rank, exit_code, reason in map(json.loads, lines)}


def _verdict(codes: list[int | None], told: dict[int, tuple[int, str]]) -> tuple[int, str]:
    """Return the exit code and reason of the run, given its workers' exit codes (None: still running) and reports."""
    for rank, code in enumerate(codes):
        if code and rank not in told:  # checked first, because the others would only report the loss of this worker
            how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
            return 1, f"process {rank} of {len(codes)} ended without a word, by {how}"
    for exit_code, reason in told.values():
        if exit_code:
            return exit_code, reason
    for rank, code in enumerate(codes):
        if code:
            return 1, f"process {rank} of {len(codes)} ended with code {code} after all was done"
    return 0, told[0][1] if 0 in told else ""
