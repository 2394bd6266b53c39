"""From the folders of runs to a leaderboard: a view that can always be made again."""

import sys
from pathlib import Path

from bench.aggregate import make_table
from bench.errors import UserError
from bench.results import collect, write_rows
from bench.tables import print_table, write_leaderboard

__all__ = ["publish"]


def publish(runs: Path, results: Path, name: str) -> None:
    """Gather the rows of every run in ``runs`` and print and write their comparison.

    ``results/rows/<name>.jsonl`` holds the rows, ``results/leaderboard/<name>.{csv,md,tex}`` the views of them.
    """
    from rich.console import Console

    files = sorted(runs.glob("*/rows.jsonl"))
    if not files:
        return  # every run failed before it could say anything; the failures are printed one by one
    rows = collect(files)
    try:
        (results / "rows").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"results_dir={results}: {error.strerror}; give another folder") from error
    # Sorted, so that the file does not depend on the order in which runs ended.
    in_order = sorted(rows, key=lambda row: (row.run_id, row.checkpoint, row.metric))
    write_rows(results / "rows" / f"{name}.jsonl", in_order)
    written = write_leaderboard(rows, results / "leaderboard", name)
    # Where there is no terminal to measure, a width at which no cell is broken.
    print_table(make_table(rows), Console(width=None if sys.stdout.isatty() else 120))
    print(f"Written: {', '.join(map(str, written))}")
