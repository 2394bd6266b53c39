"""Pictures of stored samples and densities, for those who look at results. Needs no torch."""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.errors import UserError
from bench.files import durable_write
from bench.regular import open_regular

__all__ = ["GRID", "draw_comparison", "image_grid", "rendered", "scatter"]

GRID = 8  # images on a side
POINTS = 2000
_LARGEST_SAMPLES = 8 << 30  # bytes


def draw_comparison(saved: Mapping[tuple[str, str], Path], path: Path) -> None:
    """Every model's samples, or its density of the plane, in one picture.

    One data set: a panel for each model, three in a row. Several: a row for each model, a column for each data set.
    Where true densities are known, they come first; densities of one data set have one scale, the truth's. Brightness
    is the cube root of the density: beside narrow modes, all else would be black.

    Arguments:
        saved: By model and data set, the ``.npz`` that ``draw_samples`` wrote.
        path: Of the PNG.
    """
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str], dict[str, np.ndarray[Any, Any]]] = {}
    for key, file in saved.items():
        panels[key] = _arrays(file)
    truths = {("truth", data): {**panel, "density": panel["truth"]} for (_, data), panel in panels.items()
              if "truth" in panel}  # fmt: skip
    panels = truths | panels
    models, data_sets = (list(dict.fromkeys(names)) for names in zip(*panels, strict=True))
    if len(data_sets) == 1:
        columns, width, height = min(3, len(models)), 3.2, 3.45
        places = {(model, data_sets[0]): index for index, model in enumerate(models)}
    else:
        columns, width, height = len(data_sets), 1.6, 1.5
        places = {(model, data): columns * models.index(model) + data_sets.index(data) for model, data in panels}
    rows = max(places.values()) // columns + 1
    figure = Figure(figsize=(width * columns, height * rows), dpi=100, layout="constrained")
    for (model, data), place in places.items():
        axes = figure.add_subplot(rows, columns, place + 1)
        if len(data_sets) == 1:
            axes.set_title(f"{model} ({data})")
        else:
            axes.set_title(data if model == models[0] else "", fontsize=8)
            axes.set_ylabel(model, fontsize=8)
        panel = panels[model, data]
        _draw_panel(axes, panel, panel.get("truth", panel.get("density")))
        axes.set(xticks=[], yticks=[])
    picture = rendered(figure)
    if all("density" in panel for panel in panels.values()):  # one colour map: a palette halves the file
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    png = io.BytesIO()
    picture.save(png, format="PNG", optimize=True)
    durable_write(path, png.getvalue())


def _arrays(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an ``.npz``.

    Raises:
        UserError: It is damaged or no regular file, or unpacks to more than samples can be.
    """
    try:
        with open_regular(file) as stream, zipfile.ZipFile(stream) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _LARGEST_SAMPLES:
                raise UserError(f"{file}: unpacks to more than {_LARGEST_SAMPLES >> 30} GiB; move it away")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: is damaged ({error}); move it away") from error


def _draw_panel(axes: Any, panel: dict[str, np.ndarray[Any, Any]], scale: np.ndarray[Any, Any] | None) -> None:
    array, levels = panel["samples"], int(panel["levels"])
    if "density" in panel and scale is not None:
        from matplotlib.colors import PowerNorm

        brightness = PowerNorm(1 / 3, 0, scale.max())
        axes.imshow(panel["density"], origin="lower", extent=panel["extent"], norm=brightness, cmap="viridis")
    elif array.ndim == 4 and levels:
        axes.imshow(np.asarray(image_grid(array[:36], levels, columns=6)), interpolation="nearest")
        axes.spines[:].set_visible(False)
    else:
        scatter(axes, array)
        if "extent" in panel:
            axes.set(xlim=panel["extent"][:2], ylim=panel["extent"][2:])


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


def rendered(figure: Any) -> Image.Image:
    """A matplotlib figure as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def scatter(axes: Any, points: np.ndarray[Any, Any]) -> None:
    """Draw the first two coordinates of the first points (a histogram where there is only one)."""
    flat = points[:POINTS].reshape(len(points[:POINTS]), -1).astype(np.float64)
    if flat.shape[1] == 1:
        axes.hist(flat[:, 0], bins=50)
    else:
        axes.scatter(flat[:, 0], flat[:, 1], s=2, linewidths=0)
        axes.set_aspect("equal")
