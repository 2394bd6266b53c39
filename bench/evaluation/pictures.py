"""Samples, and densities of the plane, as pictures and as the arrays they were drawn from."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.files import durable_write
from bench.tables.pictures import GRID, image_grid, rendered, scatter

__all__ = ["Landscape", "draw_samples", "landscape"]

PIXELS = 160  # of a landscape's side

Landscape = dict[str, np.ndarray[Any, Any]]
"""``density`` (the model's) and ``truth``, those there are, ``(PIXELS, PIXELS)`` float32 with the lowest y first, and
``extent``, the square's left, right, lower and upper edge."""


def landscape(
    x: Tensor, log_density: Callable[[Tensor], Tensor] | None, truth: Callable[[Tensor], Tensor] | None
) -> Landscape:
    """A density over the square that holds the data ``x`` ``(N, 2)``, and the true one.

    Arguments:
        log_density, truth: ``(B, 2) -> (B,)`` nats; None where there is none.
    """
    low, high = x.min(0).values, x.max(0).values
    half = 0.55 * (high - low).max().item()
    left, lower = ((low + high) / 2 - half).tolist()
    offset = (torch.arange(PIXELS, dtype=torch.float32) + 0.5) * (2 * half / PIXELS)
    y, x = torch.meshgrid(lower + offset, left + offset, indexing="ij")
    points = torch.stack([x, y], -1).reshape(-1, 2)
    made: Landscape = {"extent": np.array([left, left + 2 * half, lower, lower + 2 * half])}
    for name, function in (("density", log_density), ("truth", truth)):
        if function is not None:
            log_p = torch.cat([function(chunk).double().cpu() for chunk in points.split(2000)])
            made[name] = log_p.exp().reshape(PIXELS, PIXELS).float().numpy()
    return made


def draw_samples(samples: Tensor, levels: int | None, path: Path, density: Landscape | None = None) -> None:
    """Write ``<path>.npz`` with all samples, and the landscape where there is one, and ``<path>.png``.

    Images: a grid of the first 64, black to white from 0 to the highest of the data's levels. Vectors: a scatter plot
    of their first two coordinates (a histogram for D = 1).
    """
    array = io.BytesIO()
    arrays: dict[str, Any] = {"samples": samples.numpy(), "levels": np.int64(levels or 0), **(density or {})}
    np.savez_compressed(array, **arrays)
    durable_write(path.with_suffix(".npz"), array.getvalue())
    shown = samples.numpy()[: GRID * GRID]
    picture = _plot(samples.numpy()) if levels is None or shown.ndim != 4 else image_grid(shown, levels)
    png = io.BytesIO()
    picture.save(png, format="PNG")
    durable_write(path.with_suffix(".png"), png.getvalue())


def _plot(points: np.ndarray[Any, Any]) -> Image.Image:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
    scatter(figure.add_subplot(), points)
    return rendered(figure)
