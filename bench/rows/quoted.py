"""Published numbers as rows: ``python -m bench.rows.quoted SOURCE FILE.csv ROWS.jsonl`` writes them.

A quoted row has a column of its own in every table, and its note says where it is from, so it is never ranked: neither
with what this harness measures, nor with other published numbers, whose protocols differ.
"""

import csv
import hashlib
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError
from bench.rows.store import write_rows
from bench.schema import ResultRow, Source, Status

__all__ = ["main", "quoted_rows"]

_TITLES = {"molecule_reconstruction": "reconstruction"}


def quoted_rows(file: Path, source: str) -> list[ResultRow]:
    """Return a row for each line of a CSV file with the columns dataset, model, family, metric, value and note.

    Arguments:
        source: Where the numbers were published.

    Raises:
        UserError: The file cannot be read, a line lacks a column, its value is no finite number, or an earlier
            line has the same data set, model and metric.
    """
    made: list[ResultRow] = []
    lines: dict[tuple[str, str, str], int] = {}
    # Two sources may quote one model: without a mark of the source one's numbers would replace the other's.
    mark = hashlib.sha256(source.encode()).hexdigest()[:8]
    with io.StringIO(_text(file), newline="") as stream:
        for number, line in enumerate(csv.DictReader(stream), start=2):
            try:
                value, metric, dataset = float(line["value"]), line["metric"], line["dataset"]
                model, family, note = line["model"], line["family"], line["note"]
                if not math.isfinite(value):
                    raise ValueError(f"the value is {value}")
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{file}:{number}: is no line of published numbers ({error})") from error
            first = lines.setdefault((dataset, model, metric), number)
            if first != number:
                raise UserError(f"{file}:{number}: {metric} of {model} on {dataset} stands in line {first} already")
            made.append(
                ResultRow(
                    run_id=f"{dataset}-{model}-quoted-{mark}", training_key=f"quoted {dataset} {model} {mark}",
                    group=f"quoted {dataset} {model} {mark}", model=model, model_family=family, dataset=dataset,
                    data_revision="as published", split="as published", seed=0, budget="as published", metric=metric,
                    metric_title=_TITLES.get(metric, metric), higher_is_better=None, rank=300, value=value,
                    status=Status.OK, reason=" ".join([f"quoted from {source}", note]).strip(), source=Source.QUOTED,
                )
            )  # fmt: skip
    return made


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error


def main(arguments: Sequence[str]) -> int:
    """Write the rows; return the exit code."""
    if len(arguments) != 3:
        print("usage: python -m bench.rows.quoted SOURCE FILE.csv ROWS.jsonl", file=sys.stderr)
        return 2
    source, file, rows = arguments
    try:
        write_rows(rows, quoted_rows(Path(file), source))
    except UserError as error:
        print(f"genbench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
