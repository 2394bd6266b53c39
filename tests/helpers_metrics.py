"""A context for metrics, filled in by hand."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.data.base import Modes
from bench.schema import DataSpec

EMPTY = torch.zeros(0)
ONE_MODE = Modes(1, lambda x: torch.zeros(len(x), dtype=torch.int64))


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
    cost_names: tuple[str, ...] = ()
    modes: Modes = ONE_MODE
    mode_classifier: str = ""
    mode_extractor: FakeExtractor | None = None

    def features(self, x: Tensor) -> Tensor:
        return self.extractor.features(x)

    def probabilities(self, x: Tensor) -> Tensor:
        return self.extractor.probabilities(x)


def spec(dim: int, levels: int | None = None) -> DataSpec:
    return DataSpec("toy", "0", (dim,), levels, 1000, 500, 500, 10)
