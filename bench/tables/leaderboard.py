"""From the folders of runs to a leaderboard: a view that can always be made again."""

import sys
from pathlib import Path

from bench.errors import UserError
from bench.evaluation.pictures import draw_comparison
from bench.rows.store import collect, read_rows, write_rows
from bench.tables.aggregate import Table, make_table
from bench.tables.render import print_table, write_leaderboard

__all__ = ["publish"]


def publish(runs: Path, results: Path, name: str) -> None:
    """Gather the rows of every run in ``runs`` and print and write their comparison.

    ``results/rows/<name>.jsonl`` holds the rows, ``results/leaderboard/<name>.{csv,md,tex}`` the views of them, and
    ``<name>.png`` samples of every model.
    """
    from rich.console import Console

    files = sorted(runs.glob("*/rows.jsonl"))
    if not files:
        return  # every run failed before it could say anything; the failures are printed one by one
    rows = collect(files)
    table = make_table(rows)
    try:
        (results / "rows").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"results_dir={results}: {error.strerror}; give another folder") from error
    # Sorted, so that the file does not depend on the order in which runs ended.
    in_order = sorted(rows, key=lambda row: (row.run_id, row.checkpoint, row.metric))
    write_rows(results / "rows" / f"{name}.jsonl", in_order)
    written = write_leaderboard(rows, results / "leaderboard", name)
    samples = _samples(files, table)
    if samples:
        written.append(results / "leaderboard" / f"{name}.png")
        draw_comparison(samples, written[-1])
    # Where there is no terminal to measure, a width at which no cell is broken.
    print_table(table, Console(width=None if sys.stdout.isatty() else 120))
    print(f"Written: {', '.join(map(str, written))}")


def _samples(files: list[Path], table: Table) -> dict[tuple[str, str], Path]:
    """The samples of each line's run with the smallest seed, by the line's label and the data set."""
    labels = {(section.dataset, line.group): line.label for section in table.sections for line in section.lines}
    chosen: dict[tuple[str, str], tuple[int, str, Path]] = {}
    for file in files:
        arrays = sorted(file.parent.glob("samples-*.npz"))  # best before final
        rows = [row for row in read_rows(file) if row.model_family != "data"]
        if arrays and rows:
            candidate = (rows[0].seed, rows[0].run_id, arrays[0])
            key = (labels[rows[0].dataset, rows[0].group], rows[0].dataset)
            chosen[key] = min(chosen.get(key, candidate), candidate)
    return {key: array for key, (_, _, array) in sorted(chosen.items())}
