"""The order in which pictures lie in memory."""

import torch
from torch import Tensor

__all__ = ["channels_last_on_cpu"]


def channels_last_on_cpu(x: Tensor) -> Tensor:
    """Pictures ``(B, C, H, W)`` with the channels of a pixel side by side, on a CPU; on other devices as they are.

    Convolutions of such pictures give such pictures, and take about 0.7 times as long on a CPU. On a GPU in float32 the
    deterministic ones take longer. Of one channel both orders are the same, so convert what has several.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x
