"""``genbench check``: compare rows with a baseline, and say what became worse. Does not import torch."""

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.streams import write_text
from bench.errors import BusyError, UserError
from bench.files import durable_write
from bench.locks import hold
from bench.paths import at_home
from bench.plain import plain
from bench.regular import check_output

if TYPE_CHECKING:
    from bench.gate.finding import Finding
    from bench.gate.items import Items
    from bench.schema import ResultRow

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``genbench check`` to a parser."""
    parser.add_argument("rows", nargs="*", metavar="ROWS", help="the new rows: files, folders of runs, or patterns")
    parser.add_argument(
        "--baseline", required=True, metavar="FILE", help="rows to compare with: a .jsonl, or the .csv of --update"
    )
    parser.add_argument(
        "--margin", action="append", default=[], metavar="METRIC=NUMBER",
        help="a worsening that is tolerated, in the metric's unit; can be repeated. Default: none is, see docs/gate.md",
    )  # fmt: skip
    parser.add_argument("--junit", metavar="FILE", help="write the verdicts as JUnit XML")
    parser.add_argument("--summary", metavar="FILE", help="write the verdicts as a Markdown table")
    parser.add_argument(
        "--allow-inconclusive", action="store_true", help="exit with 0 also where seeds are too few or rows are missing"
    )
    parser.add_argument("--sequential", action="store_true", help="look at 3, 5 and 8 seeds, and stop when it is clear")
    parser.add_argument(
        "--history", action="append", default=[], metavar="PATH",
        help="rows of past commits, the oldest first; can be repeated. Prints where a level changed, advisory",
    )  # fmt: skip
    parser.add_argument("--self-test", action="store_true", help="resample the baseline: false alarms and power")
    parser.add_argument("--update", action="store_true", help="say what moved, then make ROWS the new baseline")


def main(args: argparse.Namespace) -> int:
    """Compare, print, and write what the options ask for.

    Returns:
        0 where all passed (and after ``--self-test`` and ``--update``), 1 after a regression, 3 where something is
        inconclusive, missing or measured differently.

    Raises:
        bench.errors.UserError: A file is missing or not what it should be, or a margin makes no sense.
    """
    # Imported here because numpy takes a tenth of a second to import and --help does not need it.
    from bench.gate.items import items_of
    from bench.gate.selftest import calibrate, to_text
    from bench.rows.store import find_files

    baseline = at_home("--baseline", args.baseline)
    outputs = {name: at_home(name, text) for name in ("--junit", "--summary") if (text := getattr(args, name[2:]))}
    inputs = [baseline, *find_files(args.rows), *find_files(args.history)]
    for name, path in outputs.items():
        check_output(name, path, inputs)
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        raise UserError("--junit and --summary name the same file; give two")
    if args.self_test:
        if args.rows or args.update or args.sequential or args.history or outputs:
            raise UserError("check --self-test: needs --baseline alone; leave the other arguments out")
        calibrations = calibrate(items_of(_read([baseline]), f"--baseline {args.baseline}"))
        if not calibrations:
            raise UserError(f"--baseline {args.baseline}: no metric with a direction has 3 seeds; run more seeds first")
        write_text(to_text(calibrations))
        return 0
    if not args.rows:
        raise UserError("check: give the new rows, for example genbench check runs/NAME --baseline baseline.jsonl")
    if args.update:
        return _update(args, baseline)
    base = items_of(_read([baseline]), f"--baseline {args.baseline}")
    rows = _read(args.rows)
    findings = _checked(args, base, rows)
    if args.history:
        write_text(_drifts(args.history, rows))
    return _reported(args, findings, outputs)


def _drifts(paths: list[str], rows: "list[ResultRow]") -> str:
    """Lines for what drifted over the rows of past commits and these."""
    from bench.gate.history import FEWEST, drifts
    from bench.gate.items import items_of
    from bench.rows.store import find_files

    files = [file for path in paths for file in find_files([path])]
    history = [(file.name, items_of(_read([file]), f"--history {file.name}")) for file in files]
    if len(history) + 1 < FEWEST:
        raise UserError(f"--history: {len(history)} files of past rows are too few; give at least {FEWEST - 1}")
    found = drifts([*history, ("ROWS", items_of(rows, "ROWS"))])
    return "".join(f"{plain(str(drift))}\n" for drift in found) or "advisory: no drift\n"


def _checked(args: argparse.Namespace, base: "Items", rows: "list[ResultRow]") -> "list[Finding]":
    """The findings; with ``--sequential`` those of the last look, and the command for the seeds of the next."""
    from bench.gate.items import items_of
    from bench.gate.margins import margins_of
    from bench.gate.sequential import in_turn
    from bench.gate.verdict import judge

    new = items_of(rows, "ROWS")
    margins = margins_of(args.margin, base)
    if not args.sequential:
        return judge(base, new, margins)
    look = in_turn(base, new, margins)
    if look.seeds:
        write_text(f"after {look.seeds} seeds:\n")
    if look.wanted:
        write_text("the verdict needs more seeds; run, with the keys of the seeds before:\n")
        for dataset, models in look.wanted.items():
            for seeds in sorted({tuple(one) for one in models.values()}):
                names = ",".join(model for model, one in models.items() if tuple(one) == seeds)
                write_text(f"  genbench run -m model={names} data={dataset} seed={','.join(map(str, seeds))}\n")
    return look.findings


def _reported(args: argparse.Namespace, findings: "list[Finding]", outputs: dict[str, Path]) -> int:
    from bench.gate.report import exit_code, to_junit, to_summary, to_text

    if "--junit" in outputs:
        durable_write(outputs["--junit"], to_junit(findings, allow_inconclusive=args.allow_inconclusive))
    if "--summary" in outputs:
        durable_write(outputs["--summary"], to_summary(findings, f"genbench check against {args.baseline}"))
    write_text(to_text(findings))
    return exit_code(findings, allow_inconclusive=args.allow_inconclusive)


def _update(args: argparse.Namespace, baseline: Path) -> int:
    """Write the rows as the baseline, after saying what moved."""
    from bench.gate.as_csv import to_csv
    from bench.gate.items import items_of
    from bench.gate.report import to_text
    from bench.rows.store import find_files, write_rows
    from bench.schema import Status

    if args.sequential or args.junit or args.summary or args.history:
        raise UserError("check --update: takes ROWS, --baseline and --margin alone; check first")
    if baseline.suffix not in (".csv", ".jsonl"):
        raise UserError(f"--baseline {args.baseline}: give a name that ends in .jsonl or .csv")
    check_output("--baseline", baseline, find_files(args.rows))
    rows = _read(args.rows)
    items_of(rows, "ROWS")
    if not any(row.status is Status.OK for row in rows):
        raise UserError("check --update: no row has a value; a baseline needs some")
    with ExitStack() as stack:
        _alone(baseline, stack)
        if baseline.exists():
            write_text(to_text(_checked(args, items_of(_read([baseline]), f"--baseline {args.baseline}"), rows)))
        if baseline.suffix == ".csv":
            durable_write(baseline, to_csv(rows))
        else:
            write_rows(baseline, rows)
    write_text(f"{args.baseline}: {len(rows)} rows are the new baseline\n")
    return 0


def _alone(baseline: Path, stack: ExitStack) -> None:
    """Lock the baseline's folder, so that no other gate writes between our reading and our writing."""
    folder = baseline.resolve().parent
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, descriptor)
    try:
        stack.enter_context(hold(folder, descriptor))
    except BlockingIOError:
        raise BusyError(f"--baseline {baseline}: another gate is writing in its folder; try again later") from None


def _read(paths: Sequence[str | Path]) -> "list[ResultRow]":
    """Rows of files of rows, folders and patterns, and of the CSV files that ``--update`` writes."""
    from bench.gate.as_csv import from_csv
    from bench.rows.store import collect

    tables = [Path(at_home("rows", path)) for path in paths if str(path).endswith(".csv")]
    others = [path for path in paths if not str(path).endswith(".csv")]
    return [*(row for path in tables for row in from_csv(path)), *(collect(others) if others else [])]
