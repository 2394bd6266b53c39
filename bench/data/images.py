"""What data sets of images have in common: their specification, their splits and their number of levels."""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.data.base import Data, Split
from bench.data.bytes.archive import SourceError
from bench.data.bytes.arrays import Arrays, Chunks, decoded, revision
from bench.data.formats.image_files import PictureError
from bench.errors import UserError
from bench.schema import DataSpec

__all__ = ["SPLITS", "decoding", "image_data", "photographs", "split_of"]

SPLITS = ("train", "val", "test")

_UNREADABLE = (
    PictureError, SourceError, OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, zlib.error,
    tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip


def image_data(
    name: str,
    key: str,
    train: Split,
    val: Split,
    test: Split,
    *,
    levels: int,
    classes: int | None = None,
    licence: str,
    source: str,
) -> Data:
    """Three splits of images and their specification: the shape is that of an image, the sizes are the splits'."""
    spec = DataSpec(
        name=name,
        revision=key,
        shape=tuple(train.x.shape[1:]),
        levels=levels,
        n_train=len(train),
        n_val=len(val),
        n_test=len(test),
        classes=classes,
        licence=licence,
        source=source,
    )
    return Data(spec, train, val, test)


def split_of(images: NDArray[np.uint8], labels: NDArray[Any] | None = None) -> Split:
    """A split of images ``(N, C, H, W)``, which are not copied, and labels ``(N,)`` of any type of integers."""
    return Split(torch.from_numpy(images), None if labels is None else torch.from_numpy(labels.astype(np.int64)))


@contextmanager
def decoding(name: str, path: Path) -> Iterator[None]:
    """Whatever cannot be read in a file of the right hash becomes a UserError that names it and the reason."""
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f"{name}: {path} cannot be decoded ({type(error).__name__}: {reason}), though its hash is the published "
            "one; free memory and disk, bring Pillow and numpy up to date, else report it"
        ) from error


def photographs(
    name: str,
    recipe: Sequence[str],
    decode: Callable[[], Arrays | Chunks],
    *,
    bits: int,
    n_val: int = 0,
    classes: int | None = None,
    licence: str,
    source: str,
) -> Data:
    r"""A data set of 8-bit images from its decoded arrays, with all their levels or with fewer.

    With 5 bits an image is :math:`\lfloor x / 2^{8 - 5} \rfloor`, 32 levels instead of 256 (as for Glow; Kingma and
    Dhariwal 2018): another data set, with a name and a revision of its own.

    Arguments:
        name: Of the data set; ``-5bit`` is added to it where the levels are fewer.
        recipe: What the revision stands for.
        decode: Makes ``train_images``, ``val_images`` and ``test_images`` ``(N, C, H, W)`` of 8 bits and, where there
            are any, ``train_labels`` and so on ``(N,)``.
        bits: 8 or 5.
        n_val: Where there are no ``val_images``, so many at the end of train are validation.
        classes, licence, source: For the specification.

    Raises:
        UserError: Another number of bits.
    """
    if bits not in (5, 8):
        raise UserError(f"{name}: images have 8 or 5 bits, not {bits}; set data.bits to 8 or to 5")
    key = revision(name, *recipe, *([] if bits == 8 else [f"{bits} bits: x // {2 ** (8 - bits)}"]))
    arrays = decoded(name, key, lambda: _coarse(decode(), 8 - bits))

    def part(split: str, rows: slice) -> Split:
        labels = arrays.get(f"{split}_labels")
        return split_of(arrays[f"{split}_images"][rows], None if labels is None else labels[rows])

    every = slice(None)
    if n_val == 0:
        train, val = part("train", every), part("val", every)
    else:
        train, val = part("train", slice(-n_val)), part("train", slice(-n_val, None))
    return image_data(
        name if bits == 8 else f"{name}-{bits}bit", key, train, val, part("test", every),
        levels=2**bits, classes=classes, licence=licence, source=source,
    )  # fmt: skip


def _coarse(made: Arrays | Chunks, shift: int) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, rows in made.items() if isinstance(made, Mapping) else made:
        yield name, rows >> shift if shift > 0 and name.endswith("_images") else rows
