"""Rows to a table: what belongs in one cell, and what may be ranked.

A section is one data set. A column is one metric under one protocol: the same metric measured on another number of
samples, with other features or on another split is another column. A line is one model configuration; its runs that
differ in nothing but the seed are averaged, and different configurations of one model never are.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from bench.did_you_mean import nearest
from bench.errors import UserError
from bench.rows.frame import as_frame, protocol_of
from bench.schema import ResultRow
from bench.tables.cells import distinct, made_cells
from bench.tables.columns import in_columns, numbered
from bench.tables.labels import labelled
from bench.tables.model import CHECKPOINTS, Line, Section, Table
from bench.tables.ranking import line_order, mark_best

__all__ = ["at_checkpoint", "make_table", "of_models", "of_one_sampling", "of_metrics", "with_external"]

_CONFIGURATION = ["model_family", "model", "group", "external"]


def make_table(
    rows: pd.DataFrame | Iterable[ResultRow],
    checkpoint: str = "best",
    metrics: Sequence[str] = (),
    *,
    models: Sequence[str] = (),
    sort: str = "",
) -> Table:
    """Put rows into cells. The result depends on the set of rows alone, never on their order.

    Where one configuration was run twice with the same seed, one row stands in the cell: one that has a value before
    one that has none, then the number of draws that most seeds have, then the greatest run_id.

    Arguments:
        rows: Of any data sets, models and protocols; a frame as in ``bench.rows.frame``.
        checkpoint: ``best`` or ``final`` (a run that has no such checkpoint shows the other), or ``both`` as two lines.
        metrics: Names to keep; ``fid`` keeps ``fid[mnist-cnn]`` too. All where empty.
        models: Names of models to keep, or patterns like ``real*``. All where empty.
        sort: Name or title of the metric that orders the lines; the first of quality where empty.

    Raises:
        UserError: There are no rows, or none of a metric or model asked for, or a value that is not finite.
    """
    if checkpoint not in CHECKPOINTS:
        raise UserError(f"checkpoint is {checkpoint!r}; choose one of {', '.join(CHECKPOINTS)}")
    frame = as_frame(rows)
    if frame.empty:
        raise UserError("there are no rows to make a table from; run something first")
    broken = frame[(frame["status"] == "ok") & ~np.isfinite(frame["value"])]
    for row in broken.head(1).itertuples():
        raise UserError(f"run {row.run_id}: {row.metric} is {row.value} with status ok; evaluate the run again")
    if metrics:
        frame = of_metrics(frame, metrics)
    if models:
        frame = of_models(frame, models)
    frame = with_external(frame)
    by_dataset = {str(dataset): rows for dataset, rows in frame.groupby("dataset", observed=True)}
    sections = [_section(dataset, by_dataset[dataset], checkpoint, sort) for dataset in sorted(by_dataset)]
    if sort:
        _check_sort(sections, sort)
    return Table(tuple(sections), checkpoint)


def with_external(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a column ``external``: whether a row is of samples of others."""
    return frame.assign(external=frame["source"].to_numpy() == "external samples")


def of_metrics(frame: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the rows of these metrics; ``fid`` keeps ``fid[mnist-cnn]`` too.

    Raises:
        UserError: No row has one of them.
    """
    known = sorted(frame["metric"].unique())
    for name in metrics:
        if not any(name in (metric, _base(metric)) for metric in known):
            raise UserError(f"no row has the metric {name!r}; there are {', '.join(known)}")
    return frame[frame["metric"].isin([one for one in known if one in metrics or _base(one) in metrics])]


def of_models(frame: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Return the rows of models whose names match one of these patterns.

    Raises:
        UserError: No row matches one of them.
    """
    known = sorted(frame["model"].unique())
    kept = []
    for pattern in models:
        found = [name for name in known if fnmatchcase(name, pattern)]
        if not found:
            raise UserError(f"no row has a model {pattern!r}{nearest(pattern, known)}; there are {', '.join(known)}")
        kept += found
    return frame[frame["model"].isin(kept)]


def _check_sort(sections: Sequence[Section], sort: str) -> None:
    columns = [column for section in sections for column in section.columns]
    if not any(sort in column.names for column in columns):
        known = sorted({name for column in columns for name in column.names})
        shown = ", ".join(dict.fromkeys(column.title for column in columns))
        raise UserError(f"no metric to sort by is called {sort!r}{nearest(sort, known)}; there are {shown}")


def _base(metric: str) -> str:
    """``fid`` of ``fid[mnist-cnn]``."""
    return metric.split("[", 1)[0]


def _section(dataset: str, rows: pd.DataFrame, checkpoint: str, sort: str) -> Section:
    """Columns, lines and cells of one data set; with ``both`` each checkpoint has its own line."""
    rows = of_one_sampling(at_checkpoint(rows, checkpoint)).reset_index(drop=True)
    placed, columns = in_columns(rows, numbered(rows, _CONFIGURATION))
    line_of_row, lines = _lines(rows, checkpoint)
    placed = placed.assign(line=line_of_row[placed["row"]], seed=rows["seed"].to_numpy()[placed["row"]])
    placed = placed.sort_values(["line", "column", "seed"], ignore_index=True)
    chosen, repeated = _one_per_seed(placed, rows)
    places = chosen[["line", "column"]].drop_duplicates()
    made = made_cells(rows.iloc[chosen["row"]], numbered(chosen, ["line", "column"]))
    cells = dict(zip(places.itertuples(index=False, name=None), made, strict=True))
    mark_best(cells, columns, lines)
    order, sorted_by = line_order(cells, columns, lines, sort)
    place = {line: number for number, line in enumerate(order)}
    moved = {(place[line], column): cell for (line, column), cell in cells.items()}
    cells = {key: moved[key] for key in sorted(moved)}
    behind = rows.iloc[np.unique(chosen["row"])]
    return Section(dataset, columns, tuple(lines[line] for line in order), cells, behind, repeated, sorted_by)


def at_checkpoint(rows: pd.DataFrame, checkpoint: str) -> pd.DataFrame:
    """The rows of one checkpoint; for a seed whose metric was not measured there, those of the other."""
    is_asked = (rows["checkpoint"] == checkpoint).to_numpy()
    if checkpoint == "both" or is_asked.all():
        return rows
    measured = numbered(rows, [*_CONFIGURATION, "seed", "metric"])
    return rows[is_asked | ~np.isin(measured, measured[is_asked])]


def of_one_sampling(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the smallest sampling seed of each number of each run; ``bench.tables.lottery`` shows the others.

    Numbers of two protocols (another n, a reference) are two. A row without a value may not know its n: one that failed
    stands for all numbers of its metric that have no smaller sampling seed.
    """
    seeds = rows["sampling_seed"]
    if (seeds == 0).all():
        return rows
    metric = numbered(rows, [*_CONFIGURATION, "checkpoint", "seed", "metric", "data_revision", "split"])
    parts = protocol_of(rows)
    smallest = seeds.groupby([metric, numbered(parts, list(parts.columns))]).transform("min")
    smallest = smallest.where(rows["status"] == "ok", seeds.groupby(metric).transform("min"))
    failed = seeds.where(rows["status"] == "failed", np.iinfo(np.int64).max).groupby(metric).transform("min")
    return rows[seeds == np.minimum(smallest, failed)]


def _one_per_seed(placed: pd.DataFrame, rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Of runs of the same configuration and seed, one; and how many different rows stand in no cell.

    Of bounds from different numbers of draws K, all seeds of a cell should show the same: the K that most seeds have,
    and of several such the greatest.
    """
    place = ["line", "column", "seed"]
    contested = placed.duplicated(place, keep=False)
    if not contested.any():
        return placed, 0
    candidates = placed[contested]
    positions = candidates["row"].tolist()
    values = rows.iloc[positions].itertuples(index=False, name=None)
    # Content decides between rows that claim to be the same run.
    contents = {position: repr(value) for position, value in zip(positions, values, strict=True)}
    valued, run = (rows["status"] == "ok").tolist(), rows["run_id"].tolist()
    draws = rows["n_draws"].fillna(0).astype("int64").to_numpy()
    with_draws = placed.assign(draws=draws[placed["row"]])
    seeds_of = with_draws.groupby(["line", "column", "draws"])["seed"].transform("nunique")
    shared = seeds_of[contested].tolist()
    merits = [
        (valued[position], count, draws[position], run[position], contents[position])
        for position, count in zip(positions, shared, strict=True)
    ]
    by_merit = sorted(range(len(merits)), key=merits.__getitem__)
    best = candidates.iloc[by_merit].drop_duplicates(place, keep="last")
    chosen = pd.concat([placed[~contested], best]).sort_values(place, ignore_index=True)
    used = set(chosen["row"])
    shown = {content for position, content in contents.items() if position in used}
    return chosen, len(set(contents.values()) - shown)


def _lines(rows: pd.DataFrame, asked: str) -> tuple["np.ndarray[tuple[int], np.dtype[np.int64]]", tuple[Line, ...]]:
    """The number of each row's line, and the lines by family, model, group and checkpoint, with their labels."""
    key = [*_CONFIGURATION, "checkpoint"] if asked == "both" else _CONFIGURATION
    number = numbered(rows, key)
    first = rows.iloc[np.unique(number, return_index=True)[1]]
    keys = list(first[key].itertuples(index=False, name=None))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    found = {
        name: {line: tuple(sorted(values)) for line, values in distinct(rows[name], number).items()}
        for name in ("checkpoint", "seed", "budget", "device")
    }
    lines = []
    for one in order:
        family, model, group, external = keys[one][:4]
        checkpoints = found["checkpoint"][one]
        lines.append(
            Line(
                model=model,
                family=family,
                group=group,
                external=bool(external),
                checkpoint=asked if asked in checkpoints else "; ".join(checkpoints),
                label=model,
                seeds=found["seed"][one],
                budgets=found["budget"][one],
                devices=found["device"][one],
            )
        )
    place = np.empty(len(keys), np.int64)
    place[order] = np.arange(len(order))
    stated = rows[["group", "config"]].drop_duplicates()
    configs: dict[str, list[str]] = defaultdict(list)
    for group, config in stated.itertuples(index=False, name=None):
        configs[group].append(config)
    return place[number], labelled(lines, configs)
