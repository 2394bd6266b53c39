"""Where bytes come from: the user's folder, the cache, a download, a package; all end in the same checked bytes.

A data set names its files (name, SHA-256, size of the plain bytes) and its sources, in the order to try them. A source
may hold a file plain under its ``name`` or gzipped under ``name.gz``. Only bytes with the right hash enter the cache,
each file in one atomic step, so a reader never sees half a file and two writers cannot harm each other.

An archive is opened only after its own hash was checked, is never unpacked whole, and of its members only regular files
of a known name are read, up to a known size.
"""

import gzip
import hashlib
import logging
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal

from bench.data.download import DownloadError, download
from bench.errors import UserError

__all__ = [
    "Archive",
    "ArchiveDownload",
    "Bundle",
    "DataFile",
    "Download",
    "Package",
    "Request",
    "Source",
    "SourceError",
    "Staging",
    "announce",
    "cache_dir",
    "fetch",
    "hand_on",
    "publish",
    "read_member",
    "request_of",
    "sha256",
]

Archive = tarfile.TarFile | zipfile.ZipFile

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_DEB_MAGIC = b"!<arch>\n"
_CLIENT_SECONDS = 900
# OSError covers a bad gzip header and a broken pipe as well as the disk.
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)


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
    """A folder on the web that holds the files, gzipped or plain.

    Attributes:
        folder: Its URL; ``folder/name.gz`` is fetched.
        gzipped: False where the files lie there plain, as ``folder/name``.
    """

    folder: str
    gzipped: bool = True

    def __str__(self) -> str:
        return f"download from {self.folder}"

    def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
        for file in files:
            url = f"{self.folder.rstrip('/')}/{file.name}"
            if self.gzipped:
                packed = folder / f"{file.name}.gz.download"
                # What gzip cannot compress grows by 5 bytes in 16 KiB at most; the header may hold a name.
                _download(f"{url}.gz", packed, file.size + file.size // 1000 + 4096)
                _unzip(packed, file, folder)
                packed.unlink()
            else:
                _download(url, folder / file.name, file.size)


class Bundle(Source):
    """A source that is one archive (tar, zip, deb), known by its hash.

    Attributes:
        sha256: Of the archive, checked before it is opened.
        folder: Where in the archive the files lie.
    """

    sha256: str
    folder: str

    @abstractmethod
    def obtain(self, work: Path) -> Path:
        """Get the archive into the empty folder ``work``. Raises SourceError."""

    def unpack(self, archive: Archive, files: Sequence[DataFile], folder: Path) -> None:
        """Write ``files`` from the open archive into ``folder``. Overridden where they lie there in another format."""
        for file in files:
            _extract(archive, f"{self.folder}/{file.name}", file, folder)

    def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="genbench-") as work:
            self.deliver_from(self.obtain(Path(work)), files, folder)

    def deliver_from(self, path: Path, files: Sequence[DataFile], folder: Path) -> None:
        """``deliver`` from an archive that is already on this machine."""
        found = sha256(path)
        if found != self.sha256:
            raise SourceError(f"the archive has SHA-256 {found[:16]}... instead of {self.sha256[:16]}...")
        with _open_archive(path) as archive:
            self.unpack(archive, files, folder)


@dataclass(frozen=True)
class ArchiveDownload(Bundle):
    """An archive on the web that holds the files.

    Attributes:
        url: Of the archive.
        sha256, size: Of the archive; the size in bytes.
        folder: Where in the archive the files lie.
    """

    url: str
    sha256: str
    size: int
    folder: str

    def __str__(self) -> str:
        return f"download of {self.url}"

    def obtain(self, work: Path) -> Path:
        _download(self.url, work / "archive", self.size)
        return work / "archive"


@dataclass(frozen=True)
class Package(Bundle):
    """A published package that happens to carry the files. Its client fetches it; nothing of it is imported or run.

    Attributes:
        client: ``npm`` (a tar archive), ``pip`` (a wheel; a source archive would run code while downloading) or ``apt``
            (a deb archive, where the machine's lists name the package; its folder begins with ``./``).
        name, version: Of the package.
        sha256: Of the archive, checked before it is opened.
        folder: Where in the archive the files lie.
        made_for: Python version and platform of a wheel that is not for this machine (``("36", "manylinux1_x86_64")``),
            for pip; its data can be read all the same.
    """

    client: Literal["npm", "pip", "apt"]
    name: str
    version: str
    sha256: str
    folder: str
    made_for: tuple[str, str] | None = None

    def __str__(self) -> str:
        return {
            "npm": f"npm pack {self.name}@{self.version}",
            "pip": f"pip download {self.name}=={self.version}",
            "apt": f"apt-get download {self.name}={self.version}",
        }[self.client]

    def obtain(self, work: Path) -> Path:
        foreign: list[str] = []
        if self.made_for is not None:
            foreign = ["--python-version", self.made_for[0], "--platform", self.made_for[1]]
        commands = {
            "npm": ["npm", "pack", "--ignore-scripts", "--loglevel=error", f"{self.name}@{self.version}"],
            "pip": [
                sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
                "--disable-pip-version-check", "--dest", ".", *foreign, f"{self.name}=={self.version}",
            ],
            "apt": ["apt-get", "download", "--quiet", f"{self.name}={self.version}"],
        }  # fmt: skip
        _run(commands[self.client], work)
        archives = [path for path in work.iterdir() if path.suffix in {".tgz", ".whl", ".deb"}]
        if len(archives) != 1:
            raise SourceError(f"left {len(archives)} archives instead of one")
        return archives[0]


@dataclass(frozen=True)
class Request:
    """What a data set is made of, known before anything of it is fetched or read.

    Attributes:
        name: Of the data set; also its folder in the cache.
        paths: Where its bytes lie, or will lie once they are fetched.
        files: The same files with their pinned hashes; none where nothing is pinned and loading is the only check.
        sources: Where the files can be had.
        path: The folder or archive that the user named, or None.
        carrier: The installed package that holds the bytes, or empty.
        decoded: The folder of arrays decoded from the files, or None.
    """

    name: str
    paths: tuple[Path, ...]
    files: tuple[DataFile, ...] = ()
    sources: tuple[Source, ...] = ()
    path: str | None = None
    carrier: str = ""
    decoded: Path | None = None


class _Announced(BaseException):
    """Ends a data function that was asked what it needs. No error, so nothing on its way takes it for one."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.name)
        self.request = request


_asking = ContextVar("asking", default=False)


def request_of(make: Callable[[], object]) -> Request | None:
    """What ``make``, which makes a data set, asks for first; it goes no further than that.

    None where it has come to its end without asking for anything: its bytes are computed, or of no file of ours.
    """
    before = _asking.set(True)
    try:
        make()
    except _Announced as announced:
        return announced.request
    finally:
        _asking.reset(before)
    return None


def announce(request: Request) -> None:
    """Say what a data set is about to read; within ``request_of`` that is the end of it. ``fetch`` does it itself."""
    if _asking.get():
        raise _Announced(request)


def hand_on(name: str, decode: Callable[[], object], decoded: Path) -> None:
    """Within ``request_of``: say what ``decode`` asks for, be it nothing, and where its arrays go."""
    if _asking.get():
        raise _Announced(replace(request_of(decode) or Request(name, ()), decoded=decoded))


def fetch(name: str, files: Sequence[DataFile], sources: Sequence[Source], path: str | None = None) -> list[Path]:
    """Paths of the checked files, in the order of ``files``.

    A data set asks for all its files at once: ``genbench data`` tells the user what the first call asks for.

    Order: the user's ``path``, and then nothing else, for who names a place means it; otherwise the cache
    ``cache_dir()/name``, then each source in turn for what is still missing. A cached file with wrong bytes counts as
    missing and is replaced. Plain files in the user's folder are used where they lie; gzipped ones, and those in an
    archive, are unpacked into the cache, once.

    Arguments:
        name: Of the data set; also its folder in the cache.
        files: What is needed.
        sources: Where to look, in order.
        path: A folder with all files, plain or ``.gz``; or the archive of one of the sources, as it was published; or
            None.

    Raises:
        UserError: The path lacks a file or holds other bytes; no source had a file; something cannot be read or the
            cache not be written.
    """
    home = cache_dir() / name
    announce(Request(name, tuple(home / file.name for file in files), tuple(files), tuple(sources), path))
    try:
        return _fetch(name, files, sources, path, home)
    except OSError as error:
        raise UserError(
            f"{name}: cannot read or write {error.filename or path or home} ({error.strerror or error}); check its "
            "permissions and the free space, or set data.path or GENBENCH_CACHE to another place"
        ) from error


def _fetch(name: str, files: Sequence[DataFile], sources: Sequence[Source], path: str | None, home: Path) -> list[Path]:
    if path is not None:
        place = Path(path).expanduser()
        if place.is_file():
            return _from_archive(name, files, sources, place, home)
        return [_from_folder(name, file, place, home) for file in files]

    missing = [file for file in files if not file.matches(home / file.name)]
    tried = []
    for source in sources:
        if len(missing) == 0:
            break
        _log.info("%s: %s", name, source)
        with Staging(home) as folder:
            reason = "delivered other bytes than expected"
            try:
                source.deliver(missing, folder)
            except SourceError as error:
                reason = str(error)
            except _UNREADABLE as error:
                reason = f"{type(error).__name__}: {error}"
            for file in missing:
                if file.matches(folder / file.name):
                    publish(folder / file.name, home / file.name)
        missing = [file for file in missing if not file.matches(home / file.name)]
        tried.append(f"{source} ({_one_line(reason)})")
        if len(missing) > 0:
            _log.info("%s", tried[-1])
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
    with Staging(home) as staging:
        try:
            _unzip(packed, file, staging)
        except (SourceError, *_UNREADABLE) as error:
            raise UserError(f"{name}: {packed} cannot be unpacked ({_one_line(str(error))}); {remedy}") from error
        if not file.matches(staging / file.name):
            raise UserError(f"{name}: {packed} unpacks to other bytes; {remedy}")
        publish(staging / file.name, home / file.name)
    return home / file.name


def _from_archive(
    name: str, files: Sequence[DataFile], sources: Sequence[Source], path: Path, home: Path
) -> list[Path]:
    found = sha256(path)
    bundles = [source for source in sources if isinstance(source, Bundle)]
    source = next((bundle for bundle in bundles if bundle.sha256 == found), None)
    if source is None:
        known = "".join(f"; or the archive of {bundle} (SHA-256 {bundle.sha256})" for bundle in bundles)
        raise UserError(
            f"{name}: {path} (SHA-256 {found}) is none of the published archives; set data.path to a folder with "
            f"{', '.join(file.name for file in files)} (plain or .gz){known}"
        )
    missing = [file for file in files if not file.matches(home / file.name)]
    if len(missing) == 0:  # unpacked before
        return [home / file.name for file in files]
    with Staging(home) as staging:
        try:
            source.deliver_from(path, missing, staging)
        except (SourceError, *_UNREADABLE) as error:
            raise UserError(
                f"{name}: {path} cannot be unpacked ({_one_line(str(error))}); leave data.path unset"
            ) from error
        for file in missing:
            if not file.matches(staging / file.name):
                raise UserError(f"{name}: {path} holds another {file.name} than expected; leave data.path unset")
            publish(staging / file.name, home / file.name)
    return [home / file.name for file in files]


class Staging(AbstractContextManager[Path]):
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


def read_member(archive: Archive, name: str, limit: int) -> bytes:
    """The bytes of a regular member of at most ``limit`` bytes. Raises SourceError where there is no such member."""
    stream = _open_member(archive, name)
    if stream is None:
        raise SourceError(f"the archive has no regular file {name}")
    with stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise SourceError(f"{name} is longer than {limit} bytes")
    return content


def publish(staged: Path, target: Path) -> None:
    """Rename a complete file into place, and make the rename itself durable where the system lets us."""
    os.replace(staged, target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _download(url: str, target: Path, limit: int) -> None:
    """Write at most ``limit`` bytes of what a URL shows to ``target``. Raises SourceError where it cannot be had."""
    try:
        download(url, target, limit, cache_dir() / "partial")
    except DownloadError as error:
        raise SourceError(str(error)) from error


def _run(command: Sequence[str], work: Path, output: IO[bytes] | int = subprocess.PIPE) -> None:
    """Run a program to its end. Raises SourceError where it is missing, fails or does not end."""
    program = shutil.which(command[0])  # finds npm.cmd on Windows too
    if program is None:
        raise SourceError(f"{command[0]} is not installed")
    try:
        # Run inside the new, empty folder: "python -m" looks for modules in the working directory first.
        done = subprocess.run(
            [program, *command[1:]], cwd=work, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE,
            timeout=_CLIENT_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"no end after {_CLIENT_SECONDS} s") from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").splitlines() or ["no message"]
        complaint = next((line for line in lines if "error" in line.lower() or line.startswith("E: ")), lines[-1])
        raise SourceError(f"exit code {done.returncode}: {complaint.strip()[:150]}")


@contextmanager
def _open_archive(path: Path) -> Iterator[Archive]:
    """A tar (however compressed), zip or deb archive, told apart by its content."""
    with path.open("rb") as stream:
        is_deb = stream.read(len(_DEB_MAGIC)) == _DEB_MAGIC
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield archive
    elif is_deb:
        # Only dpkg-deb knows every compression a deb may have. It writes the tar inside; it installs and runs nothing.
        with tempfile.TemporaryFile() as plain, tempfile.TemporaryDirectory(prefix="genbench-") as work:
            _run(["dpkg-deb", "--fsys-tarfile", str(path.absolute())], Path(work), plain)
            plain.seek(0)
            with tarfile.open(fileobj=plain, mode="r:") as tar:
                yield tar
    else:
        with tarfile.open(path, "r:*") as tar:
            yield tar


def _extract(archive: Archive, member: str, file: DataFile, folder: Path) -> None:
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


def _open_member(archive: Archive, name: str) -> IO[bytes] | None:
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


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
