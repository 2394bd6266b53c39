"""Probes that keep what they see, and one that ends the training."""

import math

from torch import Tensor

from bench.checkpoint import Progress
from bench.probe import Probe
from bench.training.probes import GradientNorm
from models.base import GenerativeModel

__all__ = ["Kill", "KilledError", "Largest", "Watch"]


class Watch(Probe):
    """Keeps what it sees."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.norms: list[float] = []
        self.validations: list[tuple[int, float | None]] = []

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, Tensor]) -> None:
        assert outputs["loss"].ndim == 0
        self.steps.append(progress.examples_seen)
        squares = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
        self.norms.append(math.sqrt(squares))

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        self.validations.append((progress.examples_seen, score))
        return {"seen": float(progress.examples_seen)}


class Largest(GradientNorm):
    """Keeps what it would tell the tracker."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[float] = []

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        numbers = super().validated(model, progress, score)
        self.told.append(numbers["gradient_norm"])
        return numbers


class KilledError(Exception):
    """Stands for the end of the process."""


class Kill(Probe):
    """Ends the process, so to speak, at a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, Tensor]) -> None:
        if progress.steps == self.at:
            raise KilledError
