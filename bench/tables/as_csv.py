"""A table as CSV. The same rows give the same bytes."""

import csv
import io

from bench.plain import plain
from bench.schema import PROTOCOL
from bench.tables.model import Cell, Column, Line, Table

__all__ = ["csv_entry", "to_csv"]

_CSV_COLUMNS = [
    "dataset", "data_revision", "split", "model", "family", "label", "group", "checkpoint", "metric", "title",
    "metric_version", "unit", "direction", "extractor", "extractor_hash", "n_real", "n_fake", "source", "relation",
    "n_draws", "value", "spread", "spread_kind", "stderr_seeds", "stderr_test", "stderr_draws", "ci_low", "ci_high",
    "n_seeds", "seeds", "lost_seeds", "best", "unranked", "status", "reason", "device", "load", "budget", "git_commit",
    "dirty",
]  # fmt: skip


def to_csv(table: Table) -> str:
    """One line a cell, numbers in full precision; texts that a spreadsheet would run as formulas begin with ``'``.

    ``spread`` is the standard error behind ±. Its ``spread_kind`` is ``total`` (over new seeds and new test examples),
    ``seeds`` (over the seeds alone, because the rows do not hold the part of the test examples) or ``run`` (within the
    one run). Its parts are ``stderr_seeds``, which contains what the runs' own draws contribute (``stderr_draws``), and
    ``stderr_test``. ``unranked`` says why a cell takes no part in the ranking; ``direction`` is ``higher``, ``lower``
    or empty.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for section in table.sections:
        for (line, column), cell in section.cells.items():
            record = _csv_record(section.lines[line], section.columns[column], cell)
            writer.writerow([csv_entry(record[name]) for name in _CSV_COLUMNS])
    return file.getvalue()


def _csv_record(line: Line, column: Column, cell: Cell) -> dict[str, object]:
    return {
        **dict(zip(PROTOCOL, column.protocol, strict=True)),
        "model": line.model,
        "family": line.family,
        "label": line.label,
        "group": line.group,
        "checkpoint": cell.checkpoint,
        "source": cell.source,
        "title": column.title,
        "direction": {True: "higher", False: "lower", None: ""}[column.higher_is_better],
        "extractor": column.extractor,
        "relation": str(cell.relation) if cell.relation is not None else "",
        "n_draws": cell.n_draws,
        "value": cell.value,
        "spread": cell.spread,
        "spread_kind": cell.spread_kind,
        "stderr_seeds": cell.stderr_seeds,
        "stderr_test": cell.stderr_test,
        "stderr_draws": cell.stderr_draws,
        "ci_low": cell.ci_low,
        "ci_high": cell.ci_high,
        "n_seeds": len(cell.seeds),
        "seeds": " ".join(str(seed) for seed in cell.seeds),
        "lost_seeds": " ".join(str(seed) for seed in cell.lost),
        "best": cell.best,
        "unranked": cell.unranked,
        "status": str(cell.status),
        "reason": cell.reason,
        "device": cell.device,
        "load": cell.load,
        "budget": cell.budget,
        "git_commit": cell.git_commit,
        "dirty": cell.dirty,
    }


def csv_entry(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(float(value))
    text = plain(str(value))
    # Spreadsheets skip leading spaces, and read the full-width signs like the others.
    return f"'{text}" if text.lstrip().startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20")) else text
