"""Samples as a picture and as the array it was drawn from."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from bench.files import durable_write

__all__ = ["draw_comparison", "draw_samples", "image_grid"]

GRID = 8  # images on a side
POINTS = 2000


def draw_samples(samples: Tensor, levels: int | None, path: Path) -> None:
    """Write ``<path>.npz`` with all samples and ``<path>.png`` with the first ones.

    Images: a grid of the first 64, black to white from 0 to the highest of the data's levels. Vectors: a scatter plot
    of their first two coordinates (a histogram for D = 1).
    """
    array = io.BytesIO()
    np.savez_compressed(array, samples=samples.numpy(), levels=np.int64(levels or 0))
    durable_write(path.with_suffix(".npz"), array.getvalue())
    shown = samples.numpy()[: GRID * GRID]
    picture = _plot(samples.numpy()) if levels is None or shown.ndim != 4 else image_grid(shown, levels)
    png = io.BytesIO()
    picture.save(png, format="PNG")
    durable_write(path.with_suffix(".png"), png.getvalue())


def draw_comparison(saved: Mapping[str, Path], path: Path) -> None:
    """One panel for each model's samples, in one picture.

    Arguments:
        saved: Title of each panel and the ``.npz`` that ``draw_samples`` wrote.
        path: Of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(saved))
    rows = math.ceil(len(saved) / columns)
    figure = Figure(figsize=(3.2 * columns, 3.45 * rows), dpi=100, layout="constrained")
    for index, (title, file) in enumerate(saved.items()):
        with np.load(file, allow_pickle=False) as stored:
            array, levels = stored["samples"], int(stored["levels"])
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_title(title)
        if array.ndim == 4 and levels:
            axes.imshow(np.asarray(image_grid(array[:36], levels, columns=6)), interpolation="nearest")
            axes.set_axis_off()
        else:
            _scatter(axes, array)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    durable_write(path, png.getvalue())


def image_grid(images: np.ndarray[Any, Any], levels: int, columns: int = GRID, gap: int = 2) -> Image.Image:
    """``(N, C, H, W)`` integers 0 .. levels-1 as one picture at least 200 pixels wide; of two channels the first."""
    n, channels, height, width = images.shape
    shown = images[:, :3] if channels >= 3 else np.repeat(images[:, :1], 3, axis=1)
    pixels = (shown.astype(np.float64) * 255 / (levels - 1)).round().clip(0, 255).astype(np.uint8)
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 128, np.uint8)
    for index, image in enumerate(pixels):
        y, x = gap + index // columns * (height + gap), gap + index % columns * (width + gap)
        sheet[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet)
    scale = max(1, math.ceil(200 / picture.width))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _plot(points: np.ndarray[Any, Any]) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    _scatter(figure.add_subplot(), points)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _scatter(axes: Any, points: np.ndarray[Any, Any]) -> None:
    flat = points[:POINTS].reshape(len(points[:POINTS]), -1).astype(np.float64)
    if flat.shape[1] == 1:
        axes.hist(flat[:, 0], bins=50)
    else:
        axes.scatter(flat[:, 0], flat[:, 1], s=2, linewidths=0)
        axes.set_aspect("equal")
