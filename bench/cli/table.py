"""``genbench table``: make a table from result rows. Does not import torch."""

import argparse
import sys

from bench.cli.streams import write_text
from bench.files import durable_write
from bench.paths import at_home
from bench.regular import check_output
from bench.tables.as_csv import to_csv
from bench.tables.latex import to_latex
from bench.tables.markdown import to_markdown
from bench.tables.model import CHECKPOINTS
from bench.tables.text import print_table, to_text

__all__ = ["add_arguments", "main"]

_WRITERS = {"csv": to_csv, "markdown": to_markdown, "latex": to_latex, "text": to_text}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``genbench table`` to a parser."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="result rows: a file, a folder of *.jsonl files, or a pattern"
    )
    parser.add_argument("--format", choices=list(_WRITERS), default="text", help="default: text")
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINTS, default="best", help="which checkpoint's rows; default: best"
    )
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="show only this metric; can be repeated"
    )
    parser.add_argument(
        "--model", action="append", default=[], metavar="GLOB",
        help="show only the models of this name or pattern, as 'real*'; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--sort", default="", metavar="METRIC", help="sort the lines by this metric; default: the first of quality"
    )
    parser.add_argument("--out", metavar="FILE", help="write to this file instead of the terminal")


def main(args: argparse.Namespace) -> int:
    """Make the table that ``args`` describes, and print it or write it to a file.

    Returns:
        0, the exit status.

    Raises:
        bench.errors.UserError: There are no rows, a file does not contain rows, or ``--out`` cannot be written.
    """
    # Imported here because pandas takes a quarter of a second to import and --help does not need it.
    from bench.rows.frame import read_frame
    from bench.rows.store import find_files
    from bench.tables.aggregate import make_table

    out = None if args.out is None else at_home("--out", args.out)
    if out is not None:
        check_output("--out", out, find_files(args.paths))
    table = make_table(
        read_frame(args.paths), checkpoint=args.checkpoint, metrics=args.metric, models=args.model, sort=args.sort
    )
    if out is not None:
        durable_write(out, _WRITERS[args.format](table))
    elif args.format == "text" and sys.stdout.isatty():
        from rich.console import Console

        print_table(table, Console())
    else:
        write_text(_WRITERS[args.format](table))
    return 0
