"""The cache: a folder for data that can be fetched or computed again.

Each file is complete before an atomic rename moves it in, so a reader never sees half a file and two writers cannot
harm each other.
"""

import hashlib
import os
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError

__all__ = ["DataFile", "Staging", "cache_dir", "publish", "sha256"]


def cache_dir() -> Path:
    """Return the cache folder, which need not exist.

    It is ``$GENBENCH_CACHE``, or else ``genbench`` in the user's cache folder (``$XDG_CACHE_HOME``, or else
    ``~/.cache``). An empty variable counts as unset.
    """
    own = os.environ.get("GENBENCH_CACHE", "")
    if own != "":
        return Path(own).expanduser().absolute()
    platform = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore a relative path.
    base = Path(platform) if os.path.isabs(platform) else Path.home() / ".cache"
    return base / "genbench"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class DataFile:
    """One file of a data set: its name, and the SHA-256 and size in bytes of its plain (not gzipped) content."""

    name: str
    sha256: str
    size: int

    def matches(self, path: Path) -> bool:
        """Return whether ``path`` is a regular file with this content."""
        return path.is_file() and path.stat().st_size == self.size and sha256(path) == self.sha256


class Staging(AbstractContextManager[Path]):
    """A temporary folder inside ``home``, removed on exit. It shares home's file system, so that renames are atomic.

    Raises:
        UserError: ``home`` cannot be made or is not writable.
    """

    def __init__(self, home: Path) -> None:
        try:
            home.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix=".staging-", dir=home)
        except OSError as error:
            raise UserError(
                f"cannot write into the cache folder {home} ({error.strerror}); set GENBENCH_CACHE to a writable folder"
            ) from error

    def __enter__(self) -> Path:
        return Path(self._folder.name)

    def __exit__(self, *exc: object) -> None:
        self._folder.cleanup()


def publish(staged: Path, target: Path) -> None:
    """Rename a complete file into place. On POSIX systems the rename is also flushed to disk."""
    os.replace(staged, target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
