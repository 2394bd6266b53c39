"""What a table is made of: sections, columns, lines and cells. Standard library only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.schema import PROTOCOL, Relation, Status

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CHECKPOINTS", "REFERENCES", "Cell", "Column", "Line", "Section", "Table"]

CHECKPOINTS = ("best", "final", "both")

REFERENCES = {"data": "the data's own density", "control": "the control (training copies)",
              "molecule control": "a control of molecules"}  # fmt: skip
"""Families of lines that models are read against and that are never ranked themselves, as a legend calls them."""


@dataclass(frozen=True)
class Column:
    """A metric under one protocol.

    Attributes:
        protocol: As in ``ResultRow.protocol``; its parts are named by ``PROTOCOL``.
        title: Heading; the metric's name where two metrics of the section share a title.
        extractor: Name of the feature extractor, or empty.
        higher_is_better: None where order means nothing.
        rank: Place among the columns, the smallest that a row states.
        differs: The parts of the protocol in which it differs from the metric's other columns in this section.
    """

    protocol: tuple[Any, ...]
    title: str
    extractor: str
    higher_is_better: bool | None
    rank: int
    differs: tuple[str, ...] = ()

    def part(self, name: str) -> Any:
        """One part of the protocol by its name."""
        return self.protocol[PROTOCOL.index(name)]

    @property
    def names(self) -> tuple[str, ...]:
        """What a user may call it: its title, its metric's name with and without the extractor."""
        metric: str = self.part("metric")
        return (self.title, metric, metric.split("[", 1)[0])


@dataclass(frozen=True)
class Line:
    """One configuration of one model: its runs differ in the seed alone.

    Attributes:
        family: Of the model, or one of ``REFERENCES``.
        label: The model's name; where several lines share it, with the configuration in which they differ (or the
            group's hash where their rows do not hold it) and the checkpoint; with ``(external samples)`` where the
            samples were made by others.
        external: Whether its rows were measured on samples made by others.
        checkpoint: The one asked for where the line has it, else what it has.
        seeds: Of all its rows, sorted, whatever their status.
        budgets, devices: Distinct, sorted.
    """

    model: str
    family: str
    group: str
    external: bool
    checkpoint: str
    label: str
    seeds: tuple[int, ...]
    budgets: tuple[str, ...]
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    r"""What is known of one model under one metric.

    The value is the mean over the m seeds that have one, and the spread its standard error over new seeds and new test
    examples, the part that the seeds share counted once (``bench.tables.uncertainty``):

    .. math:: \bar v = \frac1m \sum_i v_i, \qquad
        \text{spread}^2 = \frac{s^2}{m} + \frac1m \sum_i t_i^2, \quad
        s^2 = \frac{1}{m-1}\sum_i (v_i - \bar v)^2 \quad (m \ge 2)

    with :math:`t_i` the standard error of seed i from the test examples. With one seed the spread is the standard error
    within the run, where there is one: how much training varies is unknown. So it is for several seeds of samples that
    others made, which are the same samples in another order. The interval is at 95 %:
    :math:`\bar v \pm q\,\text{spread}` with q from ``uncertainty.quantile``, or the run's own.

    Attributes:
        status: ok if any seed has a value, else failed if any failed, else skipped.
        value: None too where seeds have values of which there is no mean: bounds beside estimates, or bounds of both
            directions. ``reason`` then lists them.
        spread_kind: ``total``; ``seeds`` where the part of the test examples is not known and left out; ``run``; empty
            where spread is None.
        stderr_seeds: s/sqrt(m), None with one seed. It contains the runs' own draws.
        stderr_test: sqrt(mean of t_i^2), None where a seed does not state it.
        stderr_draws: What the runs' own draws contribute to the error of the mean, None where a seed does not state it.
        relation: How the value relates to the truth. A mean of exact values and of bounds of one direction is a bound.
        n_draws: Draws K, or None where there are none or the seeds differ.
        seeds: That have a value, or all of them where none has.
        lost: Seeds that failed or were skipped although others have a value. Such a mean is never ranked: the seeds
            that survive are not a fair sample.
        load: The least load under which a seed's time was measured, None where one is not known.
        reason: Why values are missing.
        source: Where the numbers come from.
        caveat: What a reader of the value must know; usually nothing.
        unranked: Why the cell takes no part in the ranking of its column although it has a value; empty where it does.
        best: Whether no comparable cell is better and none of the column is certainly better, given that there is
            another comparable cell.
    """

    status: Status
    value: float | None
    spread: float | None
    spread_kind: str
    stderr_seeds: float | None
    stderr_test: float | None
    stderr_draws: float | None
    ci_low: float | None
    ci_high: float | None
    relation: Relation | None
    n_draws: int | None
    seeds: tuple[int, ...]
    lost: tuple[int, ...]
    load: float | None
    reason: str
    checkpoint: str
    device: str
    budget: str
    git_commit: str
    dirty: bool
    source: str
    caveat: str = ""
    unranked: str = ""
    best: bool = False


@dataclass(frozen=True, eq=False)
class Section:
    """One data set.

    Attributes:
        columns: By rank, metric and protocol.
        lines: The data's own density first, then those with a ranked value in the column ``sorted_by``, best first,
            then the others by label.
        cells: By (index of the line, index of the column); absent where there is no row.
        rows: The rows behind the cells, as in ``bench.rows.frame``.
        repeated: Rows left out because another run of the same configuration and seed stands in the cell.
        sorted_by: Index of the column that orders the lines, None where no column does.
    """

    dataset: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    cells: dict[tuple[int, int], Cell]
    rows: "pd.DataFrame"
    repeated: int
    sorted_by: int | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """A leaderboard: one section a data set, by name; ``checkpoint`` as asked for."""

    sections: tuple[Section, ...]
    checkpoint: str
