"""Functions shared by the image data sets: specification, splits, and reduction to 5 bits."""

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
    """Return a data set of three image splits. Shape and sizes in its specification are taken from the splits.

    Arguments:
        name: Name of the data set.
        key: Its revision.
        train, val, test: The splits.
        levels, classes, licence, source: Entries of the specification.
    """
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
    """Return a split of images ``(N, C, H, W)`` and integer labels ``(N,)``. The images are not copied."""
    return Split(torch.from_numpy(images), None if labels is None else torch.from_numpy(labels.astype(np.int64)))


@contextmanager
def decoding(name: str, path: Path) -> Iterator[None]:
    """Turn an error while decoding the file ``path`` into a UserError with the file and the reason.

    Raises:
        UserError: The block raised an error, although the file has the published hash.
    """
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
    r"""Return a data set of images from its decoded arrays, with 8 or 5 bits per channel.

    With 5 bits an image is :math:`\lfloor x / 2^{8 - 5} \rfloor`, which has 32 levels instead of 256, as for Glow
    (Kingma and Dhariwal 2018, arXiv 1807.03039). It is another data set, with its own name and revision.

    Arguments:
        name: Name of the data set; 5 bits add ``-5bit`` to it.
        recipe: Strings that the revision is computed from.
        decode: Makes ``train_images``, ``val_images`` and ``test_images``, ``(N, C, H, W)`` of 8 bits, and optionally
            ``train_labels``, ``val_labels`` and ``test_labels``, ``(N,)``.
        bits: 8 or 5.
        n_val: If there are no ``val_images``, the last ``n_val`` training images are validation.
        classes, licence, source: Entries of the specification.

    Raises:
        UserError: ``bits`` is neither 8 nor 5.
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
