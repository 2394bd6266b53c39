"""The words the harness speaks: data specifications, metrics, estimates and result rows. Standard library only.

Everything that is stored or shown is one of these. They are frozen: a measured number does not change.
"""

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "PROTOCOL", "SCHEMA", "DataSpec", "Estimate", "GraphSpec", "Kind", "MetricInfo", "Relation", "ResultRow", "Source",
    "Status",
]  # fmt: skip

SCHEMA = 3
"""The version of the rows that are written today."""


class Kind(StrEnum):
    """What an example is. A model says which kinds it takes (``models.base.GenerativeModel.kinds``).

    The entries of an example are numbers or categories, or they make up a graph (``GraphSpec``). Of ``graphs`` all is
    modelled; of ``colourings`` the nodes and edges are given, and the types of the nodes, their colours, are modelled.
    """

    NUMBERS = "numbers"
    CATEGORIES = "categories"
    GRAPHS = "graphs"
    COLOURINGS = "colourings"


class Relation(StrEnum):
    """How a reported value relates to the true one."""

    EXACT = "exact"
    LOWER_BOUND = "lower_bound"
    UPPER_BOUND = "upper_bound"
    ESTIMATE = "estimate"

    @property
    def symbol(self) -> str:
        """``=``, ``≥`` (the truth is at least the value), ``≤`` or ``≈``."""
        return {"exact": "=", "lower_bound": "≥", "upper_bound": "≤", "estimate": "≈"}[self.value]

    @property
    def negated(self) -> "Relation":
        """The relation of -value to -truth: bounds change sides (log-likelihood in nats against bits/dim)."""
        swap = {Relation.LOWER_BOUND: Relation.UPPER_BOUND, Relation.UPPER_BOUND: Relation.LOWER_BOUND}
        return swap.get(self, self)


class Status(StrEnum):
    """How a measurement ended. Only ``ok`` rows carry a value."""

    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"


class Source(StrEnum):
    """Where a number comes from."""

    MEASURED = "measured"
    EXTERNAL_SAMPLES = "external samples"
    QUOTED = "quoted"


@dataclass(frozen=True)
class GraphSpec:
    """How the entries of an example make up an undirected graph of at most N nodes.

    An example has N + N(N-1)/2 entries: first the types of the nodes, 1 .. K, or 0 where there is no node, those that
    are there before those that are not; then the types of the edges, 1 .. L, or 0 where there is none, of the pairs of
    nodes i < j, row after row of the upper triangle.

    Attributes:
        nodes: N, the largest number of nodes.
        node_types, edge_types: K and L, both at least 1.
        node_names, edge_names: Of the types 1 .. K and 1 .. L, where they have names.
        random_order: Whether every order of the same nodes is as probable as any other. Else an example's nodes stand
            in an order that its maker chose, which a model may learn or not: such likelihoods do not compare.
    """

    nodes: int
    node_types: int
    edge_types: int
    node_names: tuple[str, ...] = ()
    edge_names: tuple[str, ...] = ()
    random_order: bool = False

    @property
    def shape(self) -> tuple[int]:
        """Of an example."""
        return (self.nodes * (self.nodes + 1) // 2,)

    @property
    def levels(self) -> int:
        """Number of levels of an entry."""
        return 1 + max(self.node_types, self.edge_types)


@dataclass(frozen=True)
class DataSpec:
    """What a data set is, independent of any model.

    Attributes:
        name: As in ``data=name``. A corrected data set gets a new name or revision.
        revision: Hash of the bytes (or of the generating recipe) this name stands for.
        shape: Of one example: ``(C, H, W)`` for images, ``(D,)`` for vectors.
        levels: Number of integer levels L of each entry (data are 0 .. L-1, uint8), or None for real-valued data.
        n_train, n_val, n_test: Sizes of the splits.
        classes: Number of class labels, or None where the data have none.
        licence: As its publisher declares it.
        source: Who made it: a citation or the package that carries it.
        columns: Names of the entries of a vector, where they have any.
        kind: Whether entries are numbers, or categories 0 .. L-1 whose order and differences mean nothing, or a graph.
        graph: The sizes of graphs, where examples are graphs or colourings of them; else None.
    """

    name: str
    revision: str
    shape: tuple[int, ...]
    levels: int | None
    n_train: int
    n_val: int
    n_test: int
    classes: int | None = None
    licence: str = ""
    source: str = ""
    columns: tuple[str, ...] = ()
    kind: Kind = Kind.NUMBERS
    graph: GraphSpec | None = None

    @property
    def dim(self) -> int:
        """Number of entries D of one example."""
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        """Whether an example is a picture ``(C, H, W)``."""
        return len(self.shape) == 3


@dataclass(frozen=True)
class MetricInfo:
    """What a metric is, known before it is computed.

    Attributes:
        name: As it stands in rows; the extractor, where there is one, is part of it: ``fid[mnist-cnn]``.
        unit: For example ``nats``, ``bits/dim``, ``s``; empty where the number has none.
        higher_is_better: None where order means nothing.
        version: Raised whenever the same inputs would give another number. Versions are never ranked together.
        title: Short column heading.
        rank: Place among the columns of a table, the smallest first. Likelihoods have 10 to 20, metrics of quality 30
            to 99, other metrics with a direction 100, costs 200 to 299, metrics without a direction 300.
    """

    name: str
    unit: str
    higher_is_better: bool | None
    version: int = 1
    title: str = ""
    rank: int = 100


@dataclass(frozen=True)
class Estimate:
    """One number a metric measured, with its uncertainty and what it was measured on.

    Attributes:
        info: The metric.
        value: None unless status is ok. Always finite.
        stderr: Standard error within this run, or None where the number has none (a parameter count).
        stderr_test, stderr_draws: Its two parts: what comes from the test examples, which all runs on that split share,
            and what comes from this run's own draws. None where a part does not exist or is not known.
        ci_low, ci_high: 95 % interval, or None. An open side of an interval is None as well.
        relation: How value relates to the truth, or None where there is no truth behind it.
        n_real, n_fake: Real examples and model samples used.
        n_draws: Draws K per example of a likelihood bound; 1 where the model is deterministic.
        extractor, extractor_hash: Name and hash of the feature extractor, or empty.
        status, reason: Why there is no value; of a value, what a reader must know of it, usually nothing.
        load: Of a time measured on the CPU: CPU seconds of the process over (wall seconds x threads) while it was
            timed. It is 1 where the threads never waited for another process. None where it is not known.
    """

    info: MetricInfo
    value: float | None = None
    stderr: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    relation: Relation | None = None
    n_real: int | None = None
    n_fake: int | None = None
    n_draws: int | None = None
    extractor: str = ""
    extractor_hash: str = ""
    status: Status = Status.OK
    reason: str = ""
    stderr_test: float | None = None
    stderr_draws: float | None = None
    load: float | None = None

    def __post_init__(self) -> None:
        numbers = [self.value, self.stderr, self.stderr_test, self.stderr_draws, self.ci_low, self.ci_high, self.load]
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise ValueError(f"{self.info.name}: value, stderr and interval must be finite, not {numbers}")
        if (self.value is not None) != (self.status is Status.OK):
            raise ValueError(f"{self.info.name}: a value belongs to status ok and to no other, not {self.status}")


# The parts of ResultRow.protocol by name.
PROTOCOL = (
    "dataset", "data_revision", "split", "metric", "metric_version", "unit", "extractor_hash", "n_real", "n_fake",
    "source",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """One measured number with everything needed to trust it: one row per (training, checkpoint, metric).

    ``value`` is empty unless status is ok. Full precision here; rounding only in a table's cell. A field with a default
    may be missing in a stored row of this version.
    """

    schema: int = SCHEMA
    run_id: str
    training_key: str  # names the training: model, data, schedule, hardware, seed
    group: str  # the training key without the seed: runs that may be averaged over seeds, a line of a table
    measuring_key: str = ""  # what was measured and how; empty in rows of version 1
    config: str = ""  # what the group is a hash of: a JSON object with dotted keys; empty in rows before version 3
    git_commit: str = ""
    dirty: bool | None = None
    model: str
    model_family: str
    n_params: int | None = None
    dataset: str
    data_revision: str
    split: str
    seed: int
    budget: str = ""  # as configured, for example "60000 examples"
    examples_seen: int = 0
    train_seconds: float = 0.0
    checkpoint: str = "best"  # best | final
    device: str = ""
    precision: str = ""
    versions: str = ""  # "torch 2.13.0, pytorch-lightning 2.6.6, ..."
    metric: str
    metric_title: str = ""
    metric_version: int = 1
    extractor: str = ""
    extractor_hash: str = ""
    n_real: int | None = None
    n_fake: int | None = None
    n_draws: int | None = None
    unit: str = ""
    higher_is_better: bool | None
    rank: int = 100  # place among the columns, as the metric declares it
    relation: Relation | None = None
    value: float | None
    stderr: float | None = None  # the whole standard error within the run
    stderr_test: float | None = None  # the part from the test examples, which all runs on the split share
    stderr_draws: float | None = None  # the part from this run's own draws: samples, or draws of a likelihood
    ci_low: float | None = None
    ci_high: float | None = None
    sampling_seed: int = 0  # 0: the run draws its samples from its own seed; else from this one, whatever the training
    load: float | None = None  # of a time on the CPU: CPU seconds / (wall seconds x threads), 1 on a quiet machine
    status: Status
    reason: str = ""
    source: Source
    more: str = ""  # columns of a newer version as the text of a JSON object; empty where there are none

    @classmethod
    def columns(cls) -> list[str]:
        """The names of the fields, in order."""
        return [field.name for field in dataclasses.fields(cls)]

    @property
    def protocol(self) -> tuple[object, ...]:
        """What two rows must share before their values may be ranked together; its parts are named by ``PROTOCOL``.

        The last part is ``quoted`` or ``measured``: samples of others are measured by this harness like its own. The
        number of draws K and the relation are left out: they differ between models on purpose, and the table compares
        likelihood cells with them in view.
        """
        return (
            self.dataset, self.data_revision, self.split, self.metric, self.metric_version, self.unit,
            self.extractor_hash, self.n_real, self.n_fake,
            "quoted" if self.source is Source.QUOTED else "measured",
        )  # fmt: skip
