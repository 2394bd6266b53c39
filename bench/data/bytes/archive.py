"""Read single files from published tar, zip and deb archives, without unpacking the rest.

Callers check the archive's hash before opening it. Only regular files are read, by their known name and up to their
known size.
"""

import ctypes
import gzip
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench.data.bytes.cache import DataFile
from bench.files import flush

__all__ = [
    "UNREADABLE",
    "Archive",
    "SourceError",
    "extract",
    "open_archive",
    "read_member",
    "run_program",
    "unzip",
]

Archive = tarfile.TarFile | zipfile.ZipFile

UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)
"""Exceptions that a damaged archive can raise. OSError covers a bad gzip header and a broken pipe, besides the disk."""

_CHUNK = 1 << 20
_PR_SET_PDEATHSIG = 1  # of prctl(2)
_DEB_MAGIC = b"!<arch>\n"
_CLIENT_SECONDS = 900


class SourceError(Exception):
    """A source could not deliver a file. The message gives the reason in a few words; the next source is tried."""


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a tar (with any compression), zip or deb archive; its content decides which of them it is."""
    with path.open("rb") as stream:
        is_deb = stream.read(len(_DEB_MAGIC)) == _DEB_MAGIC
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield archive
    elif is_deb:
        # dpkg-deb knows every compression of a deb. It only writes the inner tar; it installs and runs nothing.
        with tempfile.TemporaryFile() as plain, tempfile.TemporaryDirectory(prefix="genbench-") as work:
            run_program(["dpkg-deb", "--fsys-tarfile", str(path.absolute())], Path(work), plain)
            plain.seek(0)
            with tarfile.open(fileobj=plain, mode="r:") as tar:
                yield tar
    else:
        with tarfile.open(path, "r:*") as tar:
            yield tar


def read_member(archive: Archive, name: str, limit: int) -> bytes:
    """Return the bytes of a regular member.

    Raises:
        SourceError: The archive has no regular member of this name, or it is longer than ``limit`` bytes.
    """
    stream = _open_member(archive, name)
    if stream is None:
        raise SourceError(f"the archive has no regular file {name}")
    with stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise SourceError(f"{name} is longer than {limit} bytes")
    return content


def extract(archive: Archive, member: str, file: DataFile, folder: Path) -> None:
    """Write one member, stored plain or as ``.gz``, to ``folder`` under the file's name.

    Raises:
        SourceError: The archive has no such member, or it is longer than the file's size.
    """
    plain = _open_member(archive, member)
    if plain is not None:
        with plain:
            _write(plain, file, folder)
        return
    packed = _open_member(archive, f"{member}.gz")
    if packed is None:
        raise SourceError(f"the archive has no regular file {member} (or .gz)")
    with packed:
        unzip(packed, file, folder)


def unzip(packed: Path | IO[bytes], file: DataFile, folder: Path) -> None:
    """Decompress a gzipped file to ``folder`` under the file's name.

    Raises:
        SourceError: The content is longer than the file's size.
    """
    with gzip.open(packed, "rb") as stream:
        _write(stream, file, folder)


def _open_member(archive: Archive, name: str) -> IO[bytes] | None:
    """Open a regular member for reading; None if the archive has none of this name."""
    try:
        if isinstance(archive, zipfile.ZipFile):
            return archive.open(name)
        info = archive.getmember(name)
        # A link would be followed to another member; a device has no bytes.
        return archive.extractfile(info) if info.isreg() else None
    except KeyError:
        return None


def _write(stream: IO[bytes] | gzip.GzipFile, file: DataFile, folder: Path) -> None:
    """Copy a stream to ``folder/name`` and flush it to disk. Raises SourceError if it is longer than ``file.size``."""
    left = file.size
    with (folder / file.name).open("wb") as target:
        while chunk := stream.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise SourceError(f"{file.name} is longer than {file.size} bytes")
            target.write(chunk)
        target.flush()
        flush(target.fileno(), folder)


def _end_with_parent() -> Callable[[], None] | None:
    """Return what makes a new process end when this one does, even by SIGKILL; None where the system has no such means.

    It runs between fork and exec, so everything that takes a lock is done before.
    """
    if sys.platform != "linux":
        return None
    prctl, ours = ctypes.CDLL(None).prctl, os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != ours:  # it ended before
            os._exit(1)

    return bind


def run_program(command: Sequence[str], work: Path, output: IO[bytes] | int = subprocess.PIPE) -> None:
    """Run a program and wait for it.

    Raises:
        SourceError: The program is not installed, fails, or runs longer than 900 seconds.
    """
    program = shutil.which(command[0])  # finds npm.cmd on Windows too
    if program is None:
        raise SourceError(f"{command[0]} is not installed")
    try:
        # Run inside the new, empty folder: "python -m" looks for modules in the working directory first.
        done = subprocess.run(
            [program, *command[1:]], cwd=work, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE,
            timeout=_CLIENT_SECONDS, check=False, preexec_fn=_end_with_parent(),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"no end after {_CLIENT_SECONDS} s") from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").splitlines() or ["no message"]
        complaint = next((line for line in lines if "error" in line.lower() or line.startswith("E: ")), lines[-1])
        raise SourceError(f"exit code {done.returncode}: {complaint.strip()[:150]}")
