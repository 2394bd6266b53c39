"""The largest memory that tensors took on a CUDA device."""

import torch

__all__ = ["forget_peak", "peak_memory"]


def peak_memory(device: torch.device) -> int | None:
    """Largest number of bytes of all tensors together since ``forget_peak``; None on any other device than CUDA.

    On a CPU a process's memory is mostly that of libraries and data, and says little of a model.
    """
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def forget_peak(device: torch.device) -> None:
    """Let ``peak_memory`` begin with what is allocated now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
