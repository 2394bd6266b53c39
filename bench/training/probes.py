"""The probes included in genbench."""

import torch

from bench.checkpoint import Progress
from bench.probe import Probe
from models.base import GenerativeModel

__all__ = ["GradientNorm"]


class GradientNorm(Probe):
    r"""``gradient_norm``: the largest Euclidean norm of the gradient since the last validation.

    .. math:: \max_t \sqrt{\textstyle\sum_\theta \|\nabla_\theta L_t\|^2}

    It is the gradient that the step used, after clipping if clipping is on. For a model with several optimizers, every
    parameter contributes its latest gradient.
    """

    def __init__(self) -> None:
        self._largest: torch.Tensor | None = None

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, torch.Tensor]) -> None:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if gradients:
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.detach()) for g in gradients]))
            # Kept on the device, because reading the value would wait for the step.
            self._largest = norm if self._largest is None else torch.maximum(self._largest, norm)

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        largest, self._largest = self._largest, None
        return {} if largest is None else {"gradient_norm": float(largest)}
