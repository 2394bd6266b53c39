"""Decoded arrays in the cache. They are decoded once and then memory-mapped, so that processes share one copy."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bench.data.bytes.cache import Staging, cache_dir, publish, sha256
from bench.data.bytes.fetch import hand_on
from bench.errors import UserError
from bench.files import flush

__all__ = ["Arrays", "Chunks", "complaints", "decoded", "is_there", "revision"]

_SUMS = "SHA256SUMS"
_STAMPS = "STAMPS"
_log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]
"""Whole arrays by name."""

Chunks = Iterable[tuple[str, NDArray[Any]]]
"""Arrays in pieces (name, rows), for arrays too large for memory. The rows of each name come in order."""


def revision(*recipe: str) -> str:
    """Return 16 hexadecimal digits that identify a recipe: the hashes of its files and a description of each step."""
    return hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:16]


def decoded(name: str, key: str, decode: Callable[[], Arrays | Chunks]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a data set, memory-mapped copy-on-write from ``cache_dir()/name/decoded-key/*.npy``.

    If the files are missing, incomplete or damaged, ``decode`` is called and its arrays are written, together with a
    list of their SHA-256 hashes.

    Hashing reads every byte, but a run may need only a few bytes of a large data set. So after a successful check, the
    size and the modification time of each file are recorded. The next start hashes the files again only if a size or
    time has changed. Writing to a file, truncating it or replacing it changes them; silent corruption on the disk does
    not. ``complaints`` hashes everything.

    Arguments:
        name: Name of the data set, and of its folder in the cache.
        key: Identifies the source bytes and the way they are decoded. Each key has its own folder.
        decode: Makes the arrays, whole or in pieces. No array may be empty.

    Returns:
        The arrays by name. Writing to an array changes this process's copy, never the file.

    Raises:
        UserError: The cache is not writable.
    """
    home = cache_dir() / name / f"decoded-{key}"
    hand_on(name, lambda: next(iter(decode()), None), home)
    if not _intact(home):
        _log.info("%s: decoding once into %s", name, home)
        made = decode()
        _write(home, made.items() if isinstance(made, Mapping) else made)
        _remember(home, _stamps(home))
    return {path.stem: np.load(path, mmap_mode="c", allow_pickle=False) for path in home.glob("*.npy")}


def is_there(home: Path) -> bool:
    """Return whether a folder written by ``decoded`` holds all its arrays, without reading their bytes."""
    try:
        return _listed(home) != {}
    except (OSError, ValueError):
        return False


def complaints(home: Path) -> list[str]:
    """Return one line for each damaged array in a folder written by ``decoded``. Reads every byte."""
    try:
        sums = _listed(home)
        return [
            f"{home / name} holds other bytes than were written" for name in sums if sha256(home / name) != sums[name]
        ]
    except (OSError, ValueError) as error:
        return [f"{home} is incomplete ({error})"]


def _listed(home: Path) -> dict[str, str]:
    """Return the listed hashes by file name. Raises OSError or ValueError if the list and the files disagree."""
    sums = dict(line.split("  ", 1)[::-1] for line in (home / _SUMS).read_text().splitlines())
    names = {path.name for path in home.glob("*.npy")}
    if names != sums.keys() or not names:
        raise ValueError(f"{_SUMS} lists {', '.join(sorted(sums))}; there are {', '.join(sorted(names)) or 'none'}")
    return sums


def _intact(home: Path) -> bool:
    """Return whether the arrays are the listed ones. Unchanged stamps are trusted; otherwise hashes are compared."""
    try:
        sums = _listed(home)
        stamps = _stamps(home)
        if _is_remembered(home, stamps):
            return True
        if any(sha256(home / name) != digest for name, digest in sums.items()):
            return False
    except (OSError, ValueError):
        return False
    _remember(home, stamps)
    return True


def _stamps(home: Path) -> str:
    """Return a line for each array: its size, its modification time in nanoseconds and its name."""
    found = [(path.stat(), path.name) for path in sorted(home.glob("*.npy"))]
    return "".join(f"{stat.st_size} {stat.st_mtime_ns} {name}\n" for stat, name in found)


def _remember(home: Path, stamps: str) -> None:
    try:
        with Staging(home) as staging:
            (staging / _STAMPS).write_text(stamps)
            publish(staging / _STAMPS, home / _STAMPS)
    except (OSError, UserError):
        pass  # this user may not write to the cache; the next start hashes again


def _is_remembered(home: Path, stamps: str) -> bool:
    file = home / _STAMPS
    if not file.is_file() or file.read_bytes() != stamps.encode():
        return False
    # A file rewritten within one clock tick keeps its time, so trust only files older than the record of their stamps.
    return max(int(line.split()[1]) for line in stamps.splitlines()) < file.stat().st_mtime_ns


def _write(home: Path, chunks: Chunks) -> None:
    with Staging(home) as staging:
        try:
            with ExitStack() as opened:
                files: dict[str, _NpyFile] = {}
                for name, rows in chunks:
                    if name not in files:
                        stream = opened.enter_context((staging / f"{name}.npy").open("wb"))
                        files[name] = _NpyFile(stream, rows)
                    files[name].append(rows)
                for file in files.values():
                    file.finish()
            paths = [staging / f"{name}.npy" for name in files]
            (staging / _SUMS).write_text("".join(f"{sha256(path)}  {path.name}\n" for path in paths))
            for path in [*paths, staging / _SUMS]:
                publish(path, home / path.name)
        except OSError as error:
            raise UserError(
                f"cannot write decoded arrays into the cache folder {home} ({error.strerror}); free some space or set "
                "GENBENCH_CACHE to another folder"
            ) from error


class _NpyFile:
    """An npy file that grows by appending rows. Its header has a fixed length and is rewritten at the end."""

    def __init__(self, stream: IO[bytes], rows: NDArray[Any]) -> None:
        self._stream = stream
        self._row_shape = rows.shape[1:]
        self._dtype = rows.dtype
        self._n = 0
        self._write_header()

    def append(self, rows: NDArray[Any]) -> None:
        assert rows.shape[1:] == self._row_shape
        assert rows.dtype == self._dtype
        self._stream.write(np.ascontiguousarray(rows).data)
        self._n += len(rows)

    def finish(self) -> None:
        end = self._stream.tell()
        self._stream.seek(0)
        self._write_header()
        self._stream.seek(end)
        self._stream.flush()
        flush(self._stream.fileno(), Path(self._stream.name).parent)

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._stream,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._n, *self._row_shape),
            },
        )
