"""Pictures of stored samples and densities, for those who look at results. Needs no torch."""

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.errors import UserError
from bench.files import durable_write
from bench.regular import open_regular
from bench.tables.graph_pictures import draw_graphs
from bench.tables.layout import Layout, layout_of

__all__ = [
    "GRID", "POINTS", "draw_comparison", "image_grid", "limits_of", "rendered", "scatter", "ticked", "undisturbed",
]  # fmt: skip

GRID = 8  # images on a side
POINTS = 2000
_LARGEST_SAMPLES = 8 << 30  # bytes

Panel = dict[str, np.ndarray[Any, Any]]
"""What an ``.npz`` of ``draw_samples`` holds: ``samples``, ``levels``, and those of ``real``, ``columns``, ``density``,
``truth`` and ``extent`` that there are."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Draw with matplotlib's own settings inside the block.

    A ``matplotlibrc`` in the working folder, which may be a stranger's, would change colours and sizes or start LaTeX.
    """
    import matplotlib

    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        yield


@undisturbed()
def draw_comparison(
    saved: Mapping[tuple[str, str], Path], path: Path, numbers: Mapping[tuple[str, str], str] | None = None
) -> None:
    """Every model's samples, or its density of the plane, in one picture that a page holds.

    One data set: a panel for each model. Several: a row for each model, a column for each data set. The data come
    first: their true density where it is known, or else real examples. Samples of one data set share their axes, and
    its densities have one scale, the truth's. Brightness is the cube root of the density: beside narrow modes, all else
    would be black.

    Arguments:
        saved: By model and data set, the ``.npz`` that ``draw_samples`` wrote.
        path: Of the PNG.
        numbers: By model and data set, a short text to stand below the panel.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels: dict[tuple[str, str], Panel] = {}
    for key, file in saved.items():
        panels[key] = _arrays(file)
    references = _references(panels)
    numbers = numbers or {}
    axes_of = {data: _shared_axes(panels, references, data) for _, data in panels}
    whole = references | panels
    models, data_sets = (list(dict.fromkeys(names)) for names in zip(*whole, strict=True))
    layout = layout_of(len(models), len(data_sets), captioned=bool(numbers))
    close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(layout.width, layout.height), dpi=layout.dpi, layout=close)
    if layout.single:
        figure.suptitle(data_sets[0], fontsize=layout.font + 2)
    for (model, data), panel in whole.items():
        row, column = layout.place(models.index(model), data_sets.index(data))
        axes = figure.add_subplot(layout.rows, layout.columns, row * layout.columns + column + 1)
        _draw_panel(axes, panel, axes_of[data], layout)
        words = [numbers.get((model, data), ""), _outside(panel, axes_of[data])]
        if (model, data) in references and "columns" in panel and not layout.single:
            words = [" against ".join(str(name)[:24] for name in panel["columns"][1::-1])]
        caption = " · ".join(word for word in words if word)
        if layout.single:
            axes.set_title("\n".join([model, caption] if numbers else [model]), fontsize=layout.fitting(model))
        else:
            axes.set_title(data if row == 0 else "", fontsize=layout.fitting(data))
            axes.set_ylabel(model if column % len(data_sets) == 0 else "", fontsize=layout.fitting(model))
            axes.set_xlabel(caption, fontsize=layout.fitting(caption), labelpad=1)
    picture = rendered(figure)
    if all("density" in panel for panel in whole.values()):  # one colour map: a palette halves the file
        picture = picture.quantize(256, dither=Image.Dither.NONE)
    png = io.BytesIO()
    picture.save(png, format="PNG", optimize=True)
    durable_write(path, png.getvalue())


def _arrays(file: Path) -> Panel:
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


def _references(panels: Mapping[tuple[str, str], Panel]) -> dict[tuple[str, str], Panel]:
    """The data themselves, a panel for each data set of which a run has stored them."""
    made: dict[tuple[str, str], Panel] = {}
    name = "truth" if any("truth" in panel for panel in panels.values()) else "data"
    for (_, data), panel in panels.items():
        if "truth" in panel:
            made[name, data] = {**panel, "density": panel["truth"]}
        elif "real" in panel and (name, data) not in made:
            others = {key: value for key, value in panel.items() if key != "density"}
            made[name, data] = {**others, "samples": panel["real"]}
    return made


def _shared_axes(
    panels: Mapping[tuple[str, str], Panel], references: Mapping[tuple[str, str], Panel], data: str
) -> Panel:
    """The scale of densities and the limits of points that all panels of a data set have."""
    own = [panel for (_, name), panel in panels.items() if name == data]
    known = [panel for (_, name), panel in references.items() if name == data]
    shared: Panel = {}
    if known and "density" in known[0]:
        shared["scale"] = known[0]["density"].max()
    extents = [panel["extent"] for panel in own if "extent" in panel]
    points = [panel["samples"] for panel in known or own]
    if extents:
        shared["limits"] = np.asarray(extents[0], float).reshape(2, 2)
        shared["equal"] = np.asarray(True)
    elif points[0].ndim != 4:
        shared["limits"] = limits_of(np.concatenate([flat.reshape(len(flat), -1)[:, :2] for flat in points]))
    return shared


def limits_of(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``(2, 2)`` lower and upper ends of axes for the first two coordinates of ``(N, D)``, less a few far points."""
    flat = points.reshape(len(points), -1)[:, :2].astype(np.float64)
    finite = flat[np.isfinite(flat).all(1)]
    if not len(finite):
        return np.array([[0.0, 1.0]] * 2)
    low, high = np.quantile(finite, [0.002, 0.998], axis=0)
    room = np.maximum(0.08 * (high - low), 1e-9 + 1e-6 * np.abs(high))
    return np.stack([low - room, high + room], 1)[[0, -1]]


def _outside(panel: Panel, shared: Panel) -> str:
    """How many points the axes do not show, where that is more than a few."""
    if "limits" not in shared or "density" in panel or "graph" in panel:
        return ""
    flat = panel["samples"].reshape(len(panel["samples"]), -1)[:, :2].astype(np.float64)
    low, high = shared["limits"].T
    share = 1 - ((flat >= low[: flat.shape[1]]) & (flat <= high[: flat.shape[1]])).all(1).mean()
    return f"{share:.0%} outside" if share > 0.02 else ""


def _draw_panel(axes: Any, panel: Panel, shared: Panel, layout: Layout) -> None:
    array, levels = panel["samples"], int(panel["levels"])
    axes.set(xticks=[], yticks=[])
    if "density" in panel:
        from matplotlib.colors import PowerNorm

        brightness = PowerNorm(1 / 3, 0, shared.get("scale", panel["density"].max()))
        axes.imshow(panel["density"], origin="lower", extent=panel["extent"], norm=brightness, cmap="viridis")
    elif "graph" in panel:
        nodes, conflicts = panel["graph"].tolist()
        draw_graphs(axes, array, nodes, 4 if layout.single else 3, conflicts=bool(conflicts))
    elif array.ndim == 4 and levels:
        side = 6 if layout.single else 4
        axes.imshow(np.asarray(image_grid(array[: side**2], levels, columns=side)), interpolation="nearest")
        axes.spines[:].set_visible(False)
    else:
        scatter(axes, array, shared["limits"], equal="equal" in shared)
        if "equal" not in shared:
            ticked(axes, panel.get("columns"), layout.font - 2, named=layout.single)


def ticked(axes: Any, columns: np.ndarray[Any, Any] | None, font: float, *, named: bool = True) -> None:
    """Give the axes of points a few ticks and the names of their columns."""
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(3))
        axis.set_tick_params(labelsize=font, length=2, pad=1)
    names = ["column 1", "column 2"] if columns is None or not len(columns) else [str(name) for name in columns[:2]]
    for name, label in zip(names, (axes.set_xlabel, axes.set_ylabel), strict=False):
        if named:
            label(name if len(name) <= 24 else name[:23] + "…", fontsize=font, labelpad=1)


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


def scatter(axes: Any, points: np.ndarray[Any, Any], limits: np.ndarray[Any, Any], *, equal: bool = False) -> None:
    """Draw the first two coordinates of the first points within limits (a histogram where there is only one)."""
    flat = points[:POINTS].reshape(len(points[:POINTS]), -1).astype(np.float64)
    axes.set_xlim(*limits[0])
    if flat.shape[1] == 1:
        axes.hist(flat[np.isfinite(flat[:, 0]), 0], bins=50, range=tuple(limits[0]))
        return
    axes.scatter(flat[:, 0], flat[:, 1], s=2, linewidths=0)
    axes.set_ylim(*limits[1])
    axes.set_aspect("equal" if equal else "auto")
