"""Write files that survive a kill, and delete the temporary files of killed writers."""

import contextlib
import errno
import logging
import os
import secrets
from pathlib import Path

from bench.errors import UserError
from bench.locks import flock, is_abandoned, mark

__all__ = ["durable_write", "flush", "flush_folder", "sweep_orphans"]

_PREFIX, _SUFFIX = ".genbench-", ".tmp"
_OLD_SECONDS = 3600.0  # after which a temporary file of another host is an orphan, where there is no flock
_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
_CANNOT_OPEN = _CANNOT_FLUSH | {errno.EACCES, errno.EPERM, errno.EISDIR}

_log = logging.getLogger(__name__)
_said: set[str] = set()  # what this process has told the user about


def durable_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Replace the file ``path`` by ``data`` atomically: a reader finds the old or the new content, even after a kill.

    The bytes are written to a temporary file in the same directory (not ``$TMPDIR``, which may be another file system),
    flushed to disk and renamed over ``path``. Then the directory is flushed too, if its file system can do that.

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
                flush(descriptor, path.parent)
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; check the folder and its free space"
        ) from error
    try:
        flush_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: is written, but a power cut may undo it: its folder cannot be flushed to disk "
            f"({error.strerror or error}); check the disk"
        ) from error


def flush(descriptor: int, place: Path) -> None:
    """Flush an open file to disk. If its file system cannot do that, tell the user once and go on.

    Raises:
        OSError: The disk is full or failed.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
        _say_once(place, error)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename outlives a power cut; otherwise as ``flush``.

    Raises:
        OSError: The disk is full or failed.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _CANNOT_OPEN:  # a folder may be writable and not readable
            raise
        _say_once(folder, error)
        return
    try:
        flush(descriptor, folder)
    finally:
        os.close(descriptor)


def sweep_orphans(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete the temporary files that killed writers left in ``folder``. Those of running writers are kept.

    Returns:
        Paths of the deleted files.
    """
    swept = []
    for path in sorted(Path(folder).glob(f"{_PREFIX}*{_SUFFIX}")):
        with contextlib.suppress(OSError):
            # For writing, because NFS gives the lock of a file to those only who may write it.
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                # The system releases a lock when the writer dies, whatever killed it. A held lock raises here.
                owner = path.name.removeprefix(_PREFIX).rpartition("-")[0]
                if flock(path, descriptor) or is_abandoned(path, owner, _OLD_SECONDS):
                    path.unlink()
                    swept.append(path)
            finally:
                os.close(descriptor)
    return swept


def _open_temporary(folder: Path) -> tuple[Path, int]:
    """Create, open and lock a new file in ``folder``, with the default permissions of new files."""
    while True:
        path = folder / f"{_PREFIX}{mark()}-{secrets.token_hex(8)}{_SUFFIX}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            if not flock(path, descriptor, wait=True) or os.fstat(descriptor).st_nlink > 0:
                return path, descriptor
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        # A sweeper deleted the file between its creation and our lock.
        os.close(descriptor)


def _say_once(place: Path, error: OSError) -> None:
    if "flush" not in _said:
        _said.add("flush")
        _log.warning(
            "%s: this file system cannot flush to disk (%s); going on without, so a power cut may undo the last "
            "writes", place, error.strerror,
        )  # fmt: skip
