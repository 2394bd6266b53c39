"""How a process is set before it trains or measures."""

import torch

from bench.memory import keep_freed_memory

__all__ = ["set_up_process"]


def set_up_process() -> None:
    """Compute in float32, by algorithms that give the same bits every time, and keep freed memory.

    cuDNN's default reads 10 bits of mantissa, too few to invert a flow, and may sum gradients in any order, so that a
    resumed run would not equal one that was never interrupted. An environment may set the same for products.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    keep_freed_memory()
