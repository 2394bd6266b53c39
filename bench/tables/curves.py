"""Curves of numbers over training: a CSV file that a spreadsheet reads, and a picture of it. Needs no torch."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import UserError
from bench.files import durable_write
from bench.regular import read_regular
from bench.tables.pictures import rendered, undisturbed

__all__ = ["Curve", "Panel", "draw_curves", "read_curve", "write_curve"]

_LARGEST_CURVE = 64 << 20  # bytes

Curve = list[dict[str, float]]
"""Points in the order of training. Each holds the place, ``examples_seen`` for probes, and numbers by name."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes in a picture of curves.

    Attributes:
        label: What the vertical axis shows, with its unit.
        curves: What the legend calls each number, by its name in the curve. The empty text needs no legend.
        lines: Horizontal lines, by what the legend calls them.
        log: Whether the vertical axis is logarithmic. Numbers that are not positive are not drawn then.
        low, high: Ends of the vertical axis; None: as the numbers need.
    """

    label: str
    curves: Mapping[str, str]
    lines: Mapping[str, float] = field(default_factory=dict)
    log: bool = False
    low: float | None = None
    high: float | None = None


def write_curve(path: Path, curve: Curve) -> None:
    """Write a curve as CSV: a column for each name that occurs, and an empty cell where a point lacks it."""
    names = list(dict.fromkeys(name for point in curve for name in point))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    durable_write(path, text.getvalue())


def read_curve(path: Path) -> Curve:
    """The curve in a CSV file; empty where there is none, or what is there is not what ``write_curve`` writes."""
    try:
        lines = list(csv.reader(io.StringIO(read_regular(path, _LARGEST_CURVE).decode())))
        return [
            {name: float(cell) for name, cell in zip(lines[0], line, strict=True) if cell != ""} for line in lines[1:]
        ]
    except (UserError, OSError, ValueError, IndexError, csv.Error):
        return []


@undisturbed()
def draw_curves(
    curve: Curve, panels: Sequence[Panel], path: Path, *, title: str, x: str = "examples_seen",
    x_label: str = "training examples seen",
) -> None:  # fmt: skip
    """Draw a curve as a PNG, the panels one above the other.

    Arguments:
        curve: At least one point.
        panels: At least one. Numbers that no point has are left out.
        path: Of the PNG.
        title: Stands above the panels.
        x: The name of what the horizontal axis shows.
        x_label: What that axis is called, with its unit.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 2.6 * len(panels)), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=min(12.0, 72 * 7 / (0.62 * max(len(title), 1))))
    below = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(below, panels, strict=True):
        axes.set_ylabel(panel.label, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        for name, called in panel.curves.items():
            points = [(point[x], point[name]) for point in curve if x in point and name in point]
            shown = [(at, y) for at, y in points if math.isfinite(y) and (y > 0 or not panel.log)]
            if shown:
                marker = "o" if len(shown) <= 100 else None
                axes.plot(*zip(*shown, strict=True), marker=marker, markersize=3, linewidth=1.2, label=called or None)
        for number, (called, y) in enumerate(panel.lines.items()):
            style = ("--", ":", "-.")[number % 3]
            axes.axhline(y, color="black", linestyle=style, linewidth=1, label=called)
        if panel.log and any(point.get(name, 0) > 0 for point in curve for name in panel.curves):
            axes.set_yscale("log")
        axes.set_ylim(panel.low, panel.high)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=8)
    below[-1].set_xlabel(x_label, fontsize=9)
    png = io.BytesIO()
    rendered(figure).save(png, format="PNG")
    durable_write(path, png.getvalue())
