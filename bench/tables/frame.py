"""A table as a pandas frame, for notebooks."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import pandas as pd

from bench.schema import ResultRow
from bench.tables.aggregate import make_table
from bench.tables.model import Section
from bench.tables.view import head_of

__all__ = ["table"]

_PARTS = ("value", "stderr", "stderr_seeds", "stderr_test", "relation")


def table(
    rows: pd.DataFrame | Iterable[ResultRow], checkpoint: str = "best", metrics: Sequence[str] = ()
) -> pd.DataFrame:  # fmt: skip
    """The table of rows as a wide frame: a line for each model of a data set, ``value``, ``stderr`` with its parts
    ``stderr_seeds`` and ``stderr_test``, and ``relation`` of each metric.

    The index is (dataset, model), the model's name as in a printed table. The first level of the columns is the
    metric's title, with what tells it from the metric's other protocols. ``stderr`` is the standard error over new
    seeds and new test examples, or within the run where there is one seed, as in ``bench.tables.model.Cell``. What is
    missing is NaN, a missing relation None.

    >>> from bench.schema import Relation, ResultRow, Source, Status
    >>> def row(model, seed, value):
    ...     return ResultRow(
    ...         run_id=f"{model}-{seed}", training_key=f"{model}-{seed}", group=model, model=model, model_family="flow",
    ...         dataset="two_moons", data_revision="1", split="test", seed=seed, metric="log_likelihood", unit="nats",
    ...         metric_title="log-likelihood", higher_is_better=True, relation=Relation.EXACT, value=value,
    ...         status=Status.OK, source=Source.MEASURED,
    ...     )
    >>> table([row("maf", 0, -2.5), row("maf", 1, -2.7), row("nsf", 0, -2.4)])  # doctest: +NORMALIZE_WHITESPACE
                    log-likelihood
                             value stderr stderr_seeds stderr_test relation
    dataset   model
    two_moons nsf             -2.4    NaN          NaN         0.0    exact
              maf             -2.6    0.1          0.1         0.0    exact

    Arguments:
        rows: A frame of ``load_rows``, or rows.
        checkpoint: ``best`` or ``final`` (a run that has no such checkpoint shows the other), or ``both`` as two lines.
        metrics: Names to keep; ``fid`` keeps ``fid[mnist-cnn]`` too. All where empty.

    Raises:
        bench.errors.UserError: There are no rows, or none of a metric asked for.
    """
    sections = make_table(rows, checkpoint, metrics).sections
    lines: dict[tuple[str, str], dict[tuple[str, str], object]] = {}
    places: dict[str, tuple[int, str, str]] = {}
    metrics_of = defaultdict(set)
    for column in (column for section in sections for column in section.columns):
        metrics_of[column.title].add(column.part("metric"))
    for section in sections:
        names = _names(section, {title for title, found in metrics_of.items() if len(found) > 1})
        for name, column in zip(names, section.columns, strict=True):
            places[name] = (column.rank, column.part("metric"), name)
        for line in section.lines:
            lines[section.dataset, line.label] = {}
        for (number, index), cell in section.cells.items():
            entries = lines[section.dataset, section.lines[number].label]
            entries[names[index], "value"] = cell.value
            entries[names[index], "stderr"] = cell.spread
            entries[names[index], "stderr_seeds"] = cell.stderr_seeds
            entries[names[index], "stderr_test"] = cell.stderr_test
            entries[names[index], "relation"] = None if cell.relation is None else str(cell.relation)
    names = sorted(places, key=places.__getitem__)
    columns = [(name, part) for name in names for part in _PARTS]
    frame = pd.DataFrame(
        [[entries.get(column) for column in columns] for entries in lines.values()],
        index=pd.MultiIndex.from_tuples(lines, names=["dataset", "model"]),
        columns=pd.MultiIndex.from_tuples(columns),
        dtype="object",
    )
    return frame.astype({column: "float64" for column in columns if column[1] != "relation"})


def _names(section: Section, ambiguous: set[str]) -> list[str]:
    """Different names of the section's columns: the title, or the metric's name where data sets use one title for
    several, with the protocol where the metric has several."""
    names = []
    for column in section.columns:
        name = column.part("metric") if column.title in ambiguous else column.title
        names.append(f"{name} ({head_of(column)[1]})" if column.differs else name)
    # Hashes are shown by their first characters; the whole protocol tells those apart that share them.
    return [
        name if names.count(name) == 1 else f"{name} {column.protocol}"
        for name, column in zip(names, section.columns, strict=True)
    ]
