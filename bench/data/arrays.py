"""Decoded arrays in the cache: decoded once, then memory-mapped, so that processes share one copy of them."""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.fetch import Staging, cache_dir, publish, sha256
from bench.errors import UserError

__all__ = ["decoded", "revision"]

_SUMS = "SHA256SUMS"


def revision(*recipe: str) -> str:
    """16 hexadecimal digits that stand for a recipe: the hashes of its bytes and what is done with them, in words."""
    return hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:16]


def decoded(name: str, key: str, decode: Callable[[], Mapping[str, NDArray[np.uint8]]]) -> dict[str, NDArray[np.uint8]]:
    """Arrays of a data set, memory-mapped copy-on-write from ``cache_dir()/name/decoded-key/*.npy``.

    Where the files are missing, incomplete or damaged, ``decode`` is called and they are written. They stand beside a
    list of their SHA-256 hashes, which is written last and compared at every start.

    Arguments:
        name: Of the data set; also its folder in the cache.
        key: Of the bytes and the way they are decoded: another key, another folder.
        decode: Makes the arrays, by name; none is empty.

    Returns:
        The arrays by name. Writing to one changes this process's copy, never the file.

    Raises:
        UserError: The cache cannot be written.
    """
    home = cache_dir() / name / f"decoded-{key}"
    if not _intact(home):
        _write(home, decode())
    return {path.stem: np.load(path, mmap_mode="c", allow_pickle=False) for path in home.glob("*.npy")}


def _intact(home: Path) -> bool:
    try:
        sums = dict(line.split("  ", 1)[::-1] for line in (home / _SUMS).read_text().splitlines())
        return {path.name: sha256(path) for path in home.glob("*.npy")} == sums != {}
    except (OSError, ValueError):
        return False


def _write(home: Path, arrays: Mapping[str, NDArray[np.uint8]]) -> None:
    with Staging(home) as staging:
        try:
            for name, array in arrays.items():
                with (staging / f"{name}.npy").open("wb") as stream:
                    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
                    stream.flush()
                    os.fsync(stream.fileno())
            files = [staging / f"{name}.npy" for name in arrays]
            (staging / _SUMS).write_text("".join(f"{sha256(file)}  {file.name}\n" for file in files))
            for file in [*files, staging / _SUMS]:
                publish(file, home / file.name)
        except OSError as error:
            raise UserError(
                f"cannot write decoded arrays into the cache folder {home} ({error.strerror}); free some space or set "
                "GENBENCH_CACHE to another folder"
            ) from error
