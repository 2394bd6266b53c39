"""``genbench court``: put every metric through known ways of being bad, and print who noticed."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.cli.streams import write_text
from bench.files import durable_write
from bench.paths import at_home
from bench.regular import check_output

if TYPE_CHECKING:
    from bench.evaluation.court import Finding

__all__ = ["add_arguments", "main", "to_csv", "to_markdown"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``genbench court`` to a parser."""
    parser.add_argument("--repetitions", type=int, default=5, metavar="R", help="independent draws; default: 5")
    parser.add_argument("--out", metavar="FILE", help="write every finding to this .csv, or the table to this .md")


def main(args: argparse.Namespace) -> int:
    """Hold court, print the table, and write what ``--out`` asks for.

    Returns:
        0: a metric that fails is a finding, not a failure of the command.

    Raises:
        bench.errors.UserError: There are fewer than two repetitions, or ``--out`` cannot be written.
    """
    from bench.errors import UserError
    from bench.evaluation.court import hold_court

    if args.repetitions < 2:
        raise UserError(f"court --repetitions {args.repetitions}: at least 2 are needed for a spread")
    out = None if args.out is None else at_home("--out", args.out)
    if out is not None:
        if out.suffix not in (".csv", ".md"):
            raise UserError(f"court --out {args.out}: give a name that ends in .csv or .md")
        check_output("--out", out, [])
    findings = list(hold_court(args.repetitions))
    table = to_markdown(findings)
    if out is not None:
        durable_write(out, to_csv(findings) if out.suffix == ".csv" else table)
    write_text(table)
    return 0


def to_markdown(findings: "Sequence[Finding]") -> str:
    """A line for each charge, a column for each metric: pass, FAIL, or nothing where the charge does not concern it."""
    metrics = list(dict.fromkeys(finding.metric for finding in findings))
    charges = list(dict.fromkeys(finding.charge for finding in findings))
    cells = {(finding.charge, finding.metric): finding for finding in findings}
    sees = {finding.metric: str(finding.sees) for finding in findings}
    lines = [
        "| samples | " + " | ".join(f"{name}<br>{sees[name]}" for name in metrics) + " |",
        "| --- |" + " :-: |" * len(metrics),
    ]
    for charge in charges:
        row = [cells.get((charge, name)) for name in metrics]
        lines.append(f"| {charge} | " + " | ".join("" if one is None else _word(one) for one in row) + " |")
    return "\n".join(lines) + "\n"


def _word(finding: "Finding") -> str:
    if finding.passed:
        return "pass"
    return "**FAIL**: blind" if finding.must == "notice" else "**FAIL**: fooled"


def to_csv(findings: "Sequence[Finding]") -> str:
    """Every finding with the mean values behind it."""
    lines = ["metric,sees,charge,must,passed,ideal,steps,spread"]
    for one in findings:
        steps = " ".join(f"{value:.6g}" for value in one.values[1:])
        charge = f'"{one.charge}"'
        lines.append(
            f"{one.metric},{one.sees},{charge},{one.must},{one.passed},{one.values[0]:.6g},{steps},{one.spread:.3g}"
        )
    return "\n".join(lines) + "\n"
