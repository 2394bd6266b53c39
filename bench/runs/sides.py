"""Two models from their runs' folders, ready to be compared on the same test examples. Imports no torch."""

import glob
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.paths import at_home
from bench.rows.items import items_path, read_items
from bench.runs.folder import RunFolder
from bench.schema import Relation, ResultRow, Status

__all__ = ["Side", "two_sides"]

METRIC = "log_likelihood"


@dataclass(frozen=True)
class Side:
    """The log-likelihoods of one model's seeds on the test examples.

    Attributes:
        rows: One a seed: the mean, with all that is known of it.
        items: ``(seeds, N)`` nats.
    """

    rows: tuple[ResultRow, ...]
    items: NDArray[np.float64]

    @property
    def relation(self) -> Relation:
        """How all of them relate to the truth: exact only if each is."""
        found = {Relation(row.relation) for row in self.rows if row.relation is not None}
        if len(found) == 1:
            return found.pop()
        return Relation.LOWER_BOUND if found == {Relation.EXACT, Relation.LOWER_BOUND} else Relation.ESTIMATE


def two_sides(places: Sequence[str], checkpoint: str) -> tuple[Side, Side]:
    """The two models whose runs lie at ``places``, the one that is named first before the other; seeds are together.

    Arguments:
        places: Folders of runs, patterns of them, and folders full of runs.
        checkpoint: Whose likelihoods: ``best`` or ``final``.

    Raises:
        UserError: There are no such runs; they are not of two models; a run has no log-likelihood, or only its mean; or
            the two were measured on different examples.
    """
    found: dict[Path, list[ResultRow]] = {}
    for folder in _folders(places):
        found[folder] = _likelihoods(folder, checkpoint)
    groups: dict[str, list[Path]] = defaultdict(list)
    for folder, rows in found.items():
        groups[rows[0].group].append(folder)
    if len(groups) != 2:
        models = ", ".join(sorted(found[folders[0]][0].model for folders in groups.values()))
        raise UserError(
            f"compare: two models are compared, these runs are of {len(groups)} ({models}); give the runs of two"
        )
    shared = set.intersection(*({row.protocol for row in rows} for rows in found.values()))
    if not shared:
        raise UserError(f"compare: {_difference(found)}")
    first = next(row.protocol for row in next(iter(found.values())) if row.protocol in shared)
    sides = [
        _side({folder: _tightest(row for row in found[folder] if row.protocol == first) for folder in folders})
        for folders in groups.values()
    ]
    return sides[0], sides[1]


def _difference(found: dict[Path, list[ResultRow]]) -> str:
    """Why the likelihoods of these runs share no protocol, and what to do."""
    rows = [row for rows in found.values() for row in rows]
    metrics = sorted({row.metric for row in rows})
    if len(metrics) == 1 or len({(row.dataset, row.data_revision) for row in rows}) > 1:
        return "the runs were not measured on the same test examples; give runs on one data set"
    if METRIC not in metrics:
        return f"{' and '.join(metrics)} are not of the same thing; compare samples of these models"
    unsaid = next(folder for folder, rows in found.items() if any(row.metric == METRIC for row in rows))
    return (
        f"{unsaid}: its {METRIC} does not say whether the model can learn the order of nodes, as {metrics[1]} does; "
        f"if the class has likelihood_of by now, `genbench evaluate {unsaid} metric=[likelihood] rerun=true` says it"
    )


def _folders(places: Iterable[str]) -> list[Path]:
    """The folders with rows, each once."""
    folders: dict[Path, None] = {}
    for place in places:
        path = at_home("compare", place)
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        here = [one for match in matches for one in (match, *(sorted(match.iterdir()) if match.is_dir() else ()))]
        runs = [one.resolve() for one in here if one.is_dir() and RunFolder(one).rows.is_file()]
        if not runs:
            raise UserError(f"compare {place}: is no run and holds none; give the folder of a run, as in runs/NAME/RUN")
        folders |= dict.fromkeys(runs)
    return list(folders)


def _likelihoods(folder: Path, checkpoint: str) -> list[ResultRow]:
    """The rows of a run's log-likelihood on one checkpoint that have a value.

    Raises:
        UserError: There are none; says why, as far as its rows do.
    """
    rows = [
        row for row in RunFolder(folder).read_rows()
        if row.metric.partition("[")[0] == METRIC and row.checkpoint == checkpoint and row.model_family != "data"
    ]  # fmt: skip
    valued = [row for row in rows if row.status is Status.OK]
    if not valued:
        do = f"`genbench evaluate {folder} metric=[likelihood] evaluate.checkpoints=[{checkpoint}]` measures it"
        raise UserError(f"{folder}: has no log-likelihood of its {checkpoint} checkpoint: "
                        f"{rows[0].reason if rows else do}")  # fmt: skip
    return valued


def _tightest(rows: Iterable[ResultRow]) -> ResultRow:
    """Of bounds the one of most draws."""
    return max(rows, key=lambda row: (row.metric_version, row.n_draws or 0))


def _side(rows: dict[Path, ResultRow]) -> Side:
    """One model's seeds in their order.

    Raises:
        UserError: A run keeps no values of single examples, or those of something else.
    """
    ordered = sorted(rows.items(), key=lambda one: one[1].seed)
    for (before, first), (folder, row) in itertools.pairwise(ordered):
        if row.seed == first.seed:
            raise UserError(f"compare: {before} and {folder} are the same model and seed; leave out one")
    return Side(tuple(rows[folder] for folder, _ in ordered), np.stack([_items(*one) for one in ordered]))


def _items(folder: Path, row: ResultRow) -> NDArray[np.float64]:
    path = items_path(folder, row.checkpoint, row.measuring_key)
    again = f"`genbench evaluate {folder} metric=[likelihood] rerun=true` measures them again"
    if not path.exists():
        raise UserError(f"{folder}: keeps no log-likelihoods of single test examples; {again}")
    values = read_items(path)
    # A run that was stopped between writing the one and the other, or somebody who changed a file.
    agree = len(values) == row.n_real and math.isclose(values.mean(), row.value or 0.0, rel_tol=1e-9, abs_tol=1e-12)
    if not agree:
        raise UserError(f"{path}: is not what the run's mean log-likelihood was made of; {again}")
    return values
