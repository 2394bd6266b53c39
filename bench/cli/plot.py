"""``genbench plot``: one number of runs against another, as a picture. Does not import torch."""

import argparse

from bench.paths import at_home
from bench.plain import plain
from bench.regular import check_output

__all__ = ["EXAMPLE", "add_arguments", "main"]

EXAMPLE = """\
  genbench plot runs/discriminator_size --x discriminator_parameters --y support --y modes --out size.png

A panel for each --y and data set. A dot is a run with its 95 % interval, a triangle a lower bound, the line joins the
medians of the seeds.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``genbench plot`` to a parser."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="result rows: a file, a folder of *.jsonl files, or a pattern"
    )
    parser.add_argument(
        "--x", required=True, metavar="NAME",
        help="the horizontal axis: a metric, or a key of the configuration, as model.discriminator_hidden",
    )  # fmt: skip
    parser.add_argument(
        "--y", required=True, action="append", metavar="METRIC", help="the vertical axis; can be repeated"
    )
    parser.add_argument(
        "--model", action="append", default=[], metavar="GLOB",
        help="show only the models of this name or pattern, as 'real*'; can be repeated",
    )  # fmt: skip
    parser.add_argument("--checkpoint", choices=["best", "final"], default="best", help="default: best")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="write the picture to this file")


def main(args: argparse.Namespace) -> int:
    """Draw what ``args`` asks for.

    Returns:
        0, the exit status.

    Raises:
        bench.errors.UserError: There is nothing to draw, a file does not contain rows, or ``--out`` cannot be written.
    """
    from bench.errors import UserError
    from bench.rows.frame import read_frame
    from bench.rows.store import find_files
    from bench.tables.plots import draw_panels, panels_of

    out = at_home("--out", args.out)
    if out.suffix != ".png":
        raise UserError(f"plot --out {args.out}: give a name that ends in .png")
    check_output("--out", out, find_files(args.paths))
    panels = panels_of(read_frame(args.paths), args.x, args.y, checkpoint=args.checkpoint, models=args.model)
    draw_panels(panels, out, args.x)
    for panel in panels:
        n = sum(map(len, panel.lines.values()))
        print(f"{plain(panel.title)} on {plain(panel.dataset)}: {n - panel.missing} of {n} runs have a value")
    print(f"Written: {plain(str(out))}")
    return 0
