"""The command ``genbench``. Every import that costs time stands where it is used: --help and table start at once."""

import argparse
import importlib
import logging
import sys

from bench import __version__
from bench.cli.streams import with_output
from bench.errors import BusyError, UserError
from bench.ours import working_folder_last
from bench.plain import PlainFormatter
from bench.stopping import end_by_signals, end_now, is_stopping, stopped

__all__ = ["main"]

EPILOG = """\
start here:
  genbench run experiment=quickstart      seven models on 5000 real digits, in minutes
  genbench list models                    what there is to compare
  genbench new model mine                 the files of a model of your own
  genbench data list                      which data sets are on this machine
  genbench table runs/quickstart          the same table again, as csv, markdown or latex
"""


def main(arguments: list[str] | None = None) -> int:
    """Dispatch a command line.

    Returns:
        0 for success, 1 for a failed run or a regression, 2 for a mistake of the user's, 3 for a check without a clear
        verdict, 75 where what is left is being run by another process, 130 after Ctrl-C, 141 where the reader of the
        output has gone, 143 after SIGTERM.
    """
    if arguments is None:  # this process is the command's
        end_by_signals()
        working_folder_last()
        if logging.lastResort is not None:  # prints warnings outside a run; they may quote a stranger's file
            logging.lastResort.setFormatter(PlainFormatter())
    given = sys.argv[1:] if arguments is None else arguments
    code = with_output(lambda: _main(given))
    if arguments is None and is_stopping():
        end_now(code)
    return code


def _main(arguments: list[str]) -> int:
    try:
        # Hydra reads the arguments of these itself: KEY=VALUE, and -m for a sweep.
        if arguments and arguments[0] == "run":
            from bench.cli import run

            return run.main(arguments[1:])
        if arguments and arguments[0] == "evaluate":
            from bench.cli import evaluate

            return evaluate.main(arguments[1:])
        if arguments and arguments[0] == "tune":
            from bench.cli import tune

            return tune.main(arguments[1:])
        return _dispatch(_parser().parse_args(arguments))
    except UserError as error:
        print(f"genbench: {error}", file=sys.stderr)
        return 75 if isinstance(error, BusyError) else 2
    except KeyboardInterrupt:
        return stopped()


def _parser() -> argparse.ArgumentParser:
    from bench.cli import birthday, check, compare, court, data, lottery, new, properties, table

    parser = argparse.ArgumentParser(
        prog="genbench", description="Compare generative models on equal terms.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"genbench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("run", help="train and measure: one run, or a sweep with -m", add_help=False)
    commands.add_parser("evaluate", help="measure more: runs, checkpoints, or samples of others", add_help=False)
    commands.add_parser("tune", help="search hyperparameters on the validation split", add_help=False)
    table.add_arguments(commands.add_parser("table", help="rows to a table: text, csv, markdown or latex"))
    compare.add_arguments(commands.add_parser("compare", help="which of two models has the higher likelihood, paired"))
    check.add_arguments(commands.add_parser("check", help="compare rows with a baseline: what became worse"))
    listing = commands.add_parser("list", help="models, data sets and metrics, a line each")
    listing.add_argument("asked", nargs="*", metavar="GROUP", help="models, data, metrics, ...; or KEY=VALUE")
    new.add_arguments(commands.add_parser("new", help="the files of a new model, to begin from"))
    properties.add_arguments(
        commands.add_parser("properties", help="what families are like, measured, beside what the literature says")
    )
    lottery.add_arguments(
        commands.add_parser("lottery", help="how much of each number's spread is retraining, how much resampling")
    )
    court.add_arguments(commands.add_parser("court", help="put every metric through known ways of being bad"))
    birthday.add_arguments(commands.add_parser("birthday", help="judge by eye whether a model repeats itself"))
    data.add_arguments(commands.add_parser("data", help="fetch data sets, verify them, say where they are"))
    return parser


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "list":
        return _list(arguments.asked)
    # A file each; what it needs is imported when it begins.
    command = importlib.import_module(f"bench.cli.{arguments.command}")
    code: int = command.main(arguments)
    return code


def _list(asked: list[str]) -> int:
    from bench.config.catalogue import listing
    from bench.config.compose import searched

    overrides = [text for text in asked if "=" in text]
    for text in overrides:
        if not text.startswith(("hydra.searchpath=", "trust=")):
            raise UserError(f"list {text}: only hydra.searchpath=[file:///FOLDER] and trust=[PACKAGE] go here")
    print(listing([text for text in asked if "=" not in text], searched(overrides)))
    return 0
