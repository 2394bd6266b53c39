"""CelebA: 64 x 64 colour photographs of the faces of celebrities.

Liu, Luo, Wang, Tang 2015, "Deep learning face attributes in the wild" (arXiv 1411.7766).
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.base import Data
from bench.data.bytes.archive import read_member
from bench.data.bytes.arrays import Chunks
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.formats.image_files import PictureError, pixels
from bench.data.images import SPLITS, decoding, photographs

__all__ = ["CELEBA_FILES", "CELEBA_SIZES", "celeba"]

# We had no copy of these files to compute the hashes from; the hashes are those published by TensorFlow Datasets and
# torchdata. There is no download, because the publisher's page only supports downloading by hand.
CELEBA_FILES = (
    DataFile("img_align_celeba.zip", "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74", 1_443_490_838),
    DataFile("list_eval_partition.txt", "fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7", 2_836_386),
)
"""The archive of the aligned and cropped images, and the file that lists the splits."""

CELEBA_SIZES = (162_770, 19_867, 19_962)
"""Numbers of train, validation and test images."""

_ALIGNED = (178, 218)  # width, height
_WINDOW = (15, 40, 163, 188)  # left, upper, right, lower
_SIDE = 64
_MAX_BYTES = 1 << 20  # limit for one JPEG, which decodes to 0.1 MB
_ROWS = 1024


def celeba(path: str | None = None, bits: int = 8) -> Data:
    """Return CelebA's aligned faces, ``(N, 3, 64, 64)`` uint8, RGB: 162,770 / 19,867 / 19,962, no labels.

    Splits and order are those of ``list_eval_partition.txt``. Each image of 178 x 218 pixels is cropped to the window
    of 148 x 148 with rows 40 to 187 and columns 15 to 162, as in the code of Dinh, Sohl-Dickstein, Bengio 2017,
    "Density estimation using Real NVP" (arXiv 1605.08803). The window is centred horizontally and lies 5 rows below the
    centre vertically. It is then reduced to 64 x 64 by Pillow's bilinear filter, which is antialiased (a triangle of
    2 x 148 / 64 pixels) and rounds to whole levels. Real NVP used a bilinear filter without antialiasing or rounding,
    so likelihoods on this data set are close to the paper's but not strictly comparable.

    Arguments:
        path: A folder with the two files of ``CELEBA_FILES``. None: the cache, where they can be put by hand.
        bits: 8, or 5 for ``celeba-5bit`` with the levels 0 to 31 of x // 8.

    Raises:
        UserError: A file is missing or holds other bytes than CelebA's; ``bits`` is neither 8 nor 5.
    """
    given = None if path is None else fetch("celeba", CELEBA_FILES, (), path)

    def decode() -> Chunks:
        archive, partition = given or fetch("celeba", CELEBA_FILES, ())
        with decoding("celeba", partition):
            names = _partition(partition)
        with decoding("celeba", archive):
            for split, members in zip(SPLITS, names, strict=True):
                for images in _faces(archive, members):
                    yield f"{split}_images", images

    window = f"window {_WINDOW}, bilinear antialiased to {_SIDE}"
    return photographs(
        "celeba", [*(file.sha256 for file in CELEBA_FILES), window], decode, bits=bits,
        licence="for non-commercial research only", source="Liu, Luo, Wang, Tang 2015",
    )  # fmt: skip


def _partition(path: Path) -> list[list[str]]:
    """Return the image names of each split. Each line of the file has a name and 0, 1 or 2."""
    names: list[list[str]] = [[], [], []]
    for line in path.read_text(encoding="ascii").splitlines():
        name, split = line.split()
        names[("0", "1", "2").index(split)].append(name)
    if tuple(map(len, names)) != CELEBA_SIZES:
        raise ValueError(f"it lists {tuple(map(len, names))} images instead of {CELEBA_SIZES}")
    return names


def _faces(path: Path, names: list[str]) -> Iterator[NDArray[np.uint8]]:
    """Yield the cropped and reduced images in batches ``(n, 3, 64, 64)``."""
    with zipfile.ZipFile(path) as archive:
        for start in range(0, len(names), _ROWS):
            yield np.stack([_face(archive, name) for name in names[start : start + _ROWS]])


def _face(archive: zipfile.ZipFile, name: str) -> NDArray[np.uint8]:
    content = read_member(archive, f"img_align_celeba/{name}", _MAX_BYTES)
    try:
        whole = Image.fromarray(pixels(content, ("JPEG",), _ALIGNED))
    except PictureError as error:
        raise PictureError(f"{name} {error}") from error
    face = whole.crop(_WINDOW).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(face).transpose(2, 0, 1)
