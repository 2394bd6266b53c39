"""An exponential moving average of weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["EMA"]


class EMA:
    r"""Average of a module's parameters over the steps of the optimizer that owns them.

    .. math:: \bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t)\,\theta_t, \qquad d_t = \min(d, (t - 1) / (t + 8))

    It starts at the weights after the first step, since d_1 = 0: neither random initial weights nor those that the
    first batch sets (activation normalization) belong in it, and the ramp keeps early ones out of short runs. Buffers
    (batch-norm statistics) are not averaged: they are averages already. Steps of other optimizers (a critic's) do not
    count.

    Arguments:
        module: Whose parameters are averaged.
        optimizers: Among which the one that owns them is found.
        decay: d in (0, 1).
    """

    def __init__(self, module: nn.Module, optimizers: list[Optimizer], decay: float) -> None:
        self.parameters: list[Tensor] = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay
        self.updates = 0
        owned = {id(parameter) for parameter in self.parameters}
        for optimizer in optimizers:
            if any(id(p) in owned for group in optimizer.param_groups for p in group["params"]):
                optimizer.register_step_post_hook(self._update)

    @torch.no_grad()
    def _update(self, *_: Any) -> None:
        self.updates += 1
        decay = min(self.decay, (self.updates - 1) / (self.updates + 8))
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within: the module has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.average, strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        saved: list[Tensor] = state["average"]
        for average, value in zip(self.average, saved, strict=True):
            average.copy_(value)
