"""Errors and kills at the k-th operation on a folder's files, within this process.

An operation is a call that changes the disk: a file opened for writing, a write, a flush, a close, an fsync, a rename,
a link, an unlink, a folder made. Each raises ``OSError`` with the given number, or the process kills itself before it.
"""

import builtins
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Faults"]

_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY


class Faults:
    """Counts the operations below a folder, and lets one of them fail.

    Arguments:
        folder: Operations elsewhere are not counted.
        at: Number of the operation, from 1; 0 for none.
        error: Number of the error (``errno``), or None to kill this process.
        lasting: Whether every later operation fails as well, as on a disk that stays full.
    """

    def __init__(self, folder: Path, at: int = 0, error: int | None = None, lasting: bool = False) -> None:
        self.folder = str(folder.resolve())
        self.at, self.error, self.lasting = at, error, lasting
        self.operations: list[str] = []

    def install(self) -> None:
        """Replace the system calls of this process, for good."""
        for name in ("replace", "rename", "link", "unlink", "remove", "mkdir"):
            setattr(os, name, self._on_path(name, getattr(os, name)))
        os.fsync = self._on_descriptor("fsync", os.fsync)
        opened, low = io.open, os.open

        def open_low(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & _CHANGES:
                self._operate("open", path)
            return low(path, flags, *rest, **more)

        def open_file(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            writes = set(mode) & set("wax+")
            if writes and not isinstance(file, int):
                self._operate("open", file)
            stream = opened(file, mode, *rest, **more)
            return _Stream(stream, self) if writes and self._inside(file) else stream

        os.open = open_low
        io.open = builtins.open = open_file

    def _operate(self, name: str, path: Any) -> None:
        if not self._inside(path):
            return
        self.operations.append(name)
        count = len(self.operations)
        if self.at and (count == self.at or (self.lasting and count > self.at)):
            if self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.error, os.strerror(self.error or 0), str(path))

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
        return os.path.abspath(os.fspath(path)).startswith(self.folder)

    def _on_path(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def operation(path: Any, *rest: Any, **more: Any) -> Any:
            self._operate(name, path)
            return call(path, *rest, **more)

        return operation

    def _on_descriptor(self, name: str, call: Callable[[int], None]) -> Callable[[int], None]:
        def operation(descriptor: int) -> None:
            self._operate(name, descriptor)
            call(descriptor)

        return operation


class _Stream:
    """An open file whose operations count."""

    def __init__(self, stream: Any, faults: Faults) -> None:
        self._stream = stream
        self._faults = faults

    def write(self, data: Any) -> Any:
        self._faults._operate("write", self._stream.fileno())
        return self._stream.write(data)

    def flush(self) -> None:
        self._faults._operate("flush", self._stream.fileno())
        self._stream.flush()

    def close(self) -> None:
        if not self._stream.closed:
            try:
                self._faults._operate("close", self._stream.fileno())
            finally:
                self._stream.close()

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
