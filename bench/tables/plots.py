"""One number against another over runs: support size against the discriminator's parameters, say. Imports no torch."""

import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.errors import UserError
from bench.files import durable_write
from bench.plain import plain
from bench.schema import PROTOCOL
from bench.tables.aggregate import at_checkpoint, of_metrics, of_models, of_one_sampling, with_external
from bench.tables.pictures import rendered, undisturbed

__all__ = ["Panel", "Point", "draw_panels", "panels_of"]

_RUN = ["run_id", "training_key", "checkpoint"]
_DECADES = 20  # an axis is logarithmic if the largest number is so many times the smallest


@dataclass(frozen=True)
class Point:
    """One run: its place ``x`` on the axis, and the number with its 95 % interval, or why there is none.

    Attributes:
        relation: As in rows; of a lower bound only ``value`` is drawn, with an arrow.
    """

    x: float
    seed: int
    value: float | None
    low: float | None = None
    high: float | None = None
    relation: str = ""


@dataclass(frozen=True)
class Panel:
    """The points of one metric on one data set, by model; sorted by x and seed.

    Attributes:
        asked: The metric as it was asked for: panels of ``fid[mnist-cnn]`` and ``fid[pixels]`` stand in one row, those
            of one data set below each other.
    """

    asked: str
    dataset: str
    title: str
    unit: str
    lines: dict[str, list[Point]]

    @property
    def missing(self) -> int:
        """Number of runs without a value."""
        return sum(point.value is None for points in self.lines.values() for point in points)


def panels_of(
    rows: pd.DataFrame, x: str, metrics: Sequence[str], *, checkpoint: str = "best", models: Sequence[str] = ()
) -> list[Panel]:
    """Return a panel for each metric and data set, metric by metric.

    Arguments:
        rows: A frame as in ``bench.rows.frame``.
        x: A metric, or a dotted key of the runs' configurations whose values are numbers. Runs without it are left out.
        metrics: Names; ``fid`` is ``fid[mnist-cnn]`` too.
        checkpoint: Whose rows; a run that has no such checkpoint shows the other.
        models: Names of models to keep, or patterns like ``real*``. All where empty.

    Raises:
        UserError: There is nothing to draw, a model has several configurations at one x, or rows of one metric differ
            in their protocol.
    """
    rows = rows[(rows["model_family"] != "data") & (rows["source"] != "quoted")]
    rows = of_models(rows, models) if models else rows
    if rows.empty:
        raise UserError("there are no rows of runs to draw; run something first")
    rows = of_one_sampling(at_checkpoint(with_external(rows), checkpoint)).reset_index(drop=True)
    places = _places(rows, x)
    panels = []
    for metric in metrics:
        for (_, name), found in of_metrics(rows, [metric]).groupby(["dataset", "metric"], observed=True, sort=True):
            panel = _panel(found, places, metric, str(name))
            if panel.lines:
                panels.append(panel)
    if not panels:
        raise UserError(f"no run that has {', '.join(metrics)} has the number {x}; give another --x")
    return panels


def _places(rows: pd.DataFrame, x: str) -> dict[tuple[Any, ...], float]:
    """Return the number ``x`` of each run, by ``_RUN``: of its row, or of its configuration."""
    measured = rows[(rows["metric"] == x) & (rows["status"] == "ok")]
    if not measured.empty:
        return dict(zip(measured[_RUN].itertuples(index=False, name=None), measured["value"], strict=True))
    places = {}
    for *run, config in rows[[*_RUN, "config"]].drop_duplicates(_RUN).itertuples(index=False, name=None):
        value = json.loads(config).get(x) if config else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            places[tuple(run)] = float(value)
    if not places:
        kinds = sorted({str(name) for name in rows["metric"].unique() if str(name).startswith(f"{x}[")})
        there = f"; there are {', '.join(kinds)}" if kinds else ""
        raise UserError(f"--x {x}: no row is of a metric of this name, and no configuration has it as a number{there}")
    return places


def _panel(rows: pd.DataFrame, places: dict[tuple[Any, ...], float], asked: str, metric: str) -> Panel:
    """Return the panel of rows of one metric on one data set."""
    valued = rows[rows["status"] == "ok"]
    differing = [part for part in PROTOCOL if valued[part].nunique(dropna=False) > 1]
    if differing:
        raise UserError(
            f"{metric} of {rows['dataset'].iloc[0]}: the rows differ in {', '.join(differing)} and cannot share a "
            "panel; give only rows of one"
        )
    lines: dict[str, list[Point]] = {}
    groups: dict[tuple[str, float], str] = {}
    records: Iterable[Any] = rows.itertuples(index=False)
    for row in records:
        run = tuple(getattr(row, name) for name in _RUN)
        if run not in places:
            continue
        model, place = str(row.model), places[run]
        if groups.setdefault((model, place), str(row.group)) != row.group:
            raise UserError(
                f"{model} on {row.dataset} has several configurations at the same place {place:g}; give only rows of "
                "one, or another --x"
            )
        value = None if row.status != "ok" else float(row.value)
        low, high = (None if math.isnan(end) else float(end) for end in (row.ci_low, row.ci_high))
        relation = row.relation if isinstance(row.relation, str) else ""
        lines.setdefault(model, []).append(Point(place, int(row.seed), value, low, high, relation))
    ordered = {model: sorted(lines[model], key=lambda point: (point.x, point.seed)) for model in sorted(lines)}
    titles = [str(title) for title in rows["metric_title"].unique() if title]
    return Panel(asked, str(rows["dataset"].iloc[0]), min(titles, default=metric), str(rows["unit"].iloc[0]), ordered)


@undisturbed()
def draw_panels(panels: Sequence[Panel], path: Path, x: str) -> None:
    """Draw panels as a PNG: a row for each metric, a column for each data set.

    A dot is a run, with its 95 % interval where it has one; an arrow upwards is a lower bound. The line joins the
    medians of the seeds. Runs without a value are counted below the panel's title. Axes are logarithmic where the
    numbers are positive and the largest is more than 20 times the smallest.

    Arguments:
        x: What the horizontal axis shows.
    """
    from matplotlib.figure import Figure

    asked = list(dict.fromkeys(panel.asked for panel in panels))
    datasets = list(dict.fromkeys(panel.dataset for panel in panels))
    kinds = [(panel.asked, panel.dataset) for panel in panels]
    # Two metrics of one name on one data set share no axes: they are two numbers.
    places = [(asked.index(kind[0]), kinds[:n].count(kind)) for n, kind in enumerate(kinds)]
    lines = sorted(set(places))
    figure = Figure(figsize=(1 + 4.2 * len(datasets), 0.5 + 3.1 * len(lines)), dpi=100, layout="constrained")
    below = figure.subplots(len(lines), len(datasets), squeeze=False)
    for axes in below.flat:
        axes.set_visible(False)
    models = sorted({model for panel in panels for model in panel.lines})
    colours = {model: f"C{number % 10}" for number, model in enumerate(models)}  # the same in all panels
    for panel, place in zip(panels, places, strict=True):
        axes = below[lines.index(place), datasets.index(panel.dataset)]
        axes.set_visible(True)
        _draw(axes, panel, colours)
        axes.set_xlabel(plain(x).replace("_", " "), fontsize=9)
    png = io.BytesIO()
    rendered(figure).save(png, format="PNG")
    durable_write(path, png.getvalue())


def _draw(axes: Any, panel: Panel, colours: Mapping[str, str]) -> None:
    points = [point for line in panel.lines.values() for point in line]
    is_wide = _is_wide(point.x for point in points)
    for model, line in panel.lines.items():
        colour = colours[model]
        seeds = sorted({point.seed for point in line})
        for point in line:
            if point.value is None:
                continue
            # Seeds of one place stand side by side, so that their intervals can be told apart.
            aside = 0.02 * (seeds.index(point.seed) - (len(seeds) - 1) / 2)
            x = point.x * (1 + aside) if is_wide else point.x
            is_bound = point.relation == "lower_bound"
            if not is_bound and point.low is not None and point.high is not None:
                axes.plot([x, x], [point.low, point.high], color=colour, linewidth=0.8, alpha=0.6)
            axes.plot(x, point.value, color=colour, marker="^" if is_bound else "o", markersize=4, alpha=0.7)
        medians = _medians(line)
        if medians:
            axes.plot(*zip(*medians, strict=True), color=colour, linewidth=1.4, label=plain(model))
    values = [point.value for point in points if point.value is not None]
    if is_wide:
        axes.set_xscale("log")
    if _is_wide(values):
        axes.set_yscale("log")
    words = [f"{plain(panel.dataset)}"]
    if panel.missing:
        words.append(f"{panel.missing} of {len(points)} runs without a value")
    if any(point.relation == "lower_bound" for point in points):
        words.append("▲ at least")
    axes.set_title(" · ".join(words), fontsize=9)
    axes.set_ylabel(plain(panel.title) + (f" ({plain(panel.unit)})" if panel.unit else ""), fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, title="median of seeds", title_fontsize=8)


def _medians(line: Sequence[Point]) -> list[tuple[float, float]]:
    """Return the median of the seeds that have a value, at each x that has any."""
    found: dict[float, list[float]] = {}
    for point in line:
        if point.value is not None:
            found.setdefault(point.x, []).append(point.value)
    return [(x, statistics.median(values)) for x, values in sorted(found.items())]


def _is_wide(numbers: Iterable[float]) -> bool:
    numbers = list(numbers)
    return bool(numbers) and min(numbers) > 0 and max(numbers) > _DECADES * min(numbers)
