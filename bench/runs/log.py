"""The log file of a run. A disk that is full ends no run for the sake of its log."""

import contextlib
import errno
import logging
import sys
from pathlib import Path

from bench.errors import UserError
from bench.plain import PlainFormatter
from bench.runs.folder import open_here

__all__ = ["RunLog"]

_LOST = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class RunLog(logging.Handler):
    """Appends records to ``run.log``. If the disk is full or fails, tells the user once and drops them.

    Raises:
        UserError: The file may not be written, or is a link.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
        self._path = path
        self._told = False
        self._stream = None
        try:
            self._stream = open_here(path)
        except OSError as error:
            if error.errno not in _LOST:
                raise UserError(f"{path}: {error.strerror}; give another folder with runs_dir=FOLDER") from error
            self._lost(error)

    def emit(self, record: logging.LogRecord) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(self.format(record) + "\n")
            self._stream.flush()
        except OSError as error:
            self._lost(error)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # it tries once more to write what could not be written
                self._stream.close()
        super().close()

    def _lost(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            print(f"genbench: {self._path}: {error.strerror}; the run goes on, its log is incomplete", file=sys.stderr)
