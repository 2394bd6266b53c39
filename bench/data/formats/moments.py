"""Mean and covariance of features as other packages keep them: an ``.npz`` file with the arrays ``mu`` and ``sigma``.

TTUR, pytorch-fid and clean-fid write such files. They do not say which extractor the features are of, nor how many
examples. No code in a file is run, and sizes are checked before memory is allocated.
"""

import hashlib
import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import UserError
from bench.files import durable_write
from bench.regular import open_regular

__all__ = ["Moments", "holds_moments", "read_moments", "write_moments"]

_MOST_FEATURES = 8192  # Inception has 2048; a covariance of 8192 features has 512 MiB
_MOST_BYTES = _MOST_FEATURES * (_MOST_FEATURES + 1) * 8 + (1 << 20)
_LONGEST_HEADER = 10_000  # bytes
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_EXAMPLES = {"samples", "arr_0"}  # of a file that has these, the examples themselves are taken
_ROUNDING = float(np.finfo(np.float32).eps)  # features are float32, so their covariance is known to this at best


@dataclass(frozen=True)
class Moments:
    """Mean ``(D,)`` and covariance ``(D, D)`` of features, float64; the covariance is symmetric and has no negative
    eigenvalue beyond rounding.

    Attributes:
        name: Of the file, for messages.
    """

    mean: Tensor
    cov: Tensor
    name: str = "statistics"

    @property
    def sha256(self) -> str:
        """Of the numbers, 64 hexadecimal digits."""
        digest = hashlib.sha256(f"moments {tuple(self.mean.shape)}\n".encode())
        for part in (self.mean, self.cov):
            digest.update(part.contiguous().view(-1).numpy().data)
        return digest.hexdigest()


def holds_moments(path: Path) -> bool:
    """Return whether a file is an ``.npz`` with ``mu`` and ``sigma`` and without the examples. Reads its directory."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception:  # a damaged file is told by the one that reads it as samples
        return False
    return {"mu", "sigma"} <= names and not names & _EXAMPLES


def read_moments(path: Path) -> Moments:
    """Read the arrays ``mu`` ``(D,)`` and ``sigma`` ``(D, D)`` of an ``.npz`` file.

    Raises:
        UserError: The file is missing, not regular, damaged or too large; the arrays are of another shape or type, not
            finite, or the covariance is not symmetric or has a negative eigenvalue beyond the rounding of float32.
    """
    where = f"reference {ascii(str(path))[1:-1]}"
    try:
        with open_regular(path, _MOST_BYTES) as file, zipfile.ZipFile(file) as archive:
            mean, cov = (_array(archive, name, ndim) for name, ndim in (("mu", 1), ("sigma", 2)))
    except UserError:
        raise
    except Exception as error:  # its type depends on where the file is damaged
        reason = ascii(" ".join(str(error).split())[:150])[1:-1]
        raise UserError(f"{where}: is damaged, or has no mean mu and covariance sigma ({reason})") from error
    if len(mean) == 0 or cov.shape != (len(mean), len(mean)):
        raise UserError(f"{where}: mu has the shape {mean.shape} and sigma {cov.shape}; wanted are (D,) and (D, D)")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise UserError(f"{where}: has NaN or infinite values; make the statistics again")
    scale = float(np.abs(cov).max())
    if float(np.abs(cov / 2 - cov.T / 2).max()) > _ROUNDING * len(mean) * scale:
        raise UserError(f"{where}: sigma is not symmetric, so it is no covariance; make the statistics again")
    symmetric = torch.from_numpy(cov / 2 + cov.T / 2)
    lowest = float(torch.linalg.eigvalsh(symmetric)[0])
    if lowest < -_ROUNDING * len(mean) * scale:
        raise UserError(f"{where}: sigma has the eigenvalue {lowest:.3g}, and a covariance has none below 0; make the "
                        "statistics again")  # fmt: skip
    return Moments(torch.from_numpy(mean), symmetric, ascii(path.name)[1:-1])


def write_moments(path: Path, features: Tensor) -> None:
    """Write mean and covariance of features ``(N, D)``, N >= 2, as an ``.npz`` file that the other packages read, too.

    Raises:
        UserError: The features are too few or not finite, or the file cannot be written.
    """
    x = features.detach().cpu().double()
    if x.ndim != 2 or len(x) < 2 or not bool(torch.isfinite(x).all()):
        raise UserError(
            f"{path}: features of shape {tuple(x.shape)} have no statistics; bring finite ones (N, D), N >= 2"
        )
    buffer = io.BytesIO()
    np.savez(buffer, mu=x.mean(dim=0).numpy(), sigma=torch.cov(x.T).view(x.shape[1], -1).numpy())
    durable_write(path, buffer.getvalue())


def _array(archive: zipfile.ZipFile, name: str, ndim: int) -> NDArray[np.float64]:
    """One array as float64. Its header is checked before memory is allocated; pickles are never loaded."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("compressed in a way that numpy does not write")
    with archive.open(entry) as stream:
        shape, dtype = _header(stream)
        start = stream.tell()
    if dtype.kind != "f" or dtype.itemsize > 8 or len(shape) != ndim or max(shape) > _MOST_FEATURES:
        raise ValueError(f"{name} is {dtype} {shape}; wanted are floats of {ndim} axes, at most {_MOST_FEATURES} long")
    if start + math.prod(shape) * dtype.itemsize != entry.file_size:
        raise ValueError(f"{name} has another size than its header says")
    with archive.open(entry) as stream:
        made = np.lib.format.read_array(stream, allow_pickle=False)
    return np.ascontiguousarray(made, dtype=np.float64)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"npy format {version} is not known")
    shape, _, dtype = _HEADERS[version](stream, max_header_size=_LONGEST_HEADER)
    return shape, dtype
