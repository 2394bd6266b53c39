"""Rows to a table: what belongs in one cell, what may be ranked, and how sure it is. Standard library only.

A section is one data set. A column is one metric under one protocol: the same metric measured on another number of
samples, with other features or on another split is another column. A line is one model configuration; its runs that
differ in nothing but the seed are averaged, and different configurations of one model never are.
"""

import functools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.errors import UserError
from bench.schema import Relation, ResultRow, Status

__all__ = ["CHECKPOINTS", "PROTOCOL", "Cell", "Column", "Line", "Section", "Table", "certified", "make_table"]

CHECKPOINTS = ("best", "final", "both")
# The names of the parts of ResultRow.protocol.
PROTOCOL = (
    "dataset", "data_revision", "split", "metric", "metric_version", "unit", "extractor_hash", "n_real", "n_fake",
    "source",
)  # fmt: skip

_QUALITY = ("log_likelihood", "bits_per_dim", "fid", "is", "support")
_COST = (
    "parameters", "train_seconds", "train_examples_per_second", "samples_per_second", "nfe_log_weight", "nfe_sample",
    "series_terms",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A metric under one protocol.

    Attributes:
        protocol: As in ``ResultRow.protocol``; its parts are named by ``PROTOCOL``.
        title: Heading; the metric's name where two metrics of the section share a title.
        extractor: Name of the feature extractor, or empty.
        higher_is_better: None where order means nothing.
        differs: The parts of the protocol in which it differs from the metric's other columns in this section.
    """

    protocol: tuple[Any, ...]
    title: str
    extractor: str
    higher_is_better: bool | None
    differs: tuple[str, ...] = ()

    def part(self, name: str) -> Any:
        """One part of the protocol by its name."""
        return self.protocol[PROTOCOL.index(name)]


@dataclass(frozen=True)
class Line:
    """One configuration of one model: its runs differ in the seed alone.

    Attributes:
        label: The model's name, with the group's hash and the checkpoint where the name alone is ambiguous.
        checkpoint: The one asked for where the line has it, else what it has.
        seeds: Of all its rows, sorted, whatever their status.
        budgets, devices: Distinct, sorted.
    """

    model: str
    family: str
    group: str
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
    best: bool = False


@dataclass(frozen=True)
class Section:
    """One data set.

    Attributes:
        columns: Likelihood and quality, then costs, then metrics without a direction.
        lines: By family, model, group and checkpoint.
        cells: By (index of the line, index of the column); absent where there is no row.
        rows: The rows behind the cells.
        repeated: Rows left out because another run of the same configuration and seed stands in the cell.
    """

    dataset: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    cells: dict[tuple[int, int], Cell]
    rows: frozenset[ResultRow]
    repeated: int


@dataclass(frozen=True)
class Table:
    """A leaderboard: one section a data set, by name; ``checkpoint`` as asked for."""

    sections: tuple[Section, ...]
    checkpoint: str


def make_table(rows: Iterable[ResultRow], checkpoint: str = "best", metrics: Sequence[str] = ()) -> Table:
    """Put rows into cells. The result depends on the set of rows alone, never on their order.

    Where one configuration was run twice with the same seed, one row stands in the cell: one that has a value before
    one that has none, then the greatest run_id.

    Arguments:
        rows: Of any data sets, models and protocols.
        checkpoint: ``best`` or ``final`` (a run that has no such checkpoint shows the other), or ``both`` as two lines.
        metrics: Names to keep; ``fid`` keeps ``fid[mnist-cnn]`` too. All where empty.

    Raises:
        UserError: There are no rows, or none of a metric asked for, or a value that is not finite.
    """
    if checkpoint not in CHECKPOINTS:
        raise UserError(f"checkpoint is {checkpoint!r}; choose one of {', '.join(CHECKPOINTS)}")
    distinct = set(rows)
    if not distinct:
        raise UserError("there are no rows to make a table from; run something first")
    for row in distinct:
        if row.status is Status.OK and (row.value is None or not math.isfinite(row.value)):
            raise UserError(f"run {row.run_id}: {row.metric} is {row.value} with status ok; evaluate the run again")
    known = {row.metric for row in distinct}
    for name in metrics:
        if not any(name in (metric, _base(metric)) for metric in known):
            raise UserError(f"no row has the metric {name!r}; there are {', '.join(sorted(known))}")
    kept = [row for row in distinct if not metrics or row.metric in metrics or _base(row.metric) in metrics]
    sections = []
    for dataset in sorted({row.dataset for row in kept}):
        of_dataset = [row for row in kept if row.dataset == dataset]
        sections.append(_section(dataset, _at_checkpoint(of_dataset, checkpoint), checkpoint))
    return Table(tuple(sections), checkpoint)


def certified(a: ResultRow, b: ResultRow) -> bool:
    """Whether "A beats B" holds beyond doubt: A's worst possible value is better than B's best possible one.

    For a metric where higher is better, A needs a floor (an exact value or a lower bound, less its uncertainty) above
    B's ceiling (an exact value or an upper bound, plus its uncertainty); else the other way round. The uncertainty is
    the 95 % interval, or 1.96 standard errors where there is none. Two lower bounds certify nothing, however far apart.
    Rows of different protocols, without values, without relation or without direction are never certified.
    """
    if a.protocol != b.protocol or a.higher_is_better is None or a.higher_is_better is not b.higher_is_better:
        return False
    if a.higher_is_better:
        floor, ceiling = _limit(a, Relation.LOWER_BOUND), _limit(b, Relation.UPPER_BOUND)
    else:
        floor, ceiling = _limit(b, Relation.LOWER_BOUND), _limit(a, Relation.UPPER_BOUND)
    return floor is not None and ceiling is not None and floor > ceiling


def _limit(row: ResultRow, side: Relation) -> float | None:
    """The number that the truth does not fall below (side: lower bound) or rise above (upper bound), or None."""
    if row.value is None or row.relation not in (Relation.EXACT, side):
        return None
    lower = side is Relation.LOWER_BOUND
    limit = row.ci_low if lower else row.ci_high
    if limit is not None:
        return limit
    return row.value + (-1.96 if lower else 1.96) * (row.stderr or 0.0)


def _base(metric: str) -> str:
    """``fid`` of ``fid[mnist-cnn]``."""
    return metric.split("[", 1)[0]


def _at_checkpoint(rows: list[ResultRow], checkpoint: str) -> list[ResultRow]:
    """The rows of one checkpoint; for a seed whose metric was not measured there, those of the other."""
    if checkpoint == "both":
        return rows
    asked = {(_configuration(row), row.seed, row.metric) for row in rows if row.checkpoint == checkpoint}
    return [
        row for row in rows if row.checkpoint == checkpoint or (_configuration(row), row.seed, row.metric) not in asked
    ]


def _configuration(row: ResultRow) -> tuple[str, str, str]:
    return (row.model_family, row.model, row.group)


def _section(dataset: str, rows: list[ResultRow], checkpoint: str) -> Section:
    """Columns, lines and cells of one data set; with ``both`` each checkpoint has its own line."""
    by_column = _by_protocol(rows)
    columns = _columns(by_column)
    members: dict[tuple[str, ...], list[ResultRow]] = defaultdict(list)  # of each line
    filled: dict[tuple[tuple[str, ...], int], list[ResultRow]] = defaultdict(list)
    for index, column in enumerate(columns):
        for row in by_column[column.protocol]:
            key: tuple[str, ...] = (*_configuration(row), row.checkpoint if checkpoint == "both" else "")
            members[key].append(row)
            filled[key, index].append(row)
    place = {key: number for number, key in enumerate(sorted(members))}
    cells: dict[tuple[int, int], Cell] = {}
    used: set[ResultRow] = set()
    for (key, index), candidates in filled.items():
        chosen = _one_per_seed(candidates)
        used.update(chosen)
        cells[place[key], index] = _cell(chosen)
    for index, column in enumerate(columns):
        _mark_best(cells, index, column)
    lines = _labelled([_line(key, members[key], checkpoint) for key in place])
    return Section(dataset, columns, lines, dict(sorted(cells.items())), frozenset(used), len(set(rows) - used))


def _by_protocol(rows: list[ResultRow]) -> dict[tuple[Any, ...], list[ResultRow]]:
    """Rows of each column. Protocols come from values.

    A row without a value may not know its whole protocol (nothing was counted yet). It goes to the columns of its
    metric that agree with what it states, to those that hold its model's other seeds where there are such, and only has
    a column of its own where no other agrees.
    """
    columns: dict[tuple[Any, ...], list[ResultRow]] = defaultdict(list)
    for row in rows:
        if row.status is Status.OK:
            columns[row.protocol].append(row)
    holders = {(protocol, _configuration(row)) for protocol, members in columns.items() for row in members}
    rest = [row for row in rows if row.status is not Status.OK]
    for row in sorted(rest, key=lambda row: (sum(_unstated(part) for part in row.protocol), repr(row.protocol))):
        agreeing = [protocol for protocol in columns if _agree(row.protocol, protocol)] or [row.protocol]
        own = [protocol for protocol in agreeing if (protocol, _configuration(row)) in holders]
        for protocol in own or agreeing:
            columns[protocol].append(row)
    return columns


def _unstated(part: object) -> bool:
    return part is None or part == ""


def _agree(stated: tuple[Any, ...], protocol: tuple[Any, ...]) -> bool:
    return all(_unstated(mine) or mine == theirs for mine, theirs in zip(stated, protocol, strict=True))


def _columns(by_protocol: dict[tuple[Any, ...], list[ResultRow]]) -> tuple[Column, ...]:
    columns = []
    for protocol, rows in by_protocol.items():
        directions = {row.higher_is_better for row in rows}
        columns.append(
            Column(
                protocol=protocol,
                title=min((row.metric_title for row in rows if row.metric_title), default=rows[0].metric),
                extractor=max(row.extractor for row in rows),
                higher_is_better=directions.pop() if len(directions) == 1 else None,
            )
        )
    return tuple(sorted((_distinguished(column, columns) for column in columns), key=_order))


def _distinguished(column: Column, columns: list[Column]) -> Column:
    """The column with what sets it apart from its namesakes."""
    metric = column.part("metric")
    namesakes = [other for other in columns if other.part("metric") == metric]
    differs = tuple(part for part in PROTOCOL if len({other.part(part) for other in namesakes}) > 1)
    ambiguous = any(other.title == column.title and other.part("metric") != metric for other in columns)
    return replace(column, title=metric if ambiguous else column.title, differs=differs)


def _order(column: Column) -> tuple[Any, ...]:
    base = _base(column.part("metric"))
    if base in _QUALITY:
        rank = (0, _QUALITY.index(base))
    elif base in _COST:
        rank = (2, _COST.index(base))
    else:
        rank = (1 if column.higher_is_better is not None else 3, 0)
    # None sorts before every number.
    protocol = [(part is not None, part if part is not None else 0) for part in column.protocol]
    return (*rank, column.part("metric"), protocol)


def _one_per_seed(rows: list[ResultRow]) -> list[ResultRow]:
    """Of runs of the same configuration and seed, one; sorted by seed."""
    by_seed: dict[int, list[ResultRow]] = defaultdict(list)
    for row in rows:
        by_seed[row.seed].append(row)
    return [_preferred(same) for _, same in sorted(by_seed.items())]


def _preferred(rows: list[ResultRow]) -> ResultRow:
    # repr is only a tie-break, and slow.
    if len(rows) == 1:
        return rows[0]
    return max(rows, key=lambda row: (row.status is Status.OK, row.run_id, repr(row)))


def _cell(rows: list[ResultRow]) -> Cell:
    """One cell from one row a seed."""
    valued = [row for row in rows if row.status is Status.OK]
    missing = [row for row in rows if row.status is not Status.OK]
    behind = valued or missing
    relations = {row.relation for row in valued}
    draws = {row.n_draws for row in valued}
    value, spread, kind, low, high = _mean(valued)
    if valued:
        status = Status.OK
    else:
        status = Status.FAILED if any(row.status is Status.FAILED for row in missing) else Status.SKIPPED
    return Cell(
        status=status,
        value=value,
        spread=spread,
        spread_kind=kind,
        ci_low=low,
        ci_high=high,
        relation=relations.pop() if len(relations) == 1 else Relation.ESTIMATE if relations else None,
        n_draws=draws.pop() if len(draws) == 1 else None,
        seeds=tuple(row.seed for row in behind),
        lost=tuple(row.seed for row in missing) if valued else (),
        reason="; ".join(sorted({row.reason or f"no reason given ({row.status})" for row in missing})),
        checkpoint="; ".join(sorted({row.checkpoint for row in behind})),
        device="; ".join(sorted({row.device for row in behind})),
        budget="; ".join(sorted({row.budget for row in behind})),
        git_commit="; ".join(sorted({row.git_commit for row in behind})),
        dirty=any(row.dirty is True for row in behind),
    )


def _mean(rows: list[ResultRow]) -> tuple[float | None, float | None, str, float | None, float | None]:
    """Value, spread, its kind, and interval of rows that have values. The statistics module is exact: equal values have
    themselves as mean and a spread of 0, and the order of rows cannot move the last digit."""
    values = [row.value for row in rows if row.value is not None]
    if not values:
        return None, None, "", None, None
    if len(values) == 1:
        row = rows[0]
        return values[0], row.stderr, "run" if row.stderr is not None else "", row.ci_low, row.ci_high
    mean = float(statistics.mean(values))
    try:
        spread = statistics.stdev(values) / math.sqrt(len(values))
    except OverflowError:
        return mean, None, "", None, None
    reach = _t975(len(values) - 1) * spread
    low, high = mean - reach, mean + reach
    return mean, spread, "seeds", low if math.isfinite(low) else None, high if math.isfinite(high) else None


@functools.cache
def _t975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t for a whole number of degrees of freedom, by bisection of its closed form.

    Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.
    """

    def central(t: float) -> float:  # P(|T| < t)
        angle = math.atan(t / math.sqrt(degrees))
        odd = degrees % 2
        term = math.cos(angle) if odd else 1.0
        total = 0.0
        for power in range(1 + odd, degrees, 2):
            total += term
            term *= math.cos(angle) ** 2 * power / (power + 1)
        total *= math.sin(angle)
        return (angle + total) * 2 / math.pi if odd else total

    low, high = 1.9, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if central(middle) < 0.95 else (low, middle)
    return high


def _mark_best(cells: dict[tuple[int, int], Cell], index: int, column: Column) -> None:
    """Mark the best cells of a column, each among those it may be compared with. Where all are equal, none is best."""
    if column.higher_is_better is None:
        return
    sign = 1 if column.higher_is_better else -1
    rivals: dict[tuple[Any, ...], dict[tuple[int, int], float]] = defaultdict(dict)
    for key, cell in cells.items():
        if key[1] == index and cell.value is not None and not cell.lost:
            rivals[_comparable(cell, column)][key] = sign * cell.value
    for merits in rivals.values():
        for key, merit in merits.items():
            if min(merits.values()) < merit == max(merits.values()):
                cells[key] = replace(cells[key], best=True)


def _comparable(cell: Cell, column: Column) -> tuple[Any, ...]:
    """What two cells of a column must share to be ranked. Times count on the same device only; an exact value needs no
    draws, a bound is as good as its number of draws."""
    timed = column.part("unit") == "s" or column.part("unit").endswith("/s")
    draws = None if cell.relation in (None, Relation.EXACT) else cell.n_draws
    return (cell.relation, draws, cell.device if timed else None)


def _line(key: tuple[str, ...], rows: list[ResultRow], asked: str) -> Line:
    family, model, group = key[:3]
    checkpoints = sorted({row.checkpoint for row in rows})
    return Line(
        model=model,
        family=family,
        group=group,
        checkpoint=asked if asked in checkpoints else "; ".join(checkpoints),
        label=model,
        seeds=tuple(sorted({row.seed for row in rows})),
        budgets=tuple(sorted({row.budget for row in rows})),
        devices=tuple(sorted({row.device for row in rows})),
    )


def _labelled(lines: list[Line]) -> tuple[Line, ...]:
    """Names that tell the lines apart: the model's, with the group's hash and the checkpoint where they are needed."""
    show_checkpoint = len({line.checkpoint for line in lines}) > 1
    labelled = []
    for line in lines:
        groups = {other.group for other in lines if other.model == line.model}
        hashes = f" #{line.group[: _distinct_length(groups)]}" if len(groups) > 1 else ""
        checkpoint = f" ({line.checkpoint})" if show_checkpoint else ""
        labelled.append(replace(line, label=line.model + hashes + checkpoint))
    return tuple(labelled)


def _distinct_length(names: set[str]) -> int:
    """How many first characters, 6 or more, tell the names apart."""
    length = 6
    while len({name[:length] for name in names}) < len(names):
        length += 1
    return length
