"""Binary MNIST in its two published forms: binarized once, or drawn anew for every batch.

Likelihoods are in nats. The two forms are different data and are never ranked together: a model trained on fresh draws
overfits less, so its likelihoods are better.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Generator, Tensor

from bench.data.base import Data, Split
from bench.data.bytes.arrays import Chunks, decoded, revision
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Download
from bench.data.digits import mnist
from bench.data.images import SPLITS, decoding, image_data, split_of
from bench.seeds import derive_seed

__all__ = ["MNIST_BINARIZED_FILES", "mnist_binarized", "mnist_dynamic", "read_amat"]

_PIXELS = 28 * 28
_LINE = 2 * _PIXELS  # bytes: each digit is followed by a space or a line feed
_GREYS = 255
_SEED = 20250601

# We had no copy of these files to compute the hashes from. Hashes and sizes are those published by TensorFlow Datasets;
# the sizes agree with 784 digits, 783 spaces and a line feed for each image.
MNIST_BINARIZED_FILES = (
    DataFile(
        "binarized_mnist_train.amat", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d", 78_400_000
    ),
    DataFile(
        "binarized_mnist_valid.amat", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2", 15_680_000
    ),
    DataFile(
        "binarized_mnist_test.amat", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c", 15_680_000
    ),
)  # fmt: skip
"""The fixed binarization: 50,000, 10,000 and 10,000 lines of 784 digits."""

_SOURCES = (Download("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist", gzipped=False),)


def mnist_binarized(path: str | None = None) -> Data:
    """Return MNIST with fixed binarization, ``(N, 1, 28, 28)`` uint8, 0 or 1: 50,000 / 10,000 / 10,000, no labels.

    Each pixel was drawn once, and is 1 with probability grey / 255 (Salakhutdinov and Murray 2008, "On the quantitative
    analysis of deep belief networks"). Splits and files are those of Larochelle and Murray 2011, "The neural
    autoregressive distribution estimator". Every split keeps the order of its file.

    Arguments:
        path: A folder with the three files of ``MNIST_BINARIZED_FILES``, plain or ``.gz``. None: the cache, then a
            download.

    Raises:
        UserError: No source has the files, or they hold other bytes.
    """
    name = "mnist_binarized"
    given = None if path is None else fetch(name, MNIST_BINARIZED_FILES, _SOURCES, path)

    def decode() -> Chunks:
        for split, file in zip(SPLITS, given or fetch(name, MNIST_BINARIZED_FILES, _SOURCES), strict=True):
            with decoding(name, file):
                yield split, read_amat(file)

    key = revision(name, *(file.sha256 for file in MNIST_BINARIZED_FILES))
    arrays = decoded(name, key, decode)
    train, val, test = (split_of(arrays[split]) for split in SPLITS)
    return image_data(
        name, key, train, val, test, levels=2, licence="none declared",
        source="Larochelle and Murray 2011; Salakhutdinov and Murray 2008",
    )  # fmt: skip


def mnist_dynamic(path: str | None = None) -> Data:
    r"""Return MNIST with dynamic binarization, ``(N, 1, 28, 28)`` uint8, 0 or 1, with the splits of ``mnist``.

    .. math:: x_{ij} \sim \text{Bernoulli}(g_{ij} / 255)

    g is the grey level. Each training batch draws its pixels anew, as in Burda, Grosse, Salakhutdinov 2016, "Importance
    weighted autoencoders" (arXiv 1509.00519). Validation and test are a single draw with the data's own fixed seed. So
    is ``x`` of the train split, which metrics use. The sizes are 50,000 / 10,000 / 10,000.

    Arguments:
        path: As for ``mnist``.

    Raises:
        UserError: As for ``mnist``.
    """
    grey = mnist(path)
    spec = dataclasses.replace(
        grey.spec,
        name="mnist_dynamic",
        revision=revision("mnist_dynamic", grey.spec.revision, f"1 with probability grey / 255, seed {_SEED}"),
        levels=2,
        source=f"{grey.spec.source}; binarized as in Burda, Grosse, Salakhutdinov 2016",
    )
    train = dataclasses.replace(_drawn(grey.train, "train"), redraw=Binarize(grey.train.x))
    return Data(spec, train, _drawn(grey.val, "val"), _drawn(grey.test, "test"))


class Binarize:
    """Draws pixels that are 1 with probability grey / 255: ``(index (B,), generator) -> (B, *shape)`` uint8.

    Arguments:
        grey: Grey levels 0 .. 255, ``(N, *shape)`` uint8.
    """

    def __init__(self, grey: Tensor) -> None:
        self._grey = grey

    def __call__(self, index: Tensor, generator: Generator) -> Tensor:
        grey = self._grey.index_select(0, index)
        # An integer uniform on 0 .. 254 is below g with probability exactly g / 255; a float32 uniform is not.
        return (torch.randint(_GREYS, grey.shape, dtype=torch.uint8, generator=generator) < grey).to(torch.uint8)


def read_amat(path: Path) -> NDArray[np.uint8]:
    """Return the images ``(N, 1, 28, 28)`` of a text file: per line 784 digits 0 or 1, separated by single spaces.

    Raises:
        ValueError: The file does not have this format.
    """
    raw = np.fromfile(path, dtype=np.uint8)
    if len(raw) == 0 or len(raw) % _LINE != 0:
        raise ValueError(f"{path} has {len(raw)} bytes, which is not a multiple of {_LINE}, the length of a line")
    digits, gaps = raw.reshape(-1, _PIXELS, 2).transpose(2, 0, 1)  # (N, 784) each
    images = digits - ord("0")  # characters below "0" wrap around to large values
    if images.max() > 1 or (gaps[:, :-1] != ord(" ")).any() or (gaps[:, -1] != ord("\n")).any():
        raise ValueError(f"{path} has lines that are not {_PIXELS} digits 0 or 1")
    return images.reshape(-1, 1, 28, 28)


def _drawn(grey: Split, split: str) -> Split:
    rng = RandomState(derive_seed(_SEED, "mnist_dynamic", split) % 2**32)  # numpy keeps RandomState's streams frozen
    drawn = rng.randint(_GREYS, size=tuple(grey.x.shape), dtype=np.uint8) < grey.x.numpy()
    return Split(torch.from_numpy(drawn.astype(np.uint8)), grey.y)
