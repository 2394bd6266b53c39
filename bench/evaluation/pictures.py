"""Samples, and densities of the plane, as pictures and as the arrays they were drawn from."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.files import durable_write
from bench.schema import GraphSpec
from bench.tables.graph_pictures import draw_graphs
from bench.tables.pictures import GRID, image_grid, limits_of, rendered, scatter, ticked, undisturbed
from bench.tables.sequences import sequence_grid, violations

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


@undisturbed()
def draw_samples(
    samples: Tensor,
    levels: int | None,
    path: Path,
    density: Landscape | None = None,
    *,
    real: Tensor | None = None,
    columns: Sequence[str] = (),
    graph: GraphSpec | None = None,
    conflicts: bool = False,
    title: str = "",
    categories: bool = False,
    valid: Tensor | None = None,
) -> None:
    """Write ``<path>.npz`` with all samples, and what else is given, and ``<path>.png``.

    Images: a grid of the first 64, black to white from 0 to the highest of the data's levels. Vectors: a scatter plot
    of their first two coordinates (a histogram for D = 1), beside one of the real examples with the same axes.
    Sequences of categories: rows of coloured cells, beside those of the real examples. Graphs: the first 16, beside as
    many real ones.

    Arguments:
        real: Real examples, which comparisons show beside the samples.
        columns: Names of the coordinates of vectors.
        graph: The sizes of graphs, where the samples are some.
        conflicts: Whether nodes of one type must not share an edge, and those that do are marked.
        title: Stands above the picture.
        categories: Whether entries are categories.
        valid: Of categories: which samples satisfy the data's constraint, ``(N,)`` bool, where it has one.
    """
    array = io.BytesIO()
    arrays: dict[str, Any] = {"samples": samples.numpy(), "levels": np.int64(levels or 0), **(density or {})}
    if real is not None:
        arrays["real"] = real.numpy()
    if columns:
        arrays["columns"] = np.array(list(columns), dtype=np.str_)
    if graph is not None:
        arrays["graph"] = np.array([graph.nodes, conflicts], dtype=np.int64)
    if categories:
        arrays["categories"] = np.asarray(True)
        if valid is not None:
            arrays["valid"] = valid.numpy()
    np.savez_compressed(array, **arrays)
    durable_write(path.with_suffix(".npz"), array.getvalue())
    shown = samples.numpy()[: GRID * GRID]
    if levels is None or shown.ndim != 4:
        picture = _plot(arrays, title)
    else:
        picture = _titled(image_grid(shown, levels), title)
    png = io.BytesIO()
    picture.save(png, format="PNG")
    durable_write(path.with_suffix(".png"), png.getvalue())


def _plot(arrays: dict[str, Any], title: str) -> Image.Image:
    from matplotlib.figure import Figure

    sets = {"data": arrays["real"], "samples": arrays["samples"]} if "real" in arrays else {"": arrays["samples"]}
    in_cells = "categories" in arrays
    limits = limits_of(next(iter(sets.values())))
    figure = Figure(figsize=(4 * len(sets), 4 + 0.3 * bool(title)), dpi=100, layout="constrained")
    if in_cells:  # which have no axes between them
        figure.get_layout_engine().set(wspace=0.1)  # type: ignore[union-attr, call-arg]
    if title:
        figure.suptitle(title, fontsize=min(11.0, 72 * figure.get_figwidth() / (0.65 * len(title))))
    for place, (name, points) in enumerate(sets.items(), start=1):
        axes = figure.add_subplot(1, len(sets), place)
        axes.set_title(name, fontsize=10)
        if "graph" in arrays:
            nodes, conflicts = arrays["graph"].tolist()
            draw_graphs(axes, points, nodes, side=4, conflicts=bool(conflicts))
            continue
        if in_cells:
            valid = arrays.get("valid") if points is arrays["samples"] else None
            axes.imshow(sequence_grid(points, int(arrays["levels"]), valid), interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(": ".join(word for word in (name, violations(valid)) if word), fontsize=8)
            continue
        scatter(axes, points, limits, equal="extent" in arrays)
        ticked(axes, arrays.get("columns"), 8)
    return rendered(figure)


def _titled(picture: Image.Image, title: str) -> Image.Image:
    """A picture with a line of text above it."""
    if not title:
        return picture
    from matplotlib.figure import Figure

    inches = picture.width / 100
    figure = Figure(figsize=(inches, 0.28), dpi=100)
    figure.text(0.5, 0.5, title, ha="center", va="center", fontsize=min(10.0, 72 * inches / (0.65 * len(title))))
    line = rendered(figure)
    whole = Image.new("RGB", (picture.width, picture.height + line.height), "white")
    whole.paste(line, (0, 0))
    whole.paste(picture, (0, line.height))
    return whole
