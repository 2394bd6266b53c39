"""Published numbers as rows: ``python -m bench.rows.quoted SOURCE FILE.csv ROWS.jsonl`` writes them.

A quoted row has a column of its own in every table, and its note says where it is from, so it is never ranked: neither
with what this harness measures, nor with other published numbers, whose protocols differ.
"""

import csv
import sys
from pathlib import Path

from bench.errors import UserError
from bench.rows.store import write_rows
from bench.schema import ResultRow, Source, Status

__all__ = ["quoted_rows"]

_TITLES = {"molecule_reconstruction": "reconstruction"}


def quoted_rows(file: Path, source: str) -> list[ResultRow]:
    """Return a row for each line of a CSV file with the columns dataset, model, family, metric, value and note.

    Arguments:
        source: Where the numbers were published.

    Raises:
        UserError: A line lacks a column, or its value is no number.
    """
    made = []
    with file.open(newline="", encoding="utf-8") as stream:
        for number, line in enumerate(csv.DictReader(stream), start=2):
            try:
                value, metric, dataset = float(line["value"]), line["metric"], line["dataset"]
                model, family, note = line["model"], line["family"], line["note"]
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{file}:{number}: is no line of published numbers ({error})") from error
            made.append(
                ResultRow(
                    run_id=f"{dataset}-{model}-quoted", training_key=f"quoted {dataset} {model}",
                    group=f"quoted {dataset} {model}", model=model, model_family=family, dataset=dataset,
                    data_revision="as published", split="as published", seed=0, budget="as published", metric=metric,
                    metric_title=_TITLES.get(metric, metric), higher_is_better=None, rank=300, value=value,
                    status=Status.OK, reason=" ".join([f"quoted from {source}", note]).strip(), source=Source.QUOTED,
                )
            )  # fmt: skip
    return made


if __name__ == "__main__":
    write_rows(sys.argv[3], quoted_rows(Path(sys.argv[2]), sys.argv[1]))
