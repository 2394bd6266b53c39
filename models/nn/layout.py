"""The order in which pictures lie in memory."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["channels_last_on_cpu"]


def channels_last_on_cpu(x: Tensor) -> Tensor:
    """Pictures ``(B, C, H, W)`` with the channels of a pixel side by side, on a CPU; on other devices as they are.

    Convolutions of such pictures give such pictures. On a CPU, training steps of Glow and of wide RealNVPs take 5 to
    8 % less time so. On a GPU in float32 the deterministic convolutions take longer. Of one channel both orders are the
    same, so convert what has several.

    Under ``vmap``, ``jvp`` and the other transforms of torch.func, pictures stay as they are: torch 2.13 has no rules
    for this order there.
    """
    return x if x.device.type != "cpu" or _transformed() else x.contiguous(memory_format=torch.channels_last)


def _transformed() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is under way."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
