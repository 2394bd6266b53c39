"""A reference: examples that somebody brings, or their mean and covariance, in place of a data set's test split."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.data.base import Data, Split, titled
from bench.data.formats.moments import Moments, holds_moments, read_moments
from bench.data.formats.samples import read_samples, sha256_of, spec_of
from bench.schema import DataSpec
from bench.titles import title_of

__all__ = ["Reference", "read_reference"]


@dataclass(frozen=True)
class Reference:
    """Examples ``(N, *shape)`` in the data's own space, or the mean and the covariance of features.

    Attributes:
        name: ``reference`` or ``reference-TITLE``, as rows call it.
        spec: Of the data that the examples are of; without a data set that of the examples, or of the samples.
        x: The examples; none ``(0, *shape)`` with ``moments``.
        moments: Instead of examples.
    """

    name: str
    spec: DataSpec
    x: Tensor
    moments: Moments | None = None

    @property
    def revision(self) -> str:
        """The first 16 digits of the SHA-256 of the examples, or of mean and covariance."""
        return (sha256_of(self.x) if self.moments is None else self.moments.sha256)[:16]

    def as_data(self) -> Data:
        """Data whose test split is the reference. The other splits are empty, and there are no labels."""
        spec = DataSpec(self.name, self.revision, self.spec.shape, self.spec.levels, 0, 0, len(self.x))
        none = Split(self.x[:0])
        return Data(spec, train=none, val=none, test=Split(self.x), moments=self.moments)

    def in_place_of_test(self, data: Data) -> Data:
        """A data set with the reference as its only held-out examples.

        Its training split, its modes and the extractors that are learned from it stay; a density of its own does not
        belong to the reference. Rows have another split and another revision, so they share no cell with other ones.
        """
        revision = hashlib.sha256(f"{data.spec.revision}\n{self.revision}".encode()).hexdigest()[:16]
        spec = replace(data.spec, revision=revision, n_val=0, n_test=len(self.x))
        return replace(
            data, spec=spec, val=Split(self.x[:0]), test=Split(self.x), log_density=None, moments=self.moments,
            split=self.name, learned=data,
        )  # fmt: skip


def read_reference(path: Path, spec: DataSpec | None, shown: Callable[[], DataSpec]) -> Reference:
    """Read a reference: what ``read_samples`` reads, or an ``.npz`` file with the arrays ``mu`` and ``sigma``.

    Arguments:
        spec: Of the data set that it belongs to. None: it has the kind that its arrays or pictures show.
        shown: The kind that the samples show, for a mean and a covariance without a data set.

    Raises:
        UserError: As ``read_samples`` and ``read_moments``.
    """
    name = titled("reference", title_of(str(path)))
    if holds_moments(path):
        moments = read_moments(path)
        spec = shown() if spec is None else spec
        dtype = torch.float32 if spec.levels is None else torch.uint8
        return Reference(name, spec, torch.empty(0, *spec.shape, dtype=dtype), moments)
    spec = spec_of(path, name, "reference") if spec is None else spec
    return Reference(name, spec, read_samples(path, spec, "reference"))
