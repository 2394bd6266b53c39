"""How often the 95 % interval of a cell covers what it claims, by simulated rows in the project's own tables."""

import math
from collections.abc import Iterator

import numpy as np
from helpers_rows import make_row
from scipy.special import stdtrit

from bench.schema import ResultRow
from bench.tables.aggregate import make_table
from bench.tables.model import Cell

__all__ = ["coverage"]

Z = 1.959964


def coverage(m: int, ratio: float, repetitions: int, *, own_share: float = 0.0, n_test: int = 500) -> dict[str, float]:
    """The share of cells whose interval covers the truth, each of new seeds, new draws and a new test set.

    The truth is the mean over seeds and test sets. With one seed it is that seed's own, since the cell claims no more.

    Arguments:
        ratio: The seeds' standard error of the mean (training and draws) over that of the test examples.
        own_share: Of the variance due to the test examples, the share that is another for every seed.

    Returns:
        ``total``, and what the seeds alone and Welch-Satterthwaite degrees of freedom would have covered.
    """
    rng = np.random.default_rng([m, round(100 * ratio), round(100 * own_share)])
    truth: dict[str, float] = {}
    rows = list(_rows(rng, truth, m, ratio, repetitions, own_share, n_test))
    (section,) = make_table(rows).sections
    counts = {"total": 0, "seeds_alone": 0, "welch_satterthwaite": 0}
    for (line, _), cell in section.cells.items():
        target = truth[section.lines[line].model]
        assert cell.value is not None
        assert cell.ci_low is not None
        assert cell.ci_high is not None
        assert cell.spread_kind == ("run" if m == 1 else "total")
        counts["total"] += cell.ci_low <= target <= cell.ci_high
        if m > 1:
            off = abs(cell.value - target)
            counts["seeds_alone"] += off <= stdtrit(m - 1, 0.975) * (cell.stderr_seeds or 0.0)
            counts["welch_satterthwaite"] += off <= _welch_satterthwaite(cell, m, n_test)
    return {name: count / len(section.cells) for name, count in counts.items() if m > 1 or name == "total"}


def _rows(
    rng: np.random.Generator, truth: dict[str, float], m: int, ratio: float, repetitions: int, own: float, n_test: int
) -> Iterator[ResultRow]:
    of_test, of_seeds = 1.0, ratio * math.sqrt(m)
    of_training, of_draws = math.sqrt(0.75) * of_seeds, math.sqrt(0.25) * of_seeds
    for number in range(repetitions):
        name = f"model{number}"
        shared = rng.normal(0, math.sqrt(1 - own) * of_test)
        stated = of_test * math.sqrt(rng.chisquare(n_test - 1) / (n_test - 1))
        for seed in range(m):
            training = rng.normal(0, of_training)
            truth[name] = training if m == 1 else 0.0
            value = training + shared + rng.normal(0, math.sqrt(own) * of_test) + rng.normal(0, of_draws)
            whole = math.hypot(stated, of_draws)
            yield make_row(
                model=name, group=name, run_id=f"{name}-{seed}", seed=seed, value=value, stderr=whole,
                stderr_test=stated, stderr_draws=of_draws, ci_low=value - Z * whole, ci_high=value + Z * whole,
                n_real=n_test,
            )  # fmt: skip


def _welch_satterthwaite(cell: Cell, m: int, n_test: int) -> float:
    assert cell.spread is not None
    assert cell.stderr_seeds is not None
    assert cell.stderr_test is not None
    degrees = cell.spread**4 / (cell.stderr_seeds**4 / (m - 1) + cell.stderr_test**4 / (n_test - 1))
    return float(stdtrit(degrees, 0.975)) * cell.spread
