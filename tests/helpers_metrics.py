"""A context for metrics, filled in by hand."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.schema import DataSpec

EMPTY = torch.zeros(0)


@dataclass(frozen=True)
class FakeExtractor:
    """Features of an example: its entries. Probabilities: their softmax."""

    name: str = "toy-cnn"
    hash: str = "abc"
    accuracy: float = 0.99
    n_test: int = 500

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()

    def probabilities(self, x: Tensor) -> Tensor:
        return self.features(x).softmax(dim=1)


@dataclass(frozen=True)
class FakeContext:
    spec: DataSpec
    real: Tensor = EMPTY
    held_out: Tensor = EMPTY
    samples: Tensor = EMPTY
    log_weights: Tensor = EMPTY
    relation: str = "exact"
    extractor: FakeExtractor = FakeExtractor()
    seed: int = 0
    costs: dict[str, float] = field(default_factory=dict)

    def features(self, x: Tensor) -> Tensor:
        return self.extractor.features(x)

    def probabilities(self, x: Tensor) -> Tensor:
        return self.extractor.probabilities(x)


def spec(dim: int, levels: int | None = None) -> DataSpec:
    return DataSpec("toy", "0", (dim,), levels, 1000, 500, 500, 10)
