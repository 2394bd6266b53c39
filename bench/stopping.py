"""Ctrl-C and SIGTERM end a command within seconds, wherever it is at work.

Python raises an exception in the main thread, between two of its instructions. It comes late during a long call into C,
and never where a library catches it: a bare ``except`` around an optional import, a destructor, a callback. A thread
therefore hears of the signal at once, gives the exception time to unwind, and then ends the process. Everything on disk
is written so that a process may end at any time.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

__all__ = ["GRACE_SECONDS", "end_by_signals", "end_now", "is_command", "is_stopping", "stopped"]

GRACE_SECONDS = 2.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = "genbench: interrupted; the same command goes on where it stopped"

_received: list[int] = []  # the signal that ends this process, once it has arrived
_told = threading.Event()
_commands: list[int] = []  # the process that is a command's


def end_by_signals() -> None:
    """Let SIGINT and SIGTERM end this process: as KeyboardInterrupt, or ``GRACE_SECONDS`` later without it.

    Signals that this process was started to ignore (a job in the background of a script) stay ignored. Call it once,
    in the main thread of a process that belongs to the command.
    """
    _commands.append(os.getpid())
    numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    heard, hear = os.pipe()
    os.set_blocking(hear, False)
    signal.set_wakeup_fd(hear, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _interrupt)
    os.register_at_fork(after_in_child=_leave_to_parent)
    threading.Thread(target=_watch, args=(heard, numbers), daemon=True).start()


def is_command() -> bool:
    """Return whether this process is a command's, and not one that called a command's function."""
    return os.getpid() in _commands


def is_stopping() -> bool:
    """Return whether a signal has asked this process to end. Errors after it are no failures of a run."""
    return bool(_received)


def stopped() -> int:
    """Tell the user, once, that the command was interrupted; return its exit code: 130 (Ctrl-C) or 143 (SIGTERM)."""
    if not _told.is_set():
        _told.set()
        print(MESSAGE, file=sys.stderr)
    return 128 + (_received[0] if _received else signal.SIGINT)


def end_now(code: int) -> NoReturn:
    """End this process without the interpreter's own end, which takes seconds after torch was imported.

    The thread that ends a process late does not run any more by then.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _received:  # a second one would interrupt the clearing up
        _received.append(number)
        raise KeyboardInterrupt


def _watch(heard: int, numbers: list[signal.Signals]) -> None:
    """End the process when it does not end by itself after a signal. The main thread may hang, so it is not asked."""
    while (number := os.read(heard, 1)[0]) not in numbers:
        pass
    time.sleep(GRACE_SECONDS)
    if not _told.is_set() and select.select([], [2], [], 0)[1]:  # a pipe that nobody reads would block
        clear = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides the cursor
        os.write(2, f"{clear}{MESSAGE}\n".encode())
    os._exit(128 + number)


def _leave_to_parent() -> None:
    """In a forked process: its signals are not those of this one, which shares the pipe."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)
