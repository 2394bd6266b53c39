"""An exponential moving average of weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["EMA"]


class EMA:
    r"""Averages a module's parameters over the steps of the optimizer that owns them.

    .. math:: \bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t)\,\theta_t, \qquad d_t = \min(d, (t - 1) / (t + 8))

    Since d_1 = 0, the average starts at the weights after the first step. It does not include the random initial
    weights, nor weights before activation normalization has been initialized by the first batch. The ramp of d_t
    reduces the influence of early weights in short runs. Buffers (batch-norm statistics) are not averaged, because they
    are already averages. Steps of other optimizers (such as a critic's) do not count.

    Arguments:
        module: The module whose parameters are averaged.
        optimizers: All optimizers; those that own parameters of the module trigger the averaging.
        decay: d in (0, 1).
        capturable: Count t on the parameters' device, so that an update that is replayed from a graph counts on.
    """

    def __init__(
        self, module: nn.Module, optimizers: list[Optimizer], decay: float, *, capturable: bool = False
    ) -> None:
        self.parameters: list[Tensor] = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay
        self.updates: int | Tensor = 0
        if capturable:
            self.updates = torch.zeros((), dtype=torch.int64, device=self.average[0].device)
        owned = {id(parameter) for parameter in self.parameters}
        for optimizer in optimizers:
            if any(id(p) in owned for group in optimizer.param_groups for p in group["params"]):
                optimizer.register_step_post_hook(self._update)

    @torch.no_grad()
    def _update(self, *_: Any) -> None:
        self.updates += 1
        if isinstance(self.updates, Tensor):
            count = self.updates.double()
            weight = 1 - ((count - 1) / (count + 8)).clamp(max=self.decay)
            steps = torch._foreach_sub(self.parameters, self.average)
            torch._foreach_mul_(steps, weight.to(steps[0].dtype))
            torch._foreach_add_(self.average, steps)
        else:
            decay = min(self.decay, (self.updates - 1) / (self.updates + 8))
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @property
    def tensors(self) -> list[Tensor]:
        """What an update changes on the device."""
        return [*self.average, *([self.updates] if isinstance(self.updates, Tensor) else [])]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Give the module the averaged weights inside the block."""
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
        return {"average": self.average, "updates": int(self.updates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self.updates, Tensor):
            self.updates.fill_(int(state["updates"]))
        else:
            self.updates = int(state["updates"])
        saved: list[Tensor] = state["average"]
        for average, value in zip(self.average, saved, strict=True):
            average.copy_(value)
