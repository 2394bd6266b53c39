"""What a table is made of: sections, columns, lines and cells. Standard library only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.schema import PROTOCOL, Relation, Status

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CHECKPOINTS", "Cell", "Column", "Line", "Section", "Table"]

CHECKPOINTS = ("best", "final", "both")


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


@dataclass(frozen=True)
class Line:
    """One configuration of one model: its runs differ in the seed alone.

    Attributes:
        label: The model's name, with the group's hash and the checkpoint where the name alone is ambiguous, and with
            ``(external samples)`` where the samples were made by others.
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

    The value is the mean over the m seeds that have one, and the spread its standard error:

    .. math:: \bar v = \frac1m \sum_i v_i, \qquad
        \text{spread} = \frac{s}{\sqrt m}, \quad s^2 = \frac{1}{m-1}\sum_i (v_i - \bar v)^2 \quad (m \ge 2)

    With one seed the spread is the standard error within the run, where there is one. The interval is at 95 %:
    Student's t with m - 1 degrees of freedom, or the run's own.

    Attributes:
        status: ok if any seed has a value, else failed if any failed, else skipped.
        spread_kind: ``seeds``, ``run``, or empty where spread is None.
        relation: How the value relates to the truth; ``estimate`` where the seeds' relations differ.
        n_draws: Draws K, or None where there are none or the seeds differ.
        seeds: That have a value, or all of them where none has.
        lost: Seeds that failed or were skipped although others have a value. Such a mean is never ranked: the seeds
            that survive are not a fair sample.
        reason: Why values are missing.
        source: Where the numbers come from.
        best: Whether no comparable cell is better, given that there is another comparable cell.
    """

    status: Status
    value: float | None
    spread: float | None
    spread_kind: str
    ci_low: float | None
    ci_high: float | None
    relation: Relation | None
    n_draws: int | None
    seeds: tuple[int, ...]
    lost: tuple[int, ...]
    reason: str
    checkpoint: str
    device: str
    budget: str
    git_commit: str
    dirty: bool
    source: str
    best: bool = False


@dataclass(frozen=True, eq=False)
class Section:
    """One data set.

    Attributes:
        columns: By rank, metric and protocol.
        lines: By family, model, group and checkpoint.
        cells: By (index of the line, index of the column); absent where there is no row.
        rows: The rows behind the cells, as in ``bench.rows.frame``.
        repeated: Rows left out because another run of the same configuration and seed stands in the cell.
    """

    dataset: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    cells: dict[tuple[int, int], Cell]
    rows: "pd.DataFrame"
    repeated: int


@dataclass(frozen=True, eq=False)
class Table:
    """A leaderboard: one section a data set, by name; ``checkpoint`` as asked for."""

    sections: tuple[Section, ...]
    checkpoint: str
