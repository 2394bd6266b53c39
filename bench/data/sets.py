r"""Sequences of categories whose distribution is known exactly: permutations, and numbers with a given sum.

Every sequence that satisfies the constraint is equally likely, so no model can need fewer than

.. math:: \tfrac{1}{n} \log_2 N \text{ bits a variable}

for N such sequences of n variables; that is the row ``oracle`` of every table. They are the tasks of Lippe and Gavves
2021, "Categorical normalizing flows via continuous transformations" (arXiv 2006.09790). The examples are drawn with a
fixed seed of the data set, each split from its own stream of ``numpy.random.RandomState``.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Tensor

from bench.data.base import Data, Split
from bench.errors import UserError
from bench.schema import DataSpec, Kind
from bench.seeds import derive_seed

__all__ = ["Permutations", "Sequences", "Sums", "counts_of_sums", "set_shuffling", "set_summation"]

_SEED = 20250601
_VERSION = 1  # increase it when the same arguments give other examples
_LARGEST_TABLE = 2**22  # counts; gigabytes of integers of a thousand digits beyond


class Sequences(ABC):
    """All sequences of n categories that satisfy a constraint, equally likely. Subclasses are frozen and final."""

    n: int
    levels: int

    @property
    @abstractmethod
    def log_number(self) -> float:
        """log N, the number of such sequences."""

    @abstractmethod
    def draw(self, size: int, rng: RandomState) -> NDArray[np.uint8]:
        """Return independent sequences, ``(size, n)``."""

    @abstractmethod
    def valid(self, x: Tensor) -> Tensor:
        """Return which sequences satisfy the constraint, ``(B, n) -> (B,)`` bool."""

    def log_density(self, x: Tensor) -> Tensor:
        """Return log p(x), -log N or minus infinity: ``(B, n) -> (B,)`` float64."""
        mass = torch.tensor([-math.inf, -self.log_number], dtype=torch.float64)
        return mass[self.valid(x).long().cpu()]


@dataclass(frozen=True)
class Permutations(Sequences):
    """Each of n categories once: N = n!."""

    n: int

    @property
    def levels(self) -> int:  # type: ignore[override]
        return self.n

    @property
    def log_number(self) -> float:
        return math.lgamma(self.n + 1)

    def draw(self, size: int, rng: RandomState) -> NDArray[np.uint8]:
        return rng.random_sample((size, self.n)).argsort(1).astype(np.uint8)

    def valid(self, x: Tensor) -> Tensor:
        return (x.long().sort(1).values == torch.arange(self.n, device=x.device)).all(1)


@dataclass(frozen=True)
class Sums(Sequences):
    """Numbers from 1 to L that sum to ``total``; category k is the number k + 1."""

    n: int
    levels: int
    total: int

    @property
    def log_number(self) -> float:
        return math.log(counts_of_sums(self.n, self.levels, self.total)[self.n][self.total])

    def draw(self, size: int, rng: RandomState) -> NDArray[np.uint8]:
        counts = counts_of_sums(self.n, self.levels, self.total)
        left = np.full(size, self.total)
        x = np.empty((size, self.n), dtype=np.uint8)
        for i in range(self.n):
            # A value is as likely as there are ways for the variables after this one to make up the rest.
            ways = _log_counts(counts[self.n - i - 1], left, self.levels)  # (size, L)
            weights = np.exp(ways - ways.max(1, keepdims=True)).cumsum(1)
            x[:, i] = (weights[:, :-1] <= rng.random_sample((size, 1)) * weights[:, -1:]).sum(1)
            left = left - 1 - x[:, i]
        return x

    def valid(self, x: Tensor) -> Tensor:
        return (x.long() + 1).sum(1) == self.total


def set_shuffling(
    n: int = 16, n_train: int = 50_000, n_val: int = 5_000, n_test: int = 10_000, *, as_numbers: bool = False
) -> Data:
    r"""Return random orders of n categories, ``(N, n)`` uint8: :math:`\tfrac1n \log_2 n!` bits a variable.

    The best model of independent entries needs :math:`\log_2 n`. Of another n than 16 the set is called by it, such as
    ``set_shuffling_4``: tables never mix them.

    Arguments:
        n: Variables and categories, 2 to 256.
        n_train, n_val, n_test: Sizes of the splits.
        as_numbers: Call the categories numbers, so that models of numbers take the same examples: a baseline for models
            that treat them as categories.

    Raises:
        UserError: An argument is out of range.
    """
    _within("n", n, 2, 256)
    name = "set_shuffling" if n == 16 else f"set_shuffling_{n}"
    return _make("set_shuffling", name, Permutations(n), (n_train, n_val, n_test), as_numbers)


def set_summation(
    n: int = 16,
    values: int = 16,
    total: int = 42,
    n_train: int = 50_000,
    n_val: int = 5_000,
    n_test: int = 10_000,
    *,
    as_numbers: bool = False,
) -> Data:
    """Return sequences of n numbers from 1 to ``values`` that sum to ``total``, ``(N, n)`` uint8; category k is k + 1.

    Of other arguments than the published 16, 16 and 42 the set is called by them, such as ``set_summation_8_8_20``.

    Arguments:
        n: Variables, at least 1.
        values: Categories, 2 to 256.
        total: What every sequence sums to, from n to n times ``values``.
        n_train, n_val, n_test: Sizes of the splits.
        as_numbers: As for ``set_shuffling``.

    Raises:
        UserError: An argument is out of range.
    """
    _within("n", n, 1, 1000)
    _within("values", values, 2, 256)
    _within("total", total, n, n * values)
    if n * total > _LARGEST_TABLE:
        raise UserError(f"data: n={n} times total={total} is more than {_LARGEST_TABLE} counts; choose a smaller one")
    name = "set_summation" if (n, values, total) == (16, 16, 42) else f"set_summation_{n}_{values}_{total}"
    return _make("set_summation", name, Sums(n, values, total), (n_train, n_val, n_test), as_numbers)


def counts_of_sums(n: int, values: int, total: int) -> list[list[int]]:
    """Return how many sequences of m numbers from 1 to ``values`` sum to s, for m = 0 .. n and s = 0 .. total.

    Exact integers, however large: ``counts_of_sums(...)[m][s]``.
    """
    counts = [[1] + [0] * total]
    for _ in range(n):
        before, after, window = counts[-1], [0] * (total + 1), 0
        for s in range(1, total + 1):
            window += before[s - 1] - (before[s - 1 - values] if s > values else 0)
            after[s] = window
        counts.append(after)
    return counts


def _log_counts(counts: list[int], left: NDArray[np.int64], values: int) -> NDArray[np.float64]:
    """Return the logarithms of ``counts`` at left - 1 .. left - values, ``(size, values)``; -inf where they are 0."""
    logs = np.array([math.log(count) if count else -math.inf for count in counts])
    rest = left[:, None] - 1 - np.arange(values)
    return np.where(rest >= 0, logs[rest.clip(0)], -math.inf)


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UserError(f"data.{name}={value}: must be from {least} to {most}")


def _make(task: str, name: str, sequences: Sequences, sizes: tuple[int, int, int], as_numbers: bool) -> Data:
    """Return the examples of a task, called ``name``."""
    for split, size in zip(("n_train", "n_val", "n_test"), sizes, strict=True):
        _within(split, size, 1, 10_000_000)
    train, val, test = (
        Split(torch.from_numpy(sequences.draw(size, RandomState(derive_seed(_SEED, task, split) % 2**32))))
        for size, split in zip(sizes, ("train", "val", "test"), strict=True)
    )
    recipe = repr((task, sequences, sizes, _SEED, _VERSION))
    kind = Kind.NUMBERS if as_numbers else Kind.CATEGORIES
    spec = DataSpec(
        name, hashlib.sha256(recipe.encode()).hexdigest()[:16], (sequences.n,), sequences.levels, *sizes,
        licence="none needed: generated", source="generated, after Lippe and Gavves 2021", kind=kind,
    )  # fmt: skip
    return Data(spec, train, val, test, log_density=sequences.log_density, valid=sequences.valid)
