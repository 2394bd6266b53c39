"""``genbench lottery``: how much of each number's spread is due to retraining and to resampling. Imports no torch."""

import argparse

from bench.cli.streams import write_text
from bench.files import durable_write
from bench.paths import at_home
from bench.regular import check_output

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``genbench lottery`` to a parser."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="result rows: a file, a folder of *.jsonl files, or a pattern"
    )
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="show only this metric; can be repeated"
    )
    parser.add_argument("--checkpoint", choices=["best", "final"], default="best", help="default: best")
    parser.add_argument("--out", metavar="FILE", help="write the table to this file as well (.csv or .md)")


def main(args: argparse.Namespace) -> int:
    """Print the table that ``args`` asks for.

    Returns:
        0, the exit status.

    Raises:
        bench.errors.UserError: There is no panel, a file does not contain rows, or ``--out`` cannot be written.
    """
    from bench.errors import UserError
    from bench.rows.frame import read_frame
    from bench.rows.store import find_files
    from bench.tables.lottery import panels_of, to_csv, to_markdown

    out = None if args.out is None else at_home("--out", args.out)
    if out is not None:
        if out.suffix not in (".csv", ".md"):
            raise UserError(f"lottery --out {args.out}: give a name that ends in .csv or .md")
        check_output("--out", out, find_files(args.paths))
    panels = panels_of(read_frame(args.paths), args.metric, args.checkpoint)
    table = to_markdown(panels)
    if out is not None:
        durable_write(out, to_csv(panels) if out.suffix == ".csv" else table)
    write_text(table)
    return 0
