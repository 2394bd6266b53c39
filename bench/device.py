"""The GPU where there is one: what is computed there, and with which arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["full_float32", "on_fastest", "on_gpu"]

COPIES = 8
"""Of all sets in float64: what comparing them takes at most at a time, beside blocks of pairs."""
BLOCKS = 2 << 30
"""Bytes that blocks of pairs take."""


def on_fastest() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_gpu(*sets: Tensor) -> tuple[Tensor, ...]:
    """Return sets of features on the GPU, where there is one with room to compare them; otherwise as they are."""
    device = on_fastest()
    if device.type == "cuda" and _free(device) < BLOCKS + COPIES * 8 * sum(one.numel() for one in sets):
        return sets
    return tuple(one.to(device) for one in sets)


def _free(device: torch.device) -> int:
    """Bytes that are free on a CUDA device, and those that torch holds for later tensors."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside the block CUDA computes in float32 with all its bits, by algorithms that give the same ones every time.

    TF32 reads 10 bits of mantissa of 23.
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = products.allow_tf32, convolutions.allow_tf32, convolutions.deterministic, convolutions.benchmark
    products.allow_tf32, convolutions.allow_tf32 = False, False
    convolutions.deterministic, convolutions.benchmark = True, False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before[:2]
        convolutions.deterministic, convolutions.benchmark = before[2:]
