"""A small TorchScript network in the place of large ones, and pictures that a classifier learns in seconds."""

import hashlib
import warnings
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from bench.data.base import Data, Split
from bench.data.bytes.cache import DataFile
from bench.features import inception
from bench.schema import DataSpec

__all__ = ["Means", "bars", "saved", "stand_in", "toy"]


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


def bars(n: int, seed: int, size: int = 8) -> Split:
    """Pictures of a horizontal or a vertical bar in noise."""
    g = Generator().manual_seed(seed)
    y = torch.randint(2, (n,), generator=g)
    x = torch.randint(60, (n, 1, size, size), generator=g)
    place = torch.randint(2, size - 2, (n,), generator=g)
    for i in range(n):
        x[i, 0, place[i]] += 120 * (y[i] == 0)
        x[i, 0, :, place[i]] += 120 * (y[i] == 1)
    return Split(x.to(torch.uint8), y)


def toy(seed: int = 0, name: str = "bars", size: int = 8) -> Data:
    spec = DataSpec(name, "r1", (1, size, size), 256, 300, 50, 100, 2)
    return Data(spec, bars(300, seed, size), bars(50, seed + 1, size), bars(100, seed + 2, size))
