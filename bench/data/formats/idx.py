"""Read the idx format, and data sets published like MNIST: four idx files with 60,000 + 10,000 images of 28 x 28."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.base import Data
from bench.data.bytes.arrays import revision
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Source
from bench.data.images import image_data, split_of

__all__ = ["like_mnist", "read_idx"]

_VAL = 10_000
_CLASSES = 10


def like_mnist(
    name: str, files: Sequence[DataFile], sources: Sequence[Source], path: str | None, *, licence: str, source: str
) -> Data:
    """Return images ``(N, 1, 28, 28)`` uint8, split 50,000 / 10,000 / 10,000.

    The test split is the published one. Train is the first 50,000 and validation the last 10,000 of the 60,000
    training images. Every split keeps the order of the files.

    Arguments:
        name: Name of the data set.
        files: Training images, training labels, test images, test labels.
        sources: Where to look for them.
        path: The user's folder or archive, or None.
        licence, source: Entries of the specification.

    Raises:
        UserError: No source has the files, or they hold other bytes.
    """
    images, labels, test_images, test_labels = map(read_idx, fetch(name, files, sources, path))
    images, test_images = images[:, None], test_images[:, None]
    return image_data(
        name,
        revision(name, *(file.sha256 for file in files), "validation: the last 10,000 of train"),
        split_of(images[:-_VAL], labels[:-_VAL]),
        split_of(images[-_VAL:], labels[-_VAL:]),
        split_of(test_images, test_labels),
        levels=256,
        classes=_CLASSES,
        licence=licence,
        source=source,
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array in an idx file of unsigned bytes.

    The big-endian header has two zero bytes, the type (8: unsigned byte), the number of dimensions n, and n sizes of 4
    bytes each. The entries follow in C order.

    Raises:
        ValueError: The file does not have this format.
    """
    raw = np.fromfile(path, dtype=np.uint8)
    if len(raw) < 4 or bytes(raw[:3]) != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    start = 4 + 4 * int(raw[3])
    shape = tuple(int(size) for size in raw[4:start].view(">u4"))
    if len(raw) - start != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} has {len(raw) - start} entries instead of {shape}")
    return raw[start:].reshape(shape)
