"""Memory of tensors: how much they take on a CUDA device, and what the CPU does with what is freed."""

import ctypes
import os

import torch

__all__ = ["allocated", "forget_peak", "keep_freed_memory", "peak_memory", "room_for_twice"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
THRESHOLDS = ("trim_threshold", "mmap_threshold")
"""Their names in the environment: MALLOC_TRIM_THRESHOLD_, or glibc.malloc.trim_threshold in GLIBC_TUNABLES."""
KEPT = 1 << 30  # bytes
KEPT_BY_OLD_ONES = 1 << 25  # the largest block that old glibcs accept


def allocated(device: torch.device) -> int:
    """Number of bytes of all tensors together, now; 0 on any other device than CUDA."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak_memory(device: torch.device) -> int | None:
    """Largest number of bytes of all tensors together since ``forget_peak``; None on any other device than CUDA.

    On a CPU a process's memory is mostly that of libraries and data, and says little of a model.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def forget_peak(device: torch.device) -> None:
    """Let ``peak_memory`` begin with what is allocated now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def room_for_twice(device: torch.device) -> bool:
    """Whether more than twice what this process holds on a CUDA device is still free there."""
    free, _ = torch.cuda.mem_get_info(device)
    return torch.cuda.memory_reserved(device) < free / 2


def keep_freed_memory() -> None:
    """Let this process keep freed memory for the next tensors, up to 1 GiB at the end of the heap, and all before it.

    Works with glibc; elsewhere does nothing. Each training step asks for the same tensors again. glibc gives blocks
    back to the kernel when 64 MiB at the end of the heap are free, and each page that comes back costs a fault and is
    filled with zeros: 0 to 28 % of a step (results/benchmarks/allocator.csv). No number changes by a bit. Thresholds
    that the environment sets stay.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(f"MALLOC_{name.upper()}_" in os.environ or f"glibc.malloc.{name}=" in tunables for name in THRESHOLDS):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return
    for size in (KEPT, KEPT_BY_OLD_ONES):  # what is larger has pages of its own, which go back when it is freed
        if mallopt(M_MMAP_THRESHOLD, size):
            # Alone it would slow steps down: glibc then no longer raises the first threshold, which starts at 128 KiB.
            mallopt(M_TRIM_THRESHOLD, KEPT)
            return
