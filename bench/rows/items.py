"""The values of single test examples, kept beside a run's rows: paired comparisons of two runs need them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bench.errors import UserError
from bench.files import durable_write
from bench.regular import read_regular

__all__ = ["items_path", "read_items", "write_items"]

_LARGEST = 1 << 30  # bytes


def items_path(folder: Path, checkpoint: str, measuring_key: str) -> Path:
    """Where a run's folder keeps the values of one measuring on one checkpoint."""
    return folder / f"items-{checkpoint}-{measuring_key}.npy"


def write_items(path: Path, values: NDArray[Any]) -> None:
    """Store ``(N,)`` values as float64, in a file that ``numpy.load`` reads. It is replaced as a whole and durably."""
    content = io.BytesIO()
    npy.write_array(content, np.ascontiguousarray(values, "<f8"), version=(1, 0), allow_pickle=False)
    durable_write(path, content.getvalue())


def read_items(path: Path) -> NDArray[np.float64]:
    """The values that ``write_items`` stored, ``(N,)``.

    Raises:
        UserError: There are none, or the file holds anything else: a folder of runs may be a stranger's.
    """
    content = io.BytesIO(read_regular(path, _LARGEST))
    try:
        version = npy.read_magic(content)
        shape, _, dtype = npy.read_array_header_1_0(content) if version == (1, 0) else ((), False, np.dtype("O"))
    except ValueError as error:
        raise UserError(f"{path}: is no array of numpy ({' '.join(str(error).split())[:80]})") from error
    rest = content.read()
    # Compared before anything is made of the shape, which may ask for all memory.
    if dtype != np.dtype("<f8") or len(shape) != 1 or len(rest) != 8 * shape[0]:
        raise UserError(f"{path}: does not hold one float64 for each test example")
    values = np.frombuffer(rest, "<f8").astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: holds values that are not finite")
    return values
