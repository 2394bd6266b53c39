r"""Drift over the rows of past commits: where the level of a metric changed. Advisory.

A commit gives one value, the mean over its seeds. The change point k of N commits maximises the energy distance

.. math:: Q_k = \frac{k (N - k)}{N} \Bigl( 2\,\overline{|x_i - y_j|} - \overline{|x_i - x_{i'}|}
    - \overline{|y_j - y_{j'}|} \Bigr)

between what lies before and after it, with at least two commits on either side, as E-divisive does (D. S. Matteson,
N. A. James 2014, A nonparametric approach for multiple change point analysis of multivariate data, arXiv 1306.4933).
Its p-value is by permutation of the commits: without a change, their order means nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.gate.finding import LEVEL
from bench.gate.items import Items, Key, Line
from bench.seeds import derive_seed
from bench.statistics import benjamini_hochberg

__all__ = ["FEWEST", "Drift", "change_point", "drifts"]

FEWEST = 4
"""Commits with a value that a metric needs."""

PERMUTATIONS = 1999

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """A metric whose level changed.

    Attributes:
        line, metric, unit: What changed.
        since: The name of the first rows after the change.
        before, after: Means on its two sides.
        p: By permutation, adjusted for all metrics (Benjamini and Hochberg).
    """

    line: Line
    metric: str
    unit: str
    since: str
    before: float
    after: float
    p: float

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        values = f"{self.before:.6g} -> {self.after:.6g}{unit}"
        return f"advisory: drift   {self.line.name}: {self.metric} {values} since {self.since} (p {self.p:.3f})"


def drifts(history: Sequence[tuple[str, Items]], level: float = LEVEL) -> list[Drift]:
    """The metrics with a direction whose level changed, by the share ``level`` of false discoveries.

    Arguments:
        history: Rows of commits by name, the oldest first. A model with several configurations in one of them is left
            out there.
    """
    series: dict[tuple[tuple[str, str, str], Key], list[tuple[str, Line, float, str]]] = defaultdict(list)
    for name, items in history:
        lines = Counter(line.place for line in items)
        for line, metrics in items.items():
            for key, item in metrics.items():
                if item.keys and item.sign and not item.is_exact and lines[line.place] == 1:
                    mean = float(item.panel(item.seeds, sorted(item.keys)[:1]).mean())
                    series[line.place, key].append((name, line, mean, item.row.unit))
    found = []
    for (place, key), points in sorted(series.items(), key=lambda one: (one[0][0], one[0][1][0])):
        values = np.array([mean for _, _, mean, _ in points])
        if len(points) < FEWEST or np.ptp(values) == 0:
            continue
        k, p = change_point(values, np.random.default_rng(derive_seed(0, "gate", "history", *place, key[0])))
        name, line, _, unit = points[k]
        found.append(Drift(line, key[0], unit, name, float(values[:k].mean()), float(values[k:].mean()), p))
    adjusted = benjamini_hochberg([one.p for one in found])
    return [
        Drift(one.line, one.metric, one.unit, one.since, one.before, one.after, float(p))
        for one, p in zip(found, adjusted, strict=True)
        if p <= level
    ]


def change_point(values: Floats, rng: np.random.Generator) -> tuple[int, float]:
    """The most likely first place after a change, and the chance of one as clear in any order.

    Arguments:
        values: At least 4, in order.
    """
    orders = np.concatenate([np.arange(len(values))[None], [rng.permutation(len(values)) for _ in range(PERMUTATIONS)]])
    energies = _energies(values[orders])
    largest = energies.max(1)
    p = (largest >= largest[0] * (1 - 1e-12)).mean()  # the order as it is counts as one
    return int(energies[0].argmax()) + 2, float(p)


def _energies(values: Floats) -> Floats:
    """Q for each order (a row) and each change point from 2 to N - 2."""
    n = values.shape[1]
    distances = np.abs(values[:, :, None] - values[:, None, :])
    made = []
    for k in range(2, n - 1):
        between = distances[:, :k, k:].mean((1, 2))
        first = distances[:, :k, :k].sum((1, 2)) / (k * (k - 1))
        last = distances[:, k:, k:].sum((1, 2)) / ((n - k) * (n - k - 1))
        made.append(k * (n - k) / n * (2 * between - first - last))
    return np.stack(made, 1)
