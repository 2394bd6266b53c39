"""Read arrays inside npz files as streams, a few rows at a time. Nothing is unpickled."""

from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["npy_header", "npy_rows"]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and dtype of the array in an npy file. The stream then stands at its entries in C order.

    Raises:
        ValueError: It is not an npy file of integers in C order.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"npy format {version} is not known")
    shape, fortran_order, dtype = _HEADERS[version](stream)
    if fortran_order or dtype.kind not in "iu" or len(shape) == 0:
        raise ValueError(f"an array {shape} of {dtype}{' in Fortran order' if fortran_order else ''} was not expected")
    return shape, dtype


def npy_rows(
    stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], rows: int = 4096
) -> Iterator[NDArray[Any]]:
    """Yield the entries after a header, ``rows`` rows at a time.

    Raises:
        ValueError: The stream ends early.
    """
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    for start in range(0, shape[0], rows):
        n = min(rows, shape[0] - start)
        content = stream.read(n * row_bytes)
        if len(content) != n * row_bytes:
            raise ValueError(f"an array {shape} ends before its row {start + n}")
        yield np.frombuffer(content, dtype).reshape(n, *shape[1:])
