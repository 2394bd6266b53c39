"""A small TorchScript network in the place of large ones."""

import hashlib
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.data.bytes.cache import DataFile
from bench.features import inception

__all__ = ["Means", "saved", "stand_in"]


class Means(nn.Module):
    """Mean and extremes of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3)), x.amin((2, 3))], 1)


def saved(path: Path) -> Path:
    """A TorchScript file of ``Means``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
        torch.jit.save(torch.jit.script(Means()), path)
    return path


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let ``Means`` count as Inception's file, which no source has: ``folder/default_1.pt``. The cache is empty."""
    path = saved(folder / "default_1.pt")
    content = path.read_bytes()
    known = DataFile(path.name, hashlib.sha256(content).hexdigest(), len(content))
    monkeypatch.setattr(inception, "WEIGHTS", known)
    monkeypatch.setattr(inception, "_SOURCES", ())
    monkeypatch.setenv("GENBENCH_CACHE", str(folder / "cache"))
    return path
