"""Adam in one pass over each tensor."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

__all__ = ["fuse"]


def fuse(optimizers: Iterable[Optimizer]) -> None:
    """Let Adam and AdamW compute the step of each tensor in one pass over it; results agree to rounding.

    Without being told, torch makes a dozen passes, which take a fifth of a training step of a small network on a CPU.
    One that was told how to compute (``fused``, ``foreach``, ``differentiable``), or whose learning rate is a tensor,
    stays as it is, and so do groups with a parameter that is complex or has gaps in memory: the pass goes through
    memory in its order, whatever the strides (torch 2.13).
    """
    for optimizer in optimizers:
        if type(optimizer) in (Adam, AdamW):
            for group in optimizer.param_groups:
                free = group["fused"] is None and group["foreach"] is None and not group["differentiable"]
                if free and not isinstance(group["lr"], Tensor) and all(map(_can_be_fused, group["params"])):
                    group["fused"] = True
            optimizer.register_step_pre_hook(_lay_out_gradients)


def _can_be_fused(parameter: Tensor) -> bool:
    has_gaps = torch.empty_like(parameter, device="meta").stride() != parameter.stride()
    return parameter.is_floating_point() and not has_gaps


def _lay_out_gradients(optimizer: Optimizer, *_: Any) -> None:
    """Give gradients that a model has set itself the strides of their parameters, as ``backward`` does."""
    for group in optimizer.param_groups:
        if group["fused"]:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None and gradient.stride() != parameter.stride():
                    parameter.grad = torch.empty_like(parameter).copy_(gradient)
