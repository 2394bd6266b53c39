"""The contract of probes: what a run asks to see of its training, without the trainer knowing what that is."""

from collections.abc import Callable, Sequence

import torch

from bench.checkpoint import Progress
from bench.data.base import Data
from bench.tables.curves import Panel
from models.base import GenerativeModel

__all__ = ["Panel", "Probe"]


class Probe:
    """Looks on at every training step and every validation. A probe changes nothing: training gives the same bits.

    It is one YAML in conf/probe and a subclass of this class, which overrides what it needs. A step of a small model
    takes less than a millisecond, so ``step`` should not wait for the device.
    """

    title: str = ""
    """Stands above its picture, before the names of model and data."""

    def begin(self, model: GenerativeModel, data: Data, note: Callable[[str], None]) -> str:
        """Called once before training, or before training goes on.

        Arguments:
            note: Told a line where something takes a while.

        Returns:
            Why the probe does not apply to this model or these data, in one line: the run goes on without it. The empty
            string where it applies.
        """
        return ""

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, torch.Tensor]) -> None:
        """Called after every optimizer step; ``outputs`` is what ``training_step`` returned, with its ``loss``."""

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        """Called after every validation, with the weights that were validated, in evaluation mode, without gradients.

        Buffers, modes and the global random numbers are put back afterwards. Other random numbers come from a generator
        of the probe's own.

        Returns:
            Numbers for the tracker and for the probe's curve, by name; they stand beside the loss and the validation
            score.
        """
        return {}

    def panels(self) -> Sequence[Panel]:
        """What its picture shows of the curve of those numbers; nothing: there is no picture."""
        return ()
