"""Decoded arrays in the cache: decoded once, then memory-mapped, so that processes share one copy of them."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bench.data.bytes.cache import Staging, cache_dir, publish, sha256
from bench.data.bytes.fetch import hand_on
from bench.errors import UserError

__all__ = ["Arrays", "Chunks", "complaints", "decoded", "is_there", "revision"]

_SUMS = "SHA256SUMS"
_STAMPS = "STAMPS"
_log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]
"""Whole arrays by name."""

Chunks = Iterable[tuple[str, NDArray[Any]]]
"""Arrays in pieces, for those that shall never be in memory at once: (name, rows), the rows of a name in order."""


def revision(*recipe: str) -> str:
    """16 hexadecimal digits that stand for a recipe: the hashes of its bytes and what is done with them, in words."""
    return hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:16]


def decoded(name: str, key: str, decode: Callable[[], Arrays | Chunks]) -> dict[str, NDArray[Any]]:
    """Arrays of a data set, memory-mapped copy-on-write from ``cache_dir()/name/decoded-key/*.npy``.

    Where the files are missing, incomplete or damaged, ``decode`` is called and they are written. They stand beside a
    list of their SHA-256 hashes.

    Hashing reads every byte, and what a start needs of a large data set may be a few of them. So the size and the time
    of change of each file are written down when its hash was found right, and the next start hashes only what has
    another size or time since: whatever writes to a file, cuts it short or puts another in its place changes them. Only
    decay of the disk itself does not; ``complaints`` hashes everything.

    Arguments:
        name: Of the data set; also its folder in the cache.
        key: Of the bytes and the way they are decoded: another key, another folder.
        decode: Makes the arrays, whole or in pieces; none is empty.

    Returns:
        The arrays by name. Writing to one changes this process's copy, never the file.

    Raises:
        UserError: The cache cannot be written.
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
    """Whether a folder of ``decoded`` holds all its arrays; their bytes are not read."""
    try:
        return _listed(home) != {}
    except (OSError, ValueError):
        return False


def complaints(home: Path) -> list[str]:
    """What is wrong with the bytes in a folder of ``decoded``, a line each; every byte is read."""
    try:
        sums = _listed(home)
        return [
            f"{home / name} holds other bytes than were written" for name in sums if sha256(home / name) != sums[name]
        ]
    except (OSError, ValueError) as error:
        return [f"{home} is incomplete ({error})"]


def _listed(home: Path) -> dict[str, str]:
    """The hashes of the arrays by file name. Raises OSError or ValueError where those are not the files there."""
    sums = dict(line.split("  ", 1)[::-1] for line in (home / _SUMS).read_text().splitlines())
    names = {path.name for path in home.glob("*.npy")}
    if names != sums.keys() or not names:
        raise ValueError(f"{_SUMS} lists {', '.join(sorted(sums))}; there are {', '.join(sorted(names)) or 'none'}")
    return sums


def _intact(home: Path) -> bool:
    """Whether the arrays are the listed ones: by their stamps where those are as they were, else by their hashes."""
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
    """A line for each array: its size, its time of change in nanoseconds and its name."""
    found = [(path.stat(), path.name) for path in sorted(home.glob("*.npy"))]
    return "".join(f"{stat.st_size} {stat.st_mtime_ns} {name}\n" for stat, name in found)


def _remember(home: Path, stamps: str) -> None:
    try:
        with Staging(home) as staging:
            (staging / _STAMPS).write_text(stamps)
            publish(staging / _STAMPS, home / _STAMPS)
    except (OSError, UserError):
        pass  # a cache that only others may write to: it is hashed the next time too


def _is_remembered(home: Path, stamps: str) -> bool:
    file = home / _STAMPS
    if not file.is_file() or file.read_bytes() != stamps.encode():
        return False
    # A file written again within one tick of the clock keeps its time, so only what is older than its stamp is trusted.
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
    """An npy file that grows: its header, as long for any number of rows, is written again when that is known."""

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
        os.fsync(self._stream.fileno())

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._stream,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._n, *self._row_shape),
            },
        )
