"""The contract of probes: what a run asks to see of its training, without the trainer knowing what that is."""

import torch

from bench.checkpoint import Progress
from models.base import GenerativeModel

__all__ = ["Probe"]


class Probe:
    """Looks on at every training step and every validation. A probe changes nothing: training gives the same bits.

    It is one YAML in conf/probe and a subclass of this class, which overrides what it needs. A step of a small model
    takes less than a millisecond, so ``step`` should not wait for the device.
    """

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, torch.Tensor]) -> None:
        """Called after every optimizer step; ``outputs`` is what ``training_step`` returned, with its ``loss``."""

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        """Called after every validation, with the weights that were validated.

        Returns:
            Numbers for the tracker, by name; they stand beside the loss and the validation score.
        """
        return {}
