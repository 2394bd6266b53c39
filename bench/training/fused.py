"""Adam in one pass over each tensor."""

from collections.abc import Iterable

from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

__all__ = ["fuse"]


def fuse(optimizers: Iterable[Optimizer]) -> None:
    """Let Adam and AdamW compute the step of each tensor in one pass over it; results agree to rounding.

    Without being told, torch makes a dozen passes, which take a fifth of a training step of a small network on a CPU.
    One that was told how to compute (``fused``, ``foreach``, ``differentiable``), or whose learning rate is a tensor,
    stays as it is.
    """
    for optimizer in optimizers:
        if type(optimizer) in (Adam, AdamW):
            for group in optimizer.param_groups:
                free = group["fused"] is None and group["foreach"] is None and not group["differentiable"]
                if free and not isinstance(group["lr"], Tensor):
                    group["fused"] = True
