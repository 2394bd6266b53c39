"""The features of real examples and of a subject's samples, checked: where metrics that compare two sets begin."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.errors import BrokenError
from bench.features.base import Recipe
from bench.subjects.examples import Examples

__all__ = ["TwoSets", "two_sets"]


@dataclass(frozen=True)
class TwoSets:
    """Finite features of the test split ``(N, D)`` and of samples ``(M, D)``.

    Attributes:
        about: The fields of an ``Estimate`` that say what it was measured on.
    """

    real: Tensor
    fake: Tensor
    about: dict[str, Any]


def two_sets(examples: Examples, recipe: Recipe, n_samples: int, least: int = 2) -> TwoSets:
    """Return the features of the test split and of ``n_samples`` samples.

    Arguments:
        least: Number of examples that either side must have.

    Raises:
        UnavailableError: There are no samples, or no such features for these data.
        BrokenError: A side has too few examples, or features that are not finite.
    """
    examples.need(recipe)
    test, samples = examples.real, examples.samples(n_samples)
    extractor = examples.extractor(recipe)
    real, fake = examples.features(extractor, test), examples.features(extractor, samples)
    if min(len(real), len(fake)) < least:
        raise BrokenError(f"needs at least {least} real examples and {least} samples, not {len(real)} and {len(fake)}")
    if not bool(torch.isfinite(fake).all() and torch.isfinite(real).all()):
        raise BrokenError("features are not finite")
    about = {
        "n_real": len(real), "n_fake": len(fake), "extractor": extractor.name, "extractor_hash": extractor.hash,
    }  # fmt: skip
    return TwoSets(real, fake, about)
