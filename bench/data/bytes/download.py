"""Download one file with a size limit, a progress display, and resumption after a broken connection."""

import hashlib
import logging
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import IO, Any

from bench.files import flush
from bench.locks import hold

__all__ = ["DownloadError", "download"]

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_LINE_SECONDS = 10.0  # between two log lines, without a progress bar
_CONNECT_AND_READ_SECONDS = (10, 60)
# HTTP status codes: the answer holds the requested range; the range begins after the end of the file.
_PARTIAL, _NOTHING_LEFT = 206, 416


class DownloadError(Exception):
    """A file could not be downloaded. The message gives the reason in a few words on one line."""


def download(url: str, target: Path, limit: int, partial: Path) -> None:
    """Download a URL to ``target``.

    If the connection breaks, the bytes received so far stay in the folder ``partial``, and the next call requests only
    the rest. A server without range support sends the whole file again. This function cannot tell whether the two parts
    belong to the same version of the file, so the caller must check the hash. After a complete download nothing is left
    in ``partial``; the next call starts from the beginning.

    Arguments:
        url: Address of the file.
        target: Where to write it; the folder must exist.
        limit: Maximum size in bytes.
        partial: Folder for incomplete downloads; created if missing.

    Raises:
        DownloadError: There is no connection, it broke, the server returned an error, or the file is larger than
            ``limit``.
        OSError: A file cannot be written.
    """
    name = url.rsplit("/", 1)[-1]
    partial.mkdir(parents=True, exist_ok=True)
    beginning = partial / hashlib.sha256(url.encode()).hexdigest()[:32]
    with beginning.open("ab") as file, ExitStack() as held:
        if not _is_ours(file, beginning, held):  # another process is downloading it: do not wait, download our own copy
            with target.open("wb") as own:
                _receive(url, own, name, limit)
            return
        try:
            _receive(url, file, name, limit)
            shutil.move(beginning, target)
        finally:
            if beginning.exists() and (file.tell() == 0 or file.tell() > limit):
                beginning.unlink()


def _is_ours(file: IO[bytes], path: Path, held: ExitStack) -> bool:
    """Lock an open file. Return False if another process holds the lock, or moved the file before we locked it."""
    try:
        held.enter_context(hold(path, file.fileno()))
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _receive(url: str, file: IO[bytes], name: str, limit: int) -> None:
    """Append the missing bytes to ``file``, or write it from the beginning, and flush it to disk."""
    import requests  # here because it is slow to import and needed only to fill the cache

    have = file.tell()
    # Without "identity" a server may compress the transfer, and ranges would count compressed bytes.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have > 0 else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_CONNECT_AND_READ_SECONDS) as answer:
            if have > 0 and answer.status_code != _PARTIAL:
                file.truncate(0)  # in append mode the next byte goes to the new end
                file.seek(0)
                have = 0
                # We were killed after the last byte arrived, or the file has become shorter since.
                if answer.status_code == _NOTHING_LEFT:
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
    except requests.RequestException as error:  # its own message is too long for one line
        status = "" if error.response is None else f" {error.response.status_code}"
        raise DownloadError(f"{type(error).__name__}{status} at {name}") from error
    finally:
        file.flush()
        flush(file.fileno(), Path(file.name).parent)


class _Lines:
    """Logs the progress of a download every 10 seconds."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name = name
        self._total = "" if total is None else f" of {total / 1e6:,.0f}"
        self._next = time.monotonic() + _LINE_SECONDS

    def update(self, have: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_SECONDS
            _log.info("%s: %.0f%s MB", self._name, have / 1e6, self._total)


class _Bar:
    """Shows the progress of a download as a bar."""

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
    """Return a progress bar if standard error is a terminal, else lines in the log."""
    if not sys.stderr.isatty():
        return nullcontext(_Lines(name, total))
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    return _Bar(progress, progress.add_task(name, total=total))
