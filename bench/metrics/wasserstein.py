r"""Wasserstein distances between equally many samples and real examples, by an optimal assignment.

.. math:: W_r = \Big(\min_\sigma \frac1n \sum_i \|x_i - y_{\sigma(i)}\|^r\Big)^{1/r}, \qquad r \in \{1, 2\}

(Villani 2009, "Optimal transport: old and new"). It is the distance between the two samples, exactly. As an estimate of
the distance between the distributions it is biased upwards: even two samples of the same one are some way apart, in two
dimensions by about :math:`n^{-1/2}`. So the distance between two real samples of the same n stands beside it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor

from bench.errors import BrokenError, UnavailableError
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.schema import Estimate, MetricInfo
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["Distance", "Wasserstein", "potentials", "wasserstein"]

MOST_DIMENSIONS = 2


@dataclass(frozen=True)
class Distance:
    """A Wasserstein distance, and the standard errors that come from x and from y."""

    value: float
    stderr_x: float
    stderr_y: float


def wasserstein(x: Tensor, y: Tensor, order: int) -> Distance:
    r"""Return :math:`W_r` between examples ``(n, D)`` each, n >= 2, in float64; it takes about n^3 operations.

    The influence of an example on :math:`W_r^r` is its dual potential (Sommerfeld, Munk 2018, "Inference for empirical
    Wasserstein distances on finite spaces"), so :math:`\mathrm{se}(W_r) = \mathrm{sd}(\phi)\, W_r^{1-r} / (r \sqrt n)`
    for either side. It vanishes for equal distributions, where the distance is all bias.

    Arguments:
        order: r, 1 or 2.
    """
    n = len(x)
    cost = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").pow(order).numpy()
    _, partner = linear_sum_assignment(cost)
    mean = float(cost[np.arange(n), partner].mean())
    if mean == 0:
        return Distance(0.0, 0.0, 0.0)
    of_x, of_y = potentials(cost, partner)
    scale = mean ** (1 / order - 1) / (order * math.sqrt(n))
    return Distance(mean ** (1 / order), scale * float(of_x.std(ddof=1)), scale * float(of_y.std(ddof=1)))


def potentials(cost: NDArray[np.float64], partner: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return the dual potentials u, v of an optimal assignment, ``(n,)`` each.

    .. math:: u_i + v_j \le c_{ij}, \qquad u_i + v_{\sigma(i)} = c_{i\sigma(i)},

    which proves that the assignment is optimal. u are lengths of shortest paths between rows, of which
    :math:`c_{i\sigma(k)} - c_{k\sigma(k)}` is the step from k to i (Bellman 1958). They become unique, up to a
    constant, as n grows; of the two extreme solutions, paths from everywhere and to everywhere, the mean is taken.

    Arguments:
        cost: ``(n, n)``.
        partner: The column of each row.
    """
    matched = cost[np.arange(len(cost)), partner]
    steps = cost[:, partner] - matched  # (n, n): from k, the column, to i, the row
    u = (_shortest(steps) - _shortest(steps.T)) / 2
    v = np.empty_like(u)
    v[partner] = matched - u
    return u, v


def _shortest(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The length of the shortest path to each node from any node, ``(n,)``, at most 0; no cycle is negative."""
    length = np.zeros(len(steps))
    tolerance = 1e-12 * float(np.abs(steps).max())
    for _ in range(len(steps)):
        shorter = np.minimum(length, (steps + length).min(axis=1))
        if (length - shorter).max() <= tolerance:
            break
        length = shorter
    return length


class Wasserstein(Metric):
    """Computes ``w1``, ``w2`` from samples to held-out examples, and ``w1_real``, ``w2_real`` between two real sets.

    n is the number of each side, less where there are fewer samples, or fewer than 2 n held-out examples (validation
    and test split). The real sets are the same for all subjects. The metric applies to real-valued data of one
    or two dimensions: in more, hardly anything but the bias is left.

    Arguments:
        n_samples: n, at most. The time grows with its cube.
    """

    def __init__(self, n_samples: int) -> None:
        if n_samples < 2:
            raise ValueError(f"n_samples must be at least 2, not {n_samples}")
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        made = []
        for order in (1, 2):
            name = f"w{order}"
            made.append(MetricInfo(name, "", False, self.version, f"W{order}", rank=34 + order))
            made.append(MetricInfo(f"{name}_real", "", None, self.version, f"W{order}, two real sets", rank=300))
        return tuple(made)

    def compute(self, examples: Examples) -> list[Estimate]:
        spec = examples.spec
        if spec.levels is not None or len(spec.shape) != 1 or spec.dim > MOST_DIMENSIONS:
            raise UnavailableError("applies to real-valued data of one or two dimensions")
        samples = examples.samples(self.n_samples)
        n = min(len(samples), len(examples.held_out) // 2)
        if n < 2:
            raise BrokenError(f"needs at least 2 samples and 4 held-out examples, not {len(samples)} and "
                              f"{len(examples.held_out)}")  # fmt: skip
        generator = Generator().manual_seed(derive_seed(0, "wasserstein", "real"))
        order = torch.randperm(len(examples.held_out), generator=generator)
        real, other = examples.held_out[order[:n]], examples.held_out[order[n : 2 * n]]
        infos, made = self.infos(examples), []
        for place, power in enumerate((1, 2)):
            ours, floor = wasserstein(real, samples[:n], power), wasserstein(real, other, power)
            at_least = (0.0, math.inf)
            made.append(
                measured(infos[2 * place], ours.value, test=ours.stderr_x, draws=ours.stderr_y, within=at_least,
                         n_real=n, n_fake=n)
            )  # fmt: skip
            made.append(
                measured(infos[2 * place + 1], floor.value, test=math.hypot(floor.stderr_x, floor.stderr_y),
                         within=at_least, n_real=2 * n)
            )  # fmt: skip
        return made
