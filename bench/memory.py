"""How much memory tensors take on a CUDA device."""

import torch

__all__ = ["allocated", "forget_peak", "peak_memory", "room_for_twice"]


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
    """Whether a CUDA device has room for twice what this process holds, and would still be half empty beside."""
    free, _ = torch.cuda.mem_get_info(device)
    return torch.cuda.memory_reserved(device) < free / 2
