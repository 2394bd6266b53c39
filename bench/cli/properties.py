"""``genbench properties``: what families of models are like, measured, beside what the literature says of them."""

import argparse

from bench.cli.streams import write_text
from bench.files import durable_write
from bench.paths import at_home
from bench.regular import check_output

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``genbench properties`` to a parser."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="result rows: a file, a folder of *.jsonl files, or a pattern"
    )
    parser.add_argument("--out", metavar="FILE", help="write the table to this file as well (markdown)")


def main(args: argparse.Namespace) -> int:
    """Print the table that ``args`` asks for.

    Returns:
        0, the exit status.

    Raises:
        bench.errors.UserError: There are no rows of models, a file does not contain rows, or ``--out`` cannot be
            written.
    """
    from bench.errors import UserError
    from bench.rows.frame import load_rows
    from bench.rows.store import find_files
    from bench.tables.properties import properties_of, published_of, to_markdown

    out = None if args.out is None else at_home("--out", args.out)
    if out is not None:
        check_output("--out", out, find_files(args.paths))
    rows = load_rows(args.paths)
    properties = properties_of(rows)
    if not properties:
        raise UserError("properties: these rows are of no trained model; give a folder of runs, such as runs/baselines")
    table = to_markdown(properties, published_of(rows))
    if out is not None:
        durable_write(out, table)
    write_text(table)
    return 0
