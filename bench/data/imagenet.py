"""ImageNet at 32 x 32 and 64 x 64, in two published versions that are different data.

``imagenet32`` and ``imagenet64`` come from van den Oord, Kalchbrenner, Kavukcuoglu 2016, "Pixel recurrent neural
networks" (arXiv 1601.06759). Nearly all published likelihoods use them. ``imagenet32_chrabaszcz`` and
``imagenet64_chrabaszcz`` come from Chrabaszcz, Loshchilov, Hutter 2017, "A downsampled variant of ImageNet as an
alternative to the CIFAR datasets" (arXiv 1707.08819). The two versions were reduced by different filters, so their
detail differs and their likelihoods cannot be compared.

In both versions the published validation set is our test split, as in the literature. Our validation split is 50,000
of the published training images: the first 50,000 indices of ``RandomState(20250601).permutation(N)``, because the
order of the files may be systematic. All splits keep the order of the files. (Models trained on all training images
follow another protocol.)
"""

import re
import tarfile
import zipfile
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from bench.data.base import Data
from bench.data.bytes.arrays import Chunks
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Download, Source
from bench.data.formats.image_files import PictureError, pixels
from bench.data.formats.npz import npy_header, npy_rows
from bench.data.images import decoding, photographs

__all__ = [
    "IMAGENET_FILES",
    "IMAGENET_SIZES",
    "imagenet32",
    "imagenet32_chrabaszcz",
    "imagenet64",
    "imagenet64_chrabaszcz",
]

# We had no copy of these files to compute the hashes from. Hashes and sizes are those published by TensorFlow Datasets.
IMAGENET_FILES = {
    "imagenet32": (
        DataFile("train_32x32.tar", "244a323d48f8d72f65ad8b54658c01fed68d2d7bdc77ccb43da58c11e94224e5", 4_113_018_880),
        DataFile("valid_32x32.tar", "862e559462b24cf736212a19f6b0d47b55c2dc8ebdaa95ccecfe71260124c8f7", 161_474_560),
    ),
    "imagenet64": (
        DataFile("train_64x64.tar", "e2a2c1947a748d0d256e98e6d82800d855441dc9e4de2e71a773f1324c4524d7", 12_112_588_800),
        DataFile("valid_64x64.tar", "eeac03ec4f585baf871d2b4cb9c974bfe345e74878a74e5820fe6eb1041629cd", 477_255_680),
    ),
    "imagenet32_chrabaszcz": (
        DataFile(
            "Imagenet32_train_npz.zip",
            "94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc",
            3_580_435_279,
        ),
        DataFile(
            "Imagenet32_val_npz.zip", "013990e6dec1237dcd1f9beadbab81ead6604cc119af5cacbfb59ae28148377a", 139_697_668
        ),
    ),
    "imagenet64_chrabaszcz": (
        DataFile(
            "Imagenet64_train_part1_npz.zip",
            "9422dc1dc5d092e9814a70a1cb7fc74880d2db5d88a0cb8a34ee363b12bde3f1",
            6_783_426_789,
        ),
        DataFile(
            "Imagenet64_train_part2_npz.zip",
            "9fafc115afb7e6c301e66dc16b2d737152b427bd5dab26e1293487a6819c7f30",
            6_780_506_068,
        ),
        DataFile(
            "Imagenet64_val_npz.zip", "e1e75133158a1924135a9c6f97a80d2d237b158945e0b34074e58e6c8430eeb8", 529_522_927
        ),
    ),
}
"""The published archives of each data set: first those of the training images, last that of the validation images."""

IMAGENET_SIZES = {
    "imagenet32": (1_281_149, 49_999),
    "imagenet64": (1_281_149, 49_999),
    "imagenet32_chrabaszcz": (1_281_167, 50_000),
    "imagenet64_chrabaszcz": (1_281_167, 50_000),
}
"""Numbers of published training and validation images."""

_CHRABASZCZ_SOURCES = (Download("https://image-net.org/data/downsample", gzipped=False),)
_CLASSES = 1000
_VAL = 50_000
_SEED = 20250601
_ROWS = 4096  # images in memory at once

# Yields images (n, 3, s, s) and labels (n,) or None
_Pictures = Generator[tuple[NDArray[np.uint8], NDArray[Any] | None], None, None]


def imagenet32(path: str | None = None, bits: int = 8) -> Data:
    """Return ImageNet 32 x 32 of van den Oord et al. 2016, ``(N, 3, 32, 32)`` uint8, without labels.

    The splits have 1,231,149 / 50,000 / 49,999 images. The files are no longer published.

    Arguments:
        path: A folder with ``train_32x32.tar`` and ``valid_32x32.tar``. None: the cache, where they can be put by hand.
        bits: 8, or 5 for ``imagenet32-5bit`` with the levels 0 to 31 of x // 8.

    Raises:
        UserError: A file is missing or holds other bytes than the published one; ``bits`` is neither 8 nor 5.
    """
    return _from_tars("imagenet32", 32, path, bits)


def imagenet64(path: str | None = None, bits: int = 8) -> Data:
    """Return ImageNet 64 x 64 of van den Oord et al. 2016, ``(N, 3, 64, 64)`` uint8, without labels.

    The splits have 1,231,149 / 50,000 / 49,999 images.

    Arguments:
        path: A folder with ``train_64x64.tar`` and ``valid_64x64.tar``. None: the cache, where they can be put by hand.
        bits: As for ``imagenet32``.

    Raises:
        UserError: As for ``imagenet32``.
    """
    return _from_tars("imagenet64", 64, path, bits)


def imagenet32_chrabaszcz(path: str | None = None, bits: int = 8) -> Data:
    """Return ImageNet 32 x 32 of Chrabaszcz et al. 2017, ``(N, 3, 32, 32)`` uint8, with 1000 classes.

    The splits have 1,231,167 / 50,000 / 50,000 images.

    Arguments:
        path: A folder with the two archives of ``IMAGENET_FILES``, which hold npz files (not those with pickles). None:
            the cache, then a download of 3.7 GB.
        bits: 8, or 5 for ``imagenet32_chrabaszcz-5bit`` with the levels 0 to 31 of x // 8.

    Raises:
        UserError: No source has the files, or they hold other bytes; ``bits`` is neither 8 nor 5.
    """
    return _from_zips("imagenet32_chrabaszcz", 32, path, bits)


def imagenet64_chrabaszcz(path: str | None = None, bits: int = 8) -> Data:
    """Return ImageNet 64 x 64 of Chrabaszcz et al. 2017, ``(N, 3, 64, 64)`` uint8, with 1000 classes.

    The splits have 1,231,167 / 50,000 / 50,000 images.

    Arguments:
        path: A folder with the three archives of ``IMAGENET_FILES``. None: the cache, then a download of 14 GB.
        bits: As for ``imagenet32_chrabaszcz``.

    Raises:
        UserError: As for ``imagenet32_chrabaszcz``.
    """
    return _from_zips("imagenet64_chrabaszcz", 64, path, bits)


def _from_tars(name: str, side: int, path: str | None, bits: int) -> Data:
    return _make(name, side, path, bits, _pictures_of_tar, (), None, "van den Oord, Kalchbrenner, Kavukcuoglu 2016")


def _from_zips(name: str, side: int, path: str | None, bits: int) -> Data:
    source = "Chrabaszcz, Loshchilov, Hutter 2017"
    return _make(name, side, path, bits, _pictures_of_zip, _CHRABASZCZ_SOURCES, _CLASSES, source)


def _make(
    name: str,
    side: int,
    path: str | None,
    bits: int,
    pictures_of: Callable[[Path, int], _Pictures],
    sources: tuple[Source, ...],
    classes: int | None,
    source: str,
) -> Data:
    files = IMAGENET_FILES[name]
    given = None if path is None else fetch(name, files, sources, path)

    def pictures(archives: list[Path]) -> _Pictures:
        for archive in archives:
            with decoding(name, archive):
                yield from pictures_of(archive, side)

    def decode() -> Chunks:
        *train, test = given or fetch(name, files, sources)
        n_train, n_test = IMAGENET_SIZES[name]
        held_out = np.zeros(n_train, dtype=bool)
        held_out[RandomState(_SEED).permutation(n_train)[:_VAL]] = True
        with decoding(name, train[0]):
            yield from _divided(pictures(train), n_train, {"train": ~held_out, "val": held_out})
        with decoding(name, test):
            yield from _divided(pictures([test]), n_test, {"test": np.ones(n_test, dtype=bool)})

    return photographs(
        name,
        [*(file.sha256 for file in files), f"validation: {_VAL} by a permutation of RandomState({_SEED})"],
        decode,
        bits=bits,
        classes=classes,
        licence="for non-commercial research and education only",
        source=source,
    )


def _divided(pictures: _Pictures, n: int, members: dict[str, NDArray[np.bool_]]) -> Chunks:
    """Yield each of the n pictures under the split that contains it. ``members`` has a mask ``(n,)`` for each split."""
    seen = 0
    with closing(pictures):  # closes the archive if there are too many images
        for images, labels in pictures:
            end = seen + len(images)
            if end > n:
                raise ValueError(f"there are more images than the published {n}")
            for split, of_split in members.items():
                rows = of_split[seen:end]
                yield f"{split}_images", images[rows]
                if labels is not None:
                    yield f"{split}_labels", labels[rows]
            seen = end
    if seen != n:
        raise ValueError(f"there are {seen} images instead of the published {n}")


def _pictures_of_tar(path: Path, side: int) -> _Pictures:
    """Yield the pictures of a tar of PNG files, in its order. Links and members that are not PNG files are skipped."""
    batch = []
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.isreg() and member.name.endswith(".png"):
                batch.append(_picture(archive, member, side))
                if len(batch) == _ROWS:
                    yield np.stack(batch), None
                    batch = []
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all 1.3 million entries
    if batch:
        yield np.stack(batch), None


def _picture(archive: tarfile.TarFile, member: tarfile.TarInfo, side: int) -> NDArray[np.uint8]:
    if member.size > 2 * 3 * side**2 + 4096:  # a PNG is at most slightly longer than its pixels
        raise ValueError(f"{member.name} has {member.size} bytes, too many for {side} x {side} pixels")
    stream = archive.extractfile(member)
    assert stream is not None
    try:
        return pixels(stream.read(), ("PNG",), (side, side)).transpose(2, 0, 1)
    except PictureError as error:
        raise PictureError(f"{member.name} {error}") from error


def _pictures_of_zip(path: Path, side: int) -> _Pictures:
    """Yield the pictures of a zip of npz files, sorted by number: ``data`` (n, 3 s^2), ``labels`` (n,) 1 to 1000."""
    with zipfile.ZipFile(path) as archive:
        members = {
            int(found[1] or 0): info
            for info in archive.infolist()
            if (found := re.search(r"(?:^|/)(?:train_data_batch_(\d+)|val_data)\.npz$", info.filename)) is not None
        }
        for _, member in sorted(members.items()):
            with archive.open(member) as packed, zipfile.ZipFile(packed) as npz:
                with npz.open("labels.npy") as stream:
                    shape, dtype = npy_header(stream)
                    if len(shape) != 1 or shape[0] > 2 * max(map(max, IMAGENET_SIZES.values())):
                        raise ValueError(f"labels of {member.filename} have the shape {shape}")
                    labels = np.concatenate(list(npy_rows(stream, shape, dtype))) - 1
                if labels.min() < 0 or labels.max() >= _CLASSES:
                    raise ValueError(f"a label of {member.filename} is none of 1 to {_CLASSES}")
                with npz.open("data.npy") as stream:
                    shape, dtype = npy_header(stream)
                    if shape != (len(labels), 3 * side**2) or dtype != np.uint8:
                        raise ValueError(f"data of {member.filename} are {dtype} {shape}")
                    start = 0
                    for rows in npy_rows(stream, shape, dtype, _ROWS):
                        yield rows.reshape(-1, 3, side, side), labels[start : start + len(rows)].astype(np.uint16)
                        start += len(rows)
