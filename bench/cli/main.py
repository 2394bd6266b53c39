"""The command ``genbench``. Every import that costs time stands where it is used: --help and table start at once."""

import argparse
import sys
from pathlib import Path

from bench import __version__
from bench.cli.streams import with_output
from bench.errors import UserError

__all__ = ["main"]

EPILOG = """\
start here:
  genbench run experiment=quickstart      six models on 5000 real digits, in minutes
  genbench list models                    what there is to compare
  genbench new model mine                 the files of a model of your own
  genbench data list                      which data sets are on this machine
  genbench table runs/quickstart          the same table again, as csv, markdown or latex
"""


def main(arguments: list[str] | None = None) -> int:
    """Dispatch a command line.

    Returns:
        0 for success, 1 for a failed run, 2 for a mistake of the user's, 130 after Ctrl-C, 141 where the reader of
        the output has gone.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return with_output(lambda: _main(given))


def _main(arguments: list[str]) -> int:
    try:
        if arguments and arguments[0] == "run":
            # Hydra reads these itself: KEY=VALUE, and -m for a sweep.
            from bench.config.compose import main as run

            return run(arguments[1:])
        return _dispatch(_parser().parse_args(arguments))
    except UserError as error:
        print(f"genbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("genbench: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from bench.cli import data, new, table

    parser = argparse.ArgumentParser(
        prog="genbench", description="Compare generative models on equal terms.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"genbench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("run", help="train and evaluate: one run, or a sweep with -m", add_help=False)
    evaluate = commands.add_parser("evaluate", help="measure a checkpoint again")
    evaluate.add_argument("checkpoint", type=Path, help="best.ckpt or final.ckpt in a run's folder")
    evaluate.add_argument("--metric", action="append", metavar="NAME", help="only this one; may be repeated")
    evaluate.add_argument("--samples", type=int, metavar="N", help="model samples to draw")
    evaluate.add_argument("--draws", type=int, metavar="K", help="draws for a likelihood bound")
    evaluate.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="allow this package's models")
    evaluate.add_argument("--out", type=Path, metavar="FILE", help="also write the rows there (.jsonl)")
    table.add_arguments(commands.add_parser("table", help="rows to a table: text, csv, markdown or latex"))
    listing = commands.add_parser("list", help="models, data sets and metrics, a line each")
    listing.add_argument("groups", nargs="*", metavar="GROUP", help="models, data, metrics, experiments, trainers")
    new.add_arguments(commands.add_parser("new", help="the files of a new model, to begin from"))
    data.add_arguments(commands.add_parser("data", help="fetch data sets, verify them, say where they are"))
    return parser


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "table":
        from bench.cli import table

        return table.main(arguments)
    if arguments.command == "data":
        from bench.cli import data

        return data.main(arguments)
    if arguments.command == "new":
        from bench.cli import new

        return new.main(arguments)
    if arguments.command == "list":
        from bench.config.catalogue import listing

        print(listing(arguments.groups))
        return 0
    return _evaluate(arguments)


def _evaluate(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from bench.config.compose import stored
    from bench.rows.store import write_rows
    from bench.runs.run import evaluate_checkpoint
    from bench.tables.aggregate import make_table
    from bench.tables.render import print_table

    out: Path | None = arguments.out
    if out is not None and not out.parent.is_dir():  # before the minutes that the rows take
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it first")
    asked = {"n_samples": arguments.samples, "n_draws": arguments.draws}
    overrides = {key: value for key, value in asked.items() if value is not None}
    metrics = None if arguments.metric is None else {name: stored("metric", name) for name in arguments.metric}
    rows = evaluate_checkpoint(arguments.checkpoint, overrides, tuple(arguments.trust), metrics)
    print_table(make_table(rows, checkpoint="both"), Console())
    if out is not None:
        write_rows(out, rows)
    return 1 if any(row.status == "failed" for row in rows) else 0
