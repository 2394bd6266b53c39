r"""KL divergences between a known density p of the plane and a model's exact density q, by quadrature, in nats.

.. math:: \mathrm{KL}(p \| q) = \int p(x) \log\frac{p(x)}{q(x)}\, dx, \qquad
          \mathrm{KL}(q \| p) = \int q(x) \log\frac{q(x)}{p(x)}\, dx

The first is large where the model misses data, the second where it puts mass that the data have not; it is infinite if
the data have no density at all there. The integrals are sums over a square grid. Of a smooth integrand that decays
inside the square their error falls faster than any power of the step.

The certificate of a sum is by how much it, or the mass, differs at most from the four sums over every second point in
either direction, which have twice the step; and, for what lies beyond the square, twice the mass that is missing inside
times the mean log-ratio on the square's edge, weighted by the density there. The first part is far too large wherever
the density is smooth on the grid; the second supposes that the log-ratio does not grow by more beyond the edge.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.schema import Estimate, MetricInfo, Relation, Status
from bench.subjects.examples import Examples

__all__ = ["Integral", "KLDivergence", "kl_on_grid", "square_grid"]

LIMIT = 0.01
"""The largest error of a divergence that needs no mention, in nats, or as a share of it where that is more."""

HOPELESS = 0.1
"""The largest error in nats of a divergence that has a value at all, if it is more than the value."""

SQUARES = 3
"""So many squares are tried, each of twice the width, until the model's mass is in."""


@dataclass(frozen=True)
class Integral:
    """A divergence in nats, infinite or not, how far it may be off, and the least mass that p has on the grid."""

    value: float
    error: float
    mass: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether the value is certain enough to be ranked."""
        return math.isinf(self.value) or self.error <= LIMIT * max(1.0, abs(self.value))


def square_grid(centre: Tensor, half: float, points: int) -> Tensor:
    """Return the grid on a square, ``(points, points, 2)`` float64, without its upper edges."""
    offsets = torch.arange(points, dtype=torch.float64) * (2 * half / points) - half
    return torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), -1) + centre.double()


def kl_on_grid(log_p: Tensor, log_q: Tensor, cell: float) -> Integral:
    """Return KL(p || q) from log-densities on a square grid, ``(n, n)`` nats each with n even; -inf is density 0.

    Arguments:
        cell: Area for each point.
    """
    p = log_p.double().exp()
    ratio = log_p.double() - log_q.double()
    terms = torch.where(p > 0, p * ratio, 0.0)
    value, coarse = _sums(terms, cell)
    mass, coarse_mass = _sums(p, cell)
    change_of_mass = max(abs(one - mass) for one in coarse_mass)
    least = mass - change_of_mass
    if not math.isfinite(value):
        return Integral(math.inf if value > 0 else value, math.inf, least)
    beyond = 2 * abs(1 - mass) * max(1.0, _on_edge(log_p.double(), ratio.abs()))
    change = max(abs(one - value) for one in coarse)
    return Integral(value, max(change, change_of_mass) + beyond, least)


def _on_edge(log_p: Tensor, ratio: Tensor) -> float:
    """The mean ratio on the square's edge, weighted by the density p; 0 where that is 0."""
    weights, values = (torch.cat([one[0], one[-1], one[:, 0], one[:, -1]]) for one in (log_p, ratio))
    inside = weights.isfinite() & values.isfinite()
    if not inside.any():
        return 0.0
    return float(weights[inside].softmax(0) @ values[inside])  # relative weights, which cannot underflow


def _sums(terms: Tensor, cell: float) -> tuple[float, list[float]]:
    """The integral, and that on each of the four grids of every second point."""
    coarse = [float(terms[i::2, j::2].sum()) * 4 * cell for i in (0, 1) for j in (0, 1)]
    return float(terms.sum()) * cell, coarse


class KLDivergence(Metric):
    """Computes ``forward_kl``, KL(data || model), ``reverse_kl``, KL(model || data), and ``quadrature_error`` in nats.

    The interval of a divergence is its value plus and minus its certificate. If the certificate is more than 0.01 nats
    and than 1 % of it, the row says so, and tables do not rank it; if it is more than 0.1 nats and than the value, the
    divergence is ``failed``. An infinite reverse divergence is ``skipped``. The metric applies to data in the plane
    whose density is known, and to models whose likelihood is exact.

    Arguments:
        points: Points of the grid on a side, an even number. The model's density is asked at the square of it.
    """

    def __init__(self, points: int) -> None:
        if points < 4 or points % 2 == 1:
            raise ValueError(f"points must be even and at least 4, not {points}")
        self.points = points

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (
            MetricInfo("forward_kl", "nats", False, self.version, "KL(data || model)", rank=30),
            MetricInfo("reverse_kl", "nats", False, self.version, "KL(model || data)", rank=31),
            MetricInfo("quadrature_error", "nats", None, self.version, "error of quadrature", rank=300),
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        spec, relation = examples.spec, examples.subject.shown_relation
        if examples.data.log_density is None or spec.levels is not None or spec.shape != (2,):
            raise UnavailableError("needs data in the plane whose density is known")
        if not relation:
            raise UnavailableError("the model has no likelihood")
        if relation != Relation.EXACT:
            raise UnavailableError("needs an exact likelihood: the integral of a bound or an estimate is no divergence")
        best = None
        for forward, reverse in self._integrals(examples):
            if best is None or max(forward.error, reverse.error) < max(best[0].error, best[1].error):
                best = forward, reverse
            if forward.counts and reverse.counts:
                break
        assert best is not None
        infos = self.infos(examples)
        mass = best[1].mass
        if mass > 1 + LIMIT:  # then both divergences are too small, and the forward one may be negative
            reason = f"the model's density integrates to {mass:.3g} or more: it is not normalized"
            return [Estimate(info, status=Status.FAILED, reason=reason) for info in infos]
        made = [_estimate(info, one) for info, one in zip(infos[:2], best, strict=True)]
        errors = [one.error for one in best if math.isfinite(one.value)]
        if errors:
            return [*made, Estimate(infos[2], max(errors))]
        return [*made, Estimate(infos[2], status=Status.FAILED, reason="no divergence is finite")]

    def _integrals(self, examples: Examples) -> Iterator[tuple[Integral, Integral]]:
        """Both divergences on squares around the data, each of twice the width.

        The width is a power of two and the centre whole, so that edges of densities at whole numbers lie on the grid.
        """
        density, real = examples.data.log_density, examples.real
        assert density is not None
        low, high = real.min(0).values, real.max(0).values
        centre = ((low + high) / 2).round()
        reach = 1.25 * float(torch.maximum(high - centre, centre - low).max())
        half = 2.0 ** math.ceil(math.log2(max(reach, 1e-6)))
        for _ in range(SQUARES):
            grid = square_grid(centre, half, self.points).float().reshape(-1, 2)
            log_p = density(grid).reshape(self.points, self.points)
            log_q = examples.subject.log_weights(grid, 1, examples.report)[0].reshape(self.points, self.points)
            cell = (2 * half / self.points) ** 2
            yield kl_on_grid(log_p, log_q, cell), kl_on_grid(log_q, log_p, cell)
            half *= 2


def _estimate(info: MetricInfo, found: Integral) -> Estimate:
    if math.isinf(found.value):
        if info.name == "reverse_kl":
            reason = "is infinite: the model has mass where the data have none"
            return Estimate(info, status=Status.SKIPPED, reason=reason)
        return Estimate(info, status=Status.FAILED, reason="is infinite: the model has no density at some of the data")
    if not found.error <= max(HOPELESS, abs(found.value)):  # NaN, too
        reason = f"the quadrature is certain to {found.error:.2g} nats only, and its value is {found.value:.2g}"
        return Estimate(info, status=Status.FAILED, reason=reason)
    caveat = "" if found.counts else f"the quadrature is certain to {found.error:.2g} nats only"
    return measured(
        info, found.value, ci_low=found.value - found.error, ci_high=found.value + found.error, reason=caveat
    )  # fmt: skip
