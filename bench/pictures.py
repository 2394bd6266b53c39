"""Samples as a picture and as the array it was drawn from."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from bench.files import durable_write

__all__ = ["draw_samples", "image_grid"]

GRID = 8  # images on a side
POINTS = 2000


def draw_samples(samples: Tensor, path: Path) -> None:
    """Write ``<path>.npy`` with all samples and ``<path>.png`` with the first ones.

    Images: a grid of the first 64. Vectors: a scatter plot of their first two coordinates (a histogram for D = 1).
    """
    array = io.BytesIO()
    np.save(array, samples.numpy(), allow_pickle=False)
    durable_write(path.with_suffix(".npy"), array.getvalue())
    if samples.dim() == 4:
        top = 1 if samples.dtype.is_floating_point else max(1, int(samples.max()))
        picture = image_grid(samples[: GRID * GRID], levels=2 if top == 1 else 256)
    else:
        picture = _plot(samples[:POINTS].flatten(1).float().numpy())
    png = io.BytesIO()
    picture.save(png, format="PNG")
    durable_write(path.with_suffix(".png"), png.getvalue())


def image_grid(images: Tensor, levels: int = 256, columns: int = GRID, gap: int = 2) -> Image.Image:
    """``(N, C, H, W)`` integer levels as one picture at least 200 pixels wide; of two channels the first."""
    n, channels, height, width = images.shape
    shown = images[:, :3] if channels >= 3 else images[:, :1].expand(n, 3, height, width)
    pixels = (shown.float() * 255 / (levels - 1)).round().clamp(0, 255).byte().numpy()
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 128, np.uint8)
    for index, image in enumerate(pixels):
        top, left = (gap + (index // columns) * (height + gap), gap + (index % columns) * (width + gap))
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet)
    scale = max(1, math.ceil(200 / picture.width))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _plot(points: np.ndarray) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if points.shape[1] == 1:
        axes.hist(points[:, 0], bins=50)
    else:
        axes.scatter(points[:, 0], points[:, 1], s=2, linewidths=0)
        axes.set_aspect("equal")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
