r"""How well a flow's inverse undoes the flow in floating point.

A likelihood is that of f, samples come from :math:`f^{-1}`: the two describe one distribution only as far as
:math:`f^{-1}(f(y)) = y`. In exact arithmetic that always holds. In float32 rounding errors grow by the condition of
each layer, so an inverse that is exact to seven digits on the data can be wrong in all of them outside (Behrmann,
Vicol, Wang, Grosse, Jacobsen 2021, Understanding and mitigating exploding inverses in invertible neural networks,
arXiv:2006.09347).
"""

import math

from torch import Tensor

from bench.errors import BrokenError, UnavailableError, is_out_of_memory
from bench.metrics.base import Metric
from bench.metrics.intervals import measured, wilson_interval
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["InverseError", "largest"]


def largest(errors: Tensor) -> tuple[float | None, int]:
    """Return the largest of the finite errors ``(N,)``, None without any, and how many are NaN or infinite."""
    finite = errors[errors.isfinite()]
    return (float(finite.max()) if len(finite) else None), len(errors) - len(finite)


class InverseError(Metric):
    r"""Computes ``inverse_error``, ``inverse_error_outside`` and ``beyond_float32``, of flows that have an inverse.

    The first two are the largest :math:`|f^{-1}(f(y)) - y|` of an entry, over test examples y and over ``factor`` times
    them. y are the reals that the flow's bijection begins with: real-valued data in their own unit, integers after
    dequantization and logit. Examples whose y does not come back as a number are counted in the row.

    ``beyond_float32`` is the share of samples whose inverse is NaN or infinite in float32; its row names the layer at
    which the first of them leaves float32, and how far it goes. These samples are computed in float64 and are among
    those that other metrics see. None of the three has a direction: they say how far other numbers may be trusted.

    Arguments:
        n: Number of test examples, the first ones, and of samples.
        factor: How far outside the data.
    """

    def __init__(self, n: int, factor: float) -> None:
        self.n = n
        self.factor = factor

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        outside = f"inverse error x{self.factor:g}"
        return (
            MetricInfo("inverse_error", "", None, self.version, "inverse error", rank=304),
            MetricInfo("inverse_error_outside", "", None, self.version, outside, rank=305),
            MetricInfo("beyond_float32", "", None, self.version, "samples beyond float32", rank=306),
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        inside, outside, beyond = self.infos(examples)
        x = examples.real[: self.n]
        if len(x) == 0:
            raise UnavailableError("there are no test examples")
        examples.report("inverse", 0, 3)
        errors = examples.subject.round_trips(x, 1.0)
        examples.report("inverse", 1, 3)
        far = self._outside(outside, examples, x)
        examples.report("inverse", 2, 3)
        return [_error(inside, errors, Status.FAILED), far, self._beyond(beyond, examples)]

    def _outside(self, info: MetricInfo, examples: Examples, x: Tensor) -> Estimate:
        """The error outside. That there is no inverse is a finding there, and no fault of the run."""
        try:
            return _error(info, examples.subject.round_trips(x, self.factor), Status.SKIPPED)
        except Exception as error:  # whatever a solver or a search for a root says
            if isinstance(error, BrokenError | UnavailableError) or is_out_of_memory(error):
                raise
            reason = f"there is no inverse at {self.factor:g} times the data ({type(error).__name__}: {error})"
            return Estimate(info, status=Status.SKIPPED, reason=" ".join(reason.split())[:300])

    def _beyond(self, info: MetricInfo, examples: Examples) -> Estimate:
        left, where = examples.subject.beyond_float32(self.n)
        n = len(left)
        p = int(left.sum()) / n
        low, high = wilson_interval(p, n)
        reason = f"{int(left.sum())} samples leave float32 at {where}" if where else ""
        return measured(
            info, p, draws=math.sqrt(p * (1 - p) / n), ci_low=low, ci_high=high, n_fake=n, reason=reason
        )  # fmt: skip


def _error(info: MetricInfo, errors: Tensor, without: Status) -> Estimate:
    value, lost = largest(errors)
    said = f"{lost} of {len(errors)} examples come back as NaN or infinity" if lost else ""
    if value is None:
        return Estimate(info, status=without, reason=said)
    return Estimate(info, value, n_real=len(errors), reason=said)
