"""Stacked digits: colour pictures whose three channels are three digits, which gives 1000 modes to count.

Metz, Poole, Pfau, Sohl-Dickstein 2017, "Unrolled generative adversarial networks" (arXiv 1611.02163).
"""

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from bench.data.base import ClassifiedModes, Classify, Data, Modes, Split
from bench.data.bytes.arrays import revision
from bench.data.digits import mnist
from bench.errors import UserError
from bench.schema import DataSpec
from bench.seeds import derive_seed

__all__ = ["stack", "stacked_mnist"]

_SEED = 20250601
_VERSION = 1  # increase it when the same arguments give other pictures


def stacked_mnist(path: str | None = None, n_train: int = 128_000, n_val: int = 10_000, n_test: int = 10_000) -> Data:
    """Return triples of MNIST digits made by ``stack``, ``(N, 3, 28, 28)`` uint8: 128,000 / 10,000 / 10,000.

    Arguments:
        path: As for ``mnist``.
        n_train, n_val, n_test: Sizes of the splits.

    Raises:
        UserError: No source has MNIST, or a size is below 1.
    """
    return stack("stacked_mnist", mnist(path), (n_train, n_val, n_test))


def stack(name: str, digits: Data, sizes: tuple[int, int, int]) -> Data:
    r"""Return pictures whose red, green and blue planes are three digits drawn with replacement.

    Each split draws from the same split of ``digits``, with its own fixed seed, so that no digit is in two splits. The
    number of a mode, 0 to 999, has the classes of red, green and blue as its digits. The true probability of a mode is
    the product of the frequencies of its three classes among the training digits. The triples have no labels; the
    in-domain classifier of ``digits`` assigns modes to samples, plane by plane.

    Arguments:
        name: Name of the new data set.
        digits: Labelled pictures with one plane, ``(N, 1, H, W)``, and ten classes.
        sizes: Sizes of train, val and test.

    Raises:
        UserError: A size is below 1.
    """
    if min(sizes) < 1:
        raise UserError(
            f"{name}: every split needs at least one example, not {sizes}; set data.n_train, n_val, n_test above 0"
        )
    assert digits.spec.classes == 10
    assert digits.train.y is not None
    parts = zip(("train", "val", "test"), (digits.train, digits.val, digits.test), sizes, strict=True)
    train, val, test = (_draw(part, n, derive_seed(_SEED, name, split)) for split, part, n in parts)
    spec = DataSpec(
        name=name,
        revision=revision(name, digits.spec.revision, repr((sizes, _SEED, _VERSION))),
        shape=(3, *digits.spec.shape[1:]),
        levels=digits.spec.levels,
        n_train=len(train),
        n_val=len(val),
        n_test=len(test),
        licence=digits.spec.licence,
        source=f"Metz, Poole, Pfau, Sohl-Dickstein 2017; digits: {digits.spec.source}",
    )
    share = torch.bincount(digits.train.y, minlength=10).double() / len(digits.train)  # (10,)
    probabilities = torch.einsum("i,j,k->ijk", share, share, share).flatten()  # (1000,)

    def read(classify: Classify) -> Modes:
        def assign(x: Tensor) -> Tensor:
            red, green, blue = classify(x.reshape(-1, 1, *x.shape[2:])).view(-1, 3).unbind(dim=1)  # (N,) each
            return 100 * red + 10 * green + blue

        return Modes(1000, assign, probabilities)

    return Data(spec, train, val, test, modes=ClassifiedModes(digits, read))


def _draw(digits: Split, n: int, seed: int) -> Split:
    index = RandomState(seed % 2**32).randint(len(digits), size=(n, 3))
    planes = digits.x.numpy()[:, 0]  # (N, H, W)
    pictures = np.empty((n, 3, *planes.shape[1:]), np.uint8)
    for plane in range(3):
        np.take(planes, index[:, plane], axis=0, out=pictures[:, plane])
    return Split(torch.from_numpy(pictures))
