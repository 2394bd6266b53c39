"""``genbench compare``: which of two models has the higher likelihood, on the same test examples. Imports no torch."""

import argparse
import math
from typing import TYPE_CHECKING

from bench.cli.streams import write_text
from bench.plain import plain
from bench.schema import Relation
from bench.tables.model import CHECKPOINTS

if TYPE_CHECKING:
    from bench.runs.sides import Side
    from bench.tables.paired import Difference

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``genbench compare`` to a parser."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN",
        help="folders of runs, or patterns of them: of two models, each with one seed or several",
    )  # fmt: skip
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="best", help="whose likelihood; default: best")


def main(args: argparse.Namespace) -> int:
    """Print the paired difference of the two models' log-likelihoods and what it certifies.

    Returns:
        0, whatever the verdict.

    Raises:
        bench.errors.UserError: The runs are not of two models that were measured on the same examples.
    """
    from bench.runs.sides import two_sides
    from bench.tables.paired import paired_difference, verdict

    a, b = two_sides(args.runs, args.checkpoint)
    difference = paired_difference(a.items, b.items)
    lines = [*_described(a, b, difference), verdict(difference, a.relation, b.relation)]
    text = "".join(plain(line) + "\n" for line in lines)
    write_text(text)
    return 0


def _described(a: "Side", b: "Side", difference: "Difference") -> list[str]:
    row = a.rows[0]
    digits = _digits(difference.stderr)
    of = f"{difference.n} test examples of {row.dataset}, {row.checkpoint} checkpoint"
    lines = [f"log-likelihood in nats an example, {of}"]
    width = max(len(side.rows[0].model) for side in (a, b))
    for name, side in (("A", a), ("B", b)):
        draws = {one.n_draws for one in side.rows if one.relation is not Relation.EXACT}
        of_draws = f", K = {', '.join(map(str, sorted(filter(None, draws))))}" if draws else ""
        seeds = ", ".join(str(one.seed) for one in side.rows)
        lines.append(
            f"  {name}      {side.rows[0].model:<{width}}  {side.relation.symbol} {side.items.mean():.{digits}f}  "
            f"({side.relation.replace('_', ' ')}{of_draws}; seed{'s' * (len(side.rows) > 1)} {seeds})"
        )
        lines += [f"         {said}" for said in sorted({one.reason for one in side.rows if one.reason})]
    lines.append(
        f"  A - B  {difference.value:+.{digits}f} ± {difference.stderr:.{digits}f}, 95 % interval "
        f"{difference.low:+.{digits}f} to {difference.high:+.{digits}f}"
    )
    test, seeds = (f"{error or 0.0:.{digits}f}" for error in (difference.of_test, difference.of_seeds))
    lines.append(
        "  ± holds for these trained models; with two seeds of each, how much training varies would be in it"
        if difference.of_seeds is None
        else f"  ± {test} of the test examples, {seeds} of training with other seeds"
    )
    return lines


def _digits(stderr: float) -> int:
    """Decimals that show two digits of an error."""
    return min(10, max(0, 1 - math.floor(math.log10(stderr)))) if stderr > 0 else 4
