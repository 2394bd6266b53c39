"""A run's folder: the names of what lies in it, who is at work there, how the run ended, and what it still lacks.

Imports no torch, so that a finished run is recognised at once.
"""

import contextlib
import errno
import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from bench.config.spec import CHECKPOINTS, Measurement, Node, RunSpec, fingerprint
from bench.errors import BusyError, UserError
from bench.files import durable_write, sweep_orphans
from bench.locks import hold
from bench.regular import open_regular, read_regular
from bench.rows.store import read_rows, write_rows
from bench.schema import ResultRow, Status

__all__ = ["Ended", "Outcome", "RunFolder", "open_here"]

_LARGEST_MARKER = 1 << 20  # bytes


class Ended(StrEnum):
    """How a run ended."""

    OK = "ok"
    DIVERGED = "diverged"
    FAILED = "failed"
    KILLED = "killed"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    INTERRUPTED = "interrupted"
    REFUSED = "refused"  # a mistake that the user can mend; nothing was measured
    BUSY = "busy"  # another process is running it

    @property
    def exit_code(self) -> int:
        """0 for ok, 2 for a mistake that the user can mend, 75 for busy, 130 after Ctrl-C, else 1."""
        return {Ended.OK: 0, Ended.REFUSED: 2, Ended.BUSY: 75, Ended.INTERRUPTED: 130}.get(self, 1)

    @classmethod
    def of(cls, exit_code: int) -> "Ended":
        """How a process of this exit code ended."""
        return next((ended for ended in (cls.OK, cls.REFUSED, cls.BUSY) if ended.exit_code == exit_code), cls.FAILED)


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and why in words.

    Attributes:
        before: Whether nothing was left to do.
    """

    run_id: str
    ended: Ended
    reason: str = ""
    before: bool = False

    @property
    def exit_code(self) -> int:
        return self.ended.exit_code


class RunFolder:
    """The folder of one training: ``runs/NAME/DATA-MODEL-sSEED-KEY``.

    It holds the configuration (``config.json``), the checkpoints, the rows of everything measured on them
    (``rows.jsonl``) with values of single test examples (``items-CHECKPOINT-KEY.npy``), samples and pictures, a log
    (``run.log``), and two markers. ``trained.json`` says that training came to its end and on which bytes of data.
    ``done.json`` says how the latest command ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.rows = path / "rows.jsonl"
        self.log = path / "run.log"
        self.last = path / "last.ckpt"
        self._done = path / "done.json"
        self._trained = path / "trained.json"
        self._lock = path / ".lock"

    def checkpoint(self, name: str) -> Path:
        """``best.ckpt`` or ``final.ckpt``: weights to evaluate."""
        return self.path / f"{name}.ckpt"

    def samples(self, checkpoint: str) -> Path:
        """Where samples go, less the endings ``.npz`` and ``.png``."""
        return self.path / f"samples-{checkpoint}"

    @contextlib.contextmanager
    def locked(self, *, follower: bool = False, owner: int | None = None) -> Iterator[None]:
        """Make the folder and hold it: two runs of one configuration would overwrite each other's checkpoints.

        Arguments:
            follower: Another process of the same run holds it.
            owner: The process that others are told of; this one unless given.

        Raises:
            BusyError: Another process is at work there; names it.
            UserError: The folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open_here(self._lock)
        except OSError as error:
            raise UserError(
                f"run folder {self.path}: {error.strerror}; give another one with runs_dir=FOLDER"
            ) from error
        with contextlib.ExitStack() as held:
            held.callback(_close, lock)
            if not follower:
                try:
                    held.enter_context(hold(self._lock, lock.fileno()))
                except BlockingIOError:
                    raise BusyError(f"{self.path} is being run by {_owner(self._lock)}; wait for it to end") from None
                except OSError as error:
                    raise UserError(
                        f"run folder {self.path}: cannot be locked: {error.strerror}; give another one with "
                        "runs_dir=FOLDER"
                    ) from error
                _own(lock, os.getpid() if owner is None else owner)
                sweep_orphans(self.path)
            yield

    # What is there.

    def finished(self, spec: RunSpec) -> bool:
        """Whether the latest command ended well and everything that ``spec`` asks for is measured and logged.

        Data at a path of the user's that look changed (names, sizes, times) count as changed until they are read.
        """
        ended_well = _read(self._done).get("ended") == Ended.OK
        whole = ended_well and self.trained(spec) and not self.missing(spec) and self.logged(spec)
        return whole and self.data_seen(spec.data)

    @property
    def ended(self) -> bool:
        """Whether the latest command came to an end, good or bad: an interrupted one leaves no marker."""
        return self._done.exists()

    def trained(self, spec: RunSpec) -> bool:
        """Whether training under this key came to its end, and its checkpoints are here."""
        there = all(self.checkpoint(name).is_file() for name in CHECKPOINTS)
        return there and _read(self._trained).get("training_key") == spec.training_key

    def data_seen(self, node: Node) -> bool:
        """Whether the data look as they did when they were last read. So do data that are gone: what was measured
        stands."""
        now = fingerprint(node.get("path"))
        return now in ("", _read(self._trained).get("fingerprint"))

    def logged(self, spec: RunSpec) -> bool:
        """Whether the curves of training are where ``spec`` wants them. Of older runs the folder of curves tells."""
        loggers = _read(self._trained).get("loggers")
        known = (self.path / "curves").exists() if loggers is None else _logger(spec) in loggers
        return spec.logger is None or known

    @property
    def complete(self) -> bool:
        """Whether training came to its end here, whatever its key: in an earlier version only ``done.json`` said so."""
        there = all(self.checkpoint(name).is_file() for name in CHECKPOINTS)
        done = _read(self._done)
        return there and (self._trained.exists() or done.get("exit_code", 1) == 0)

    @property
    def data_revision(self) -> str:
        """Of the data it was trained on; empty where training has not come to its end."""
        return str(_read(self._trained).get("data_revision", ""))

    def missing(self, spec: RunSpec) -> tuple[Measurement, ...]:
        """What is asked for and not measured yet, or failed."""
        known = self.measured(spec.training_key)
        return tuple(measurement for measurement in spec.measurements if measurement.key not in known)

    def measured(self, training_key: str) -> set[str]:
        """The measuring keys under which there are rows, none of them failed."""
        rows = [row for row in self._rows_that_count() if row.training_key == training_key]
        failed = {row.measuring_key for row in rows if row.status is Status.FAILED}
        return {row.measuring_key for row in rows} - failed

    def read_rows(self) -> list[ResultRow]:
        """All rows in the file, stale ones included; none where it cannot be read."""
        try:
            return read_rows(self.rows) if self.rows.exists() else []
        except UserError:
            return []

    def rows_of(self, measurements: Sequence[Measurement], training_key: str) -> list[ResultRow]:
        """The rows of these measurements on one training."""
        keys = {measurement.key for measurement in measurements}
        return [row for row in self.read_rows() if row.measuring_key in keys and row.training_key == training_key]

    def _rows_that_count(self) -> list[ResultRow]:
        """The rows; none where they were changed by somebody, cannot be read, or are of an earlier training."""
        if not self.rows.exists():
            return []
        of_earlier_weights = _sha256(self.rows) == _read(self._trained).get("rows_before")
        return [] if of_earlier_weights or self._rows_are_changed() else self.read_rows()

    def _rows_are_changed(self) -> bool:
        """Whether the rows are not those that the latest command left."""
        left = _read(self._done).get("rows_sha256")
        return left is not None and left != _sha256(self.rows)

    def outcome(self, run_id: str) -> Outcome:
        """How the latest command ended, as the folder tells: it may have been another process's."""
        done = _read(self._done)
        try:
            return Outcome(run_id, Ended(done["ended"]), str(done["reason"]))
        except (KeyError, ValueError):
            return Outcome(run_id, Ended.KILLED, f"ended without a word; see {self.log}")

    # What changes.

    def begin(self, spec: RunSpec) -> None:
        """Reopen the folder for a run, and write its configuration."""
        self.reopen()
        durable_write(self.config, json.dumps(spec.config, indent=2))

    def reopen(self) -> None:
        """Take back the marker of an ended command, before rows are added. Rows that somebody changed go."""
        if self._rows_are_changed():
            self.rows.unlink(missing_ok=True)
        self._done.unlink(missing_ok=True)

    def train_anew(self) -> None:
        """Forget that training came to its end, and what it would go on from. Its rows stay until there are others."""
        self._trained.unlink(missing_ok=True)
        self.last.unlink(missing_ok=True)

    def note_trained(self, spec: RunSpec, data_revision: str) -> None:
        """Mark training as ended, on these data. Rows that are here were measured on an earlier training."""
        loggers = [] if spec.logger is None else [_logger(spec)]
        self._note(spec, data_revision, _sha256(self.rows), loggers)

    def note_data(self, spec: RunSpec) -> None:
        """Mark the data at the user's path, which look changed, as the same that it was trained on."""
        marker = _read(self._trained)
        self._note(spec, marker["data_revision"], marker["rows_before"], marker.get("loggers"))

    def note_logged(self, spec: RunSpec) -> None:
        """Mark the curves as written by the logger of ``spec``, too."""
        marker = _read(self._trained)
        loggers = [*(marker.get("loggers") or []), _logger(spec)]
        durable_write(self._trained, json.dumps({**marker, "loggers": loggers}))

    def _note(self, spec: RunSpec, data_revision: str, rows_before: str, loggers: list[str] | None) -> None:
        marker: dict[str, Any] = {} if loggers is None else {"loggers": loggers}
        marker |= {"training_key": spec.training_key, "data_revision": data_revision, "rows_before": rows_before}
        durable_write(self._trained, json.dumps({**marker, "fingerprint": fingerprint(spec.data.get("path"))}))

    def add_rows(self, rows: Sequence[ResultRow], *, alone: bool = False) -> None:
        """Write rows. Those measured before under the same keys go, and with ``alone`` all others too."""
        new = {_key(row) for row in rows} | {_old_key(row) for row in rows}
        before = [] if alone else self._rows_that_count()
        kept = [row for row in before if (_key(row) if row.measuring_key else _old_key(row)) not in new]
        write_rows(self.rows, [*kept, *rows])

    def end(self, outcome: Outcome) -> None:
        """Leave the marker that says how the command ended."""
        content = {"ended": outcome.ended, "reason": outcome.reason, "rows_sha256": _sha256(self.rows)}
        durable_write(self._done, json.dumps(content))
        if outcome.ended is Ended.OK:
            with contextlib.suppress(OSError):  # it only takes room
                self.last.unlink(missing_ok=True)


def open_here(path: Path) -> IO[str]:
    """Open a file of a run's folder for adding to it, never through a link: the folder may be a stranger's.

    Raises:
        OSError: It is a link or no regular file, or cannot be opened.
    """
    # Without O_NONBLOCK the opening of a pipe would wait for a reader.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path.name} is not a regular file")
    return os.fdopen(descriptor, "a")


def _own(lock: IO[str], process: int) -> None:
    """Write into a held lock file who holds it, for people alone: the lock is the system's and ends with its holder."""
    with contextlib.suppress(OSError):  # a full disk
        os.ftruncate(lock.fileno(), 0)
        start = time.strftime("%Y-%m-%d %H:%M:%S")
        os.write(lock.fileno(), json.dumps({"pid": process, "host": socket.gethostname(), "start": start}).encode())


def _owner(path: Path) -> str:
    """Who holds a lock file, in words. The folder may be a stranger's, and hold anything."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor) as file:
            owner = json.loads(file.read(1000))
        pid, host, start = (
            int(owner["pid"]),
            ascii(str(owner["host"])[:80])[1:-1],
            ascii(str(owner["start"])[:30])[1:-1],
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process"
    return f"process {pid} on host {host} (since {start})"


def _logger(spec: RunSpec) -> str:
    return "" if spec.logger is None else str(spec.logger.get("_target_"))


def _close(lock: IO[str]) -> None:
    """Close a file in which nothing was written. On network file systems that can fail, and costs nothing."""
    with contextlib.suppress(OSError):
        lock.close()


def _key(row: ResultRow) -> tuple[object, ...]:
    return (row.training_key, row.checkpoint, row.measuring_key)


def _old_key(row: ResultRow) -> tuple[object, ...]:
    """What told numbers apart before they had a measuring key."""
    return (row.training_key, row.checkpoint, row.protocol)


def _read(path: Path) -> dict[str, Any]:
    """A marker's content; empty where there is none that can be read."""
    try:
        content = json.loads(read_regular(path, _LARGEST_MARKER))
    except (UserError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _sha256(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (UserError, OSError):
        return ""
