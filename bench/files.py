"""Write files that survive a kill, and delete the temporary files of killed writers."""

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from bench.errors import UserError

__all__ = ["durable_write", "sweep_orphans"]

_PREFIX, _SUFFIX = ".genbench-", ".tmp"


def durable_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Replace the file ``path`` by ``data`` atomically: a reader finds the old or the new content, even after a kill.

    The bytes are written to a temporary file in the same directory (not ``$TMPDIR``, which may be another file system),
    flushed to disk and renamed over ``path``. Then the directory is flushed too.

    Arguments:
        path: The file to write; its directory must exist.
        data: Bytes, or text to store as UTF-8.

    Raises:
        UserError: The disk is full, or the folder is missing or not writable. No temporary file remains.
    """
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    try:
        temporary, descriptor = _open_temporary(path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(descriptor)
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _flush_directory(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; check the folder and its free space"
        ) from error


def sweep_orphans(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete the temporary files that killed writers left in ``folder``. Those of running writers are kept.

    Returns:
        Paths of the deleted files.
    """
    swept = []
    for path in sorted(Path(folder).glob(f"{_PREFIX}*{_SUFFIX}")):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                # The system releases a lock when the writer dies, whatever killed it. A held lock raises here.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                swept.append(path)
            finally:
                os.close(descriptor)
    return swept


def _open_temporary(folder: Path) -> tuple[Path, int]:
    """Create, open and lock a new file in ``folder``, with the default permissions of new files."""
    while True:
        path = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink > 0:
                return path, descriptor
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        # A sweeper deleted the file between its creation and our lock.
        os.close(descriptor)


def _flush_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
