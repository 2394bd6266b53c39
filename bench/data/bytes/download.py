"""One file from the web: capped in size, its progress shown, and taken up again where it broke off."""

import fcntl
import hashlib
import logging
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

__all__ = ["DownloadError", "download"]

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_LINE_SECONDS = 10.0  # between two lines where there is no bar
_CONNECT_AND_READ_SECONDS = (10, 60)
# HTTP: the answer holds the asked range; the range begins behind the end
_PARTIAL, _NOTHING_LEFT = 206, 416


class DownloadError(Exception):
    """Why a file could not be downloaded, in a few words on one line."""


def download(url: str, target: Path, limit: int, partial: Path) -> None:
    """Write what a URL shows to ``target``.

    What arrived before a connection broke stays in the folder ``partial``, and the next call asks for the rest only.
    A server that cannot give a part sends the whole. Nothing tells whether the two parts are of the same file: the
    caller compares the hash, and as nothing is kept of a complete download, the next one begins anew.

    Arguments:
        url: Of the file.
        target: Where to; its folder must exist.
        limit: The most bytes it may have.
        partial: A folder for beginnings; made where it is missing.

    Raises:
        DownloadError: No connection, an error of the server, a connection that broke off, more than ``limit`` bytes.
        OSError: A file cannot be written.
    """
    name = url.rsplit("/", 1)[-1]
    partial.mkdir(parents=True, exist_ok=True)
    beginning = partial / hashlib.sha256(url.encode()).hexdigest()[:32]
    with beginning.open("ab") as file:
        if not _is_ours(file, beginning):  # another process is at it: neither wait for it nor disturb it
            with target.open("wb") as own:
                _receive(url, own, name, limit)
            return
        try:
            _receive(url, file, name, limit)
            shutil.move(beginning, target)
        finally:
            if beginning.exists() and (file.tell() == 0 or file.tell() > limit):
                beginning.unlink()


def _is_ours(file: IO[bytes], path: Path) -> bool:
    """Lock an open file. False where another process has it, or moved it away between our opening and our lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _receive(url: str, file: IO[bytes], name: str, limit: int) -> None:
    """Complete what ``file`` holds, or write it anew, and bring it to the disk."""
    import requests  # takes a noticeable time to import and is needed once in the life of a cache

    have = file.tell()
    # Without "identity" a server may pack what is on its way, and ranges would count packed bytes.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have > 0 else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_CONNECT_AND_READ_SECONDS) as answer:
            if have > 0 and answer.status_code != _PARTIAL:
                file.truncate(0)  # in append mode the next byte goes to the new end
                file.seek(0)
                have = 0
                if answer.status_code == _NOTHING_LEFT:  # killed when all had arrived, or it grew shorter meanwhile
                    return _receive(url, file, name, limit)
            answer.raise_for_status()
            length = answer.headers.get("Content-Length", "")
            with _bar(name, have + int(length) if length.isdigit() else None) as bar:
                for chunk in answer.iter_content(_CHUNK):
                    have += len(chunk)
                    file.write(chunk)
                    if have > limit:
                        raise DownloadError(f"{name} is longer than {limit} bytes")
                    bar.update(have)
    except requests.RequestException as error:  # its own text is long
        status = "" if error.response is None else f" {error.response.status_code}"
        raise DownloadError(f"{type(error).__name__}{status} at {name}") from error
    finally:
        file.flush()
        os.fsync(file.fileno())


class _Lines:
    """A line in the log every now and then."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name = name
        self._total = "" if total is None else f" of {total / 1e6:,.0f}"
        self._next = time.monotonic() + _LINE_SECONDS

    def update(self, have: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            _log.info("%s: %.0f%s MB", self._name, have / 1e6, self._total)


class _Bar:
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress = progress
        self._task = task

    def update(self, have: int) -> None:
        self._progress.update(self._task, completed=have)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()


def _bar(name: str, total: int | None) -> AbstractContextManager[_Bar | _Lines]:
    """A bar on the terminal, lines in the log where standard error goes elsewhere."""
    if not sys.stderr.isatty():
        return nullcontext(_Lines(name, total))
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    return _Bar(progress, progress.add_task(name, total=total))
