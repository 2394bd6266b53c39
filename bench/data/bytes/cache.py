"""The cache: a folder for data that can be fetched or computed again.

Each file is complete before an atomic rename moves it in, so a reader never sees half a file and two writers cannot
harm each other.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.files import flush_folder
from bench.locks import is_abandoned, mark

__all__ = ["DataFile", "Staging", "cache_dir", "publish", "sha256"]

_STAGING = ".staging-"
_OLD_SECONDS = 86400.0  # after which a folder that another host stages in, without a file written there, is an orphan


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

    Those that killed processes left in ``home`` are removed at the start.

    Raises:
        UserError: ``home`` cannot be made or is not writable.
    """

    def __init__(self, home: Path) -> None:
        try:
            home.mkdir(parents=True, exist_ok=True)
            _sweep(home)
            self._folder = tempfile.TemporaryDirectory(prefix=f"{_STAGING}{mark()}-", dir=home)
        except OSError as error:
            raise UserError(
                f"cannot write into the cache folder {home} ({error.strerror}); set GENBENCH_CACHE to a writable folder"
            ) from error

    def __enter__(self) -> Path:
        return Path(self._folder.name)

    def __exit__(self, *exc: object) -> None:
        self._folder.cleanup()


def publish(staged: Path, target: Path) -> None:
    """Rename a complete file into place, and flush the rename to disk."""
    os.replace(staged, target)
    flush_folder(target.parent)


def _sweep(home: Path) -> None:
    """Remove the temporary folders of killed processes."""
    for folder in home.glob(f"{_STAGING}*"):
        owner = folder.name.removeprefix(_STAGING).rpartition("-")[0]
        with contextlib.suppress(OSError):
            if not folder.is_symlink() and is_abandoned(folder, owner, _OLD_SECONDS):
                shutil.rmtree(folder, ignore_errors=True)
