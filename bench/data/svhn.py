"""SVHN: 32 x 32 colour photographs of single digits from house numbers.

Netzer, Wang, Coates, Bissacco, Wu, Ng 2011, "Reading digits in natural images with unsupervised feature learning".
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.base import Data
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Download
from bench.data.images import photographs

__all__ = ["SVHN_FILES", "read_mat", "svhn"]

_CLASSES = 10
_VAL = 5_000

# We had no copy of these files to compute the hashes from. Independent projects publish these hashes together with the
# sizes and the MD5s e26dedcc434d2e4c54c9b2d4a06d8373 and eb5a983be6a315427106f1b164d9cef3.
SVHN_FILES = (
    DataFile("train_32x32.mat", "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8", 182_040_794),
    DataFile("test_32x32.mat", "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b", 64_275_384),
)
"""Images and labels of the 73,257 cropped training digits and of the 26,032 test digits ("format 2")."""

_SOURCES = (Download("http://ufldl.stanford.edu/housenumbers", gzipped=False),)


def svhn(path: str | None = None, bits: int = 8) -> Data:
    """Return SVHN's cropped digits, ``(N, 3, 32, 32)`` uint8, channels red, green, blue: 68,257 / 5,000 / 26,032.

    The test split is SVHN's own. Train is the first 68,257 and validation the last 5,000 of the 73,257 training images;
    the 531,131 extra images are not used. Every split keeps the order of its file. Class k is the digit k.

    Arguments:
        path: A folder with ``train_32x32.mat`` and ``test_32x32.mat``. None: the cache, then a download.
        bits: 8, or 5 for ``svhn-5bit`` with the levels 0 to 31 of x // 8.

    Raises:
        UserError: No source has the files, or they hold other bytes than SVHN's; ``bits`` is neither 8 nor 5.
    """
    given = None if path is None else fetch("svhn", SVHN_FILES, _SOURCES, path)

    def decode() -> dict[str, NDArray[np.uint8]]:
        train_file, test_file = given or fetch("svhn", SVHN_FILES, _SOURCES)
        arrays = {}
        for split, file in (("train", train_file), ("test", test_file)):
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = read_mat(file)
        return arrays

    return photographs(
        "svhn", [*(file.sha256 for file in SVHN_FILES), "validation: the last 5,000 of train"], decode,
        bits=bits, n_val=_VAL, classes=_CLASSES, licence="for non-commercial use only",
        source="Netzer, Wang, Coates, Bissacco, Wu, Ng 2011",
    )  # fmt: skip


def read_mat(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images ``(N, 3, 32, 32)`` and digits ``(N,)`` of a MATLAB file of the cropped digits.

    The file holds ``X`` ``(32, 32, 3, N)`` and ``y`` ``(N, 1)``, unsigned bytes, where y = 10 stands for the digit 0.

    Raises:
        ValueError: The file does not have this format.
    """
    from scipy.io import loadmat  # here because it is slow to import and needed only to fill the cache

    try:
        content = loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # scipy's exception for a damaged file depends on where the damage is
        raise ValueError(f"{path} is no readable MATLAB file ({type(error).__name__}: {error})") from error
    images, digits = content.get("X"), content.get("y")
    if images is None or digits is None or images.dtype != np.uint8 or images.shape != (32, 32, 3, digits.size):
        raise ValueError(f"{path} does not hold X (32, 32, 3, N) of unsigned bytes and y (N, 1)")
    if digits.size == 0 or digits.min() < 1 or digits.max() > 10:
        raise ValueError(f"{path} has labels outside 1 to 10")
    return images.transpose(3, 2, 0, 1), (digits.ravel() % 10).astype(np.uint8)
