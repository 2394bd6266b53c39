"""Pictures of molecules, and of metrics over the number of samples."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from bench.data.formats.smiles import Judged
from bench.tables.pictures import rendered, undisturbed

__all__ = ["molecule_grid", "size_curves"]

_COLUMNS, _ROWS, _REAL_ROWS = 6, 4, 2
_WIDTH, _HEIGHT, _HEADING = 160, 140, 22


def molecule_grid(made: Judged, real: Judged) -> Image.Image:
    """Return a picture of the first 24 samples, refused ones as the reason in their place, above 12 test molecules."""
    valid = iter(made.molecules)
    samples = [reason or next(valid) for reason in made.reasons[: _ROWS * _COLUMNS]]
    parts = {"samples": samples, "data": real.molecules[: _REAL_ROWS * _COLUMNS]}
    rows = [-(-len(cells) // _COLUMNS) for cells in parts.values()]
    picture = Image.new("RGB", (_COLUMNS * _WIDTH, sum(rows) * _HEIGHT + len(parts) * _HEADING), "white")
    pen = ImageDraw.Draw(picture)
    top = 0
    for (heading, cells), n_rows in zip(parts.items(), rows, strict=True):
        pen.text((8, top + 5), heading, fill="black", font_size=13)
        for place, cell in enumerate(cells):
            left, upper = place % _COLUMNS * _WIDTH, top + _HEADING + place // _COLUMNS * _HEIGHT
            if isinstance(cell, str):
                pen.text((left + _WIDTH / 2, upper + _HEIGHT / 2), cell, fill="firebrick", anchor="mm", font_size=12)
            else:
                picture.paste(_drawn(cell), (left, upper))
        top += _HEADING + n_rows * _HEIGHT
    return picture


@undisturbed()
def size_curves(sizes: Sequence[int], curves: Mapping[str, Sequence[float | None]]) -> Image.Image:
    """Return a panel for each metric: its value of the first n samples, over n.

    Arguments:
        sizes: The n, ascending.
        curves: By the name of a metric its value for each n; None where there is none.
    """
    from matplotlib.figure import Figure

    columns = 3
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for one, (name, values) in zip(axes, curves.items(), strict=False):
        there = [(n, value) for n, value in zip(sizes, values, strict=True) if value is not None]
        if there:
            one.plot(*zip(*there, strict=True), marker="o", markersize=3, linewidth=1.2)
        one.set_title(name, fontsize=9)
        one.set_xscale("log")
        one.set_xticks(list(sizes), [str(n) for n in sizes], fontsize=7)
        one.minorticks_off()
        one.tick_params(labelsize=7)
        one.grid(alpha=0.3)
    for one in axes[len(curves) :]:
        one.set_axis_off()
    figure.supxlabel("number of samples n", fontsize=9)
    return rendered(figure)


def _drawn(molecule: Any) -> Image.Image:
    from rdkit.Chem.Draw import rdMolDraw2D

    canvas = rdMolDraw2D.MolDraw2DCairo(_WIDTH, _HEIGHT)
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, molecule)
    canvas.FinishDrawing()
    return Image.open(io.BytesIO(canvas.GetDrawingText())).convert("RGB")
