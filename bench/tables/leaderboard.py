"""From the folders of runs to a leaderboard: a view that can always be made again."""

import contextlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from bench.errors import UserError
from bench.files import durable_write, sweep_orphans
from bench.locks import hold
from bench.rows.store import collect, read_rows, write_rows
from bench.schema import Relation, ResultRow
from bench.tables.aggregate import make_table
from bench.tables.as_csv import to_csv
from bench.tables.latex import to_latex
from bench.tables.markdown import to_markdown
from bench.tables.model import Column, Line, Table
from bench.tables.pictures import draw_comparison
from bench.tables.text import print_table

__all__ = ["publish"]

_COSTS = 100  # the rank from which columns are no metrics of quality


def publish(runs: Path, results: Path, name: str, shown: Collection[str] | None = None) -> None:
    """Gather the rows of every run in ``runs`` and write their comparison, and print it.

    ``results/rows/<name>.jsonl`` holds the rows, ``results/leaderboard/<name>.{csv,md,tex}`` the views of them, and
    ``<name>.png`` samples of every model.

    Arguments:
        shown: Print only the data sets of these runs, by run_id, and nothing where there are none; None prints all.

    Raises:
        UserError: A file is not a file of rows, or the results cannot be written.
    """
    from rich.console import Console

    if not any(runs.glob("*/rows.jsonl")):
        return  # every run failed before it could say anything; the failures are printed one by one
    with _publishing(results):
        # Found here: of several processes that publish, the last one sees the rows of all that came before.
        files = sorted(runs.glob("*/rows.jsonl"))
        rows = collect(files)
        table = make_table(rows, _checkpoint(rows))
        # Sorted, so that the file does not depend on the order in which runs ended.
        in_order = sorted(rows, key=lambda row: (row.run_id, row.checkpoint, row.metric))
        write_rows(results / "rows" / f"{name}.jsonl", in_order)
        written = _written(table, results / "leaderboard", name)
        samples = _samples(files, table)
        if samples:
            written.append(results / "leaderboard" / f"{name}.png")
            draw_comparison(samples, written[-1], _main_numbers(table))
    if shown is not None:
        touched = {row.dataset for row in rows if row.run_id in shown}
        table = replace(table, sections=tuple(section for section in table.sections if section.dataset in touched))
    if not table.sections:
        return
    # Where there is no terminal to measure, a width at which no cell is broken.
    print_table(table, Console(width=None if sys.stdout.isatty() else 120))
    print(f"Written: {', '.join(map(str, written))}")


@contextlib.contextmanager
def _publishing(results: Path) -> Iterator[None]:
    """Make the folders of results, wait until no other process publishes there, and sweep what killed ones left."""
    lock = results / ".lock"
    with contextlib.ExitStack() as held:
        try:
            for folder in (results / "rows", results / "leaderboard"):
                folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            held.callback(os.close, descriptor)
            held.enter_context(hold(lock, descriptor, wait=True))
        except OSError as error:
            raise UserError(f"results_dir={results}: {error.strerror}; give another folder") from error
        for folder in (results / "rows", results / "leaderboard"):
            sweep_orphans(folder)
        yield


def _checkpoint(rows: Iterable[ResultRow]) -> str:
    """``both``, a line for each, where all seeds of a configuration were measured at both checkpoints; else ``best``.

    A user who asked for both checkpoints sees both.
    """
    seeds: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        seeds.setdefault(row.group, {}).setdefault(row.checkpoint, set()).add(row.training_key)
    both = any("best" in found and found["best"] == found.get("final") for found in seeds.values())
    return "both" if both else "best"


def _written(table: Table, folder: Path, name: str) -> list[Path]:
    """Write ``name.csv``, ``name.md`` and ``name.tex`` into ``folder``, durably, and return their paths."""
    views = {".csv": to_csv(table), ".md": to_markdown(table), ".tex": to_latex(table)}
    paths = []
    for suffix, text in views.items():
        paths.append(folder / (name + suffix))
        durable_write(paths[-1], text)
    return paths


def _samples(files: list[Path], table: Table) -> dict[tuple[str, str], Path]:
    """The samples of each line's run with the smallest seed, by the line's label and the data set."""
    lines: dict[tuple[str, str], list[Line]] = {}
    for section in table.sections:
        for line in section.lines:
            lines.setdefault((section.dataset, line.group), []).append(line)
    chosen: dict[tuple[str, str], tuple[int, str, Path]] = {}
    for file in files:
        rows = [row for row in read_rows(file) if row.model_family != "data"]
        for line in lines[rows[0].dataset, rows[0].group] if rows else []:
            name = line.checkpoint if table.checkpoint == "both" else "*"
            arrays = sorted(file.parent.glob(f"samples-{name}.npz"))  # best before final
            if arrays:
                candidate = (rows[0].seed, rows[0].run_id, arrays[0])
                key = (line.label, rows[0].dataset)
                chosen[key] = min(chosen.get(key, candidate), candidate)
    return {key: array for key, (_, _, array) in sorted(chosen.items())}


def _main_numbers(table: Table) -> dict[tuple[str, str], str]:
    """For each line's label and data set, the quality that most lines of the data set have, in words for a picture."""
    texts: dict[tuple[str, str], str] = {}
    for section in table.sections:
        values: dict[int, dict[str, str]] = {}
        for (line, column), cell in sorted(section.cells.items()):
            info = section.columns[column]
            if cell.value is not None and info.rank < _COSTS and info.higher_is_better is not None:
                relation = (
                    "" if cell.relation is None or cell.relation is Relation.EXACT else f"{cell.relation.symbol} "
                )
                number = f"{relation}{cell.value:.4g}"
                values.setdefault(column, {})[section.lines[line].label] = f"{_short(info)} {number}"
        if values:
            fullest = max(values, key=lambda column: (len(values[column]), -column))
            texts |= {(label, section.dataset): text for label, text in values[fullest].items()}
    return texts


def _short(column: Column) -> str:
    title = column.title.partition("[")[0]
    unit = {"log_likelihood": "nats", "bits_per_dim": "bits/dim"}.get(str(column.part("metric")).partition("[")[0])
    return unit or title
