r"""Collapse: whether the end of a training is much worse than its best, beyond the noise of its validation scores.

Let :math:`s_1, \dots, s_N` be the validation scores, lower is better, and b the smallest. Training has collapsed if

.. math:: s_N - b > \max\Big(\tfrac{|b|}{2}, \; \big(\sqrt{2 \ln N} + 3\big)\big(1 + \tfrac{2}{N-2}\big)\sigma\Big),
    \qquad \sigma = \frac{1.4826}{\sqrt 6}\, \operatorname{median}_t |s_{t+1} - 2 s_t + s_{t-1}|.

:math:`\sigma` is the standard deviation of the scores around a smooth curve: second differences take away its slope,
the median takes away single jumps, and 1.4826 makes it the standard deviation of normal noise. The smallest of N
numbers lies about :math:`\sqrt{2 \ln N}\,\sigma` below their mean by chance alone; the 3 makes the end unlikely as one
of them, and the factor makes up for a :math:`\sigma` from few scores. Of simulated trainings that never got better,
with noise of a third of their score, 1.5 % are called collapsed at N = 5, and 0.4 % at N = 100. A score that goes up
and down by as much as it has ended above its best is noise, not collapse. The first term leaves out what is certain and
small. Fewer than five scores say nothing about the noise.

Scores of likelihood models rise likewise where training overfits. A slow and smooth oscillation counts as collapse
while it is up.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

__all__ = ["FEWEST", "Collapse", "Found", "collapse_of"]

FEWEST = 5
"""Scores that are needed to know the noise."""


@dataclass(frozen=True)
class Found:
    """What the scores of a training say.

    Attributes:
        best, final: The smallest and the last score.
        noise: :math:`\\sigma`.
        tolerance: What the final score may lie above the best.
    """

    best: float
    final: float
    noise: float
    tolerance: float

    @property
    def collapsed(self) -> bool:
        return self.final - self.best > self.tolerance


def collapse_of(scores: Sequence[float]) -> Found | None:
    """What validation scores in their order say of collapse; None if there are too few of them."""
    n = len(scores)
    if n < FEWEST:
        return None
    bends = [abs(scores[t + 1] - 2 * scores[t] + scores[t - 1]) for t in range(1, n - 1)]
    noise = 1.4826 / math.sqrt(6) * statistics.median(bends)
    best = min(scores)
    tolerance = max(abs(best) / 2, (math.sqrt(2 * math.log(n)) + 3) * (1 + 2 / (n - 2)) * noise)
    return Found(best, scores[-1], noise, tolerance)


class Collapse(Metric):
    """``collapsed``: 1 if the end of the training is much worse than its best, else 0.

    The mean over seeds is the share of trainings that collapsed. It is the same for both checkpoints.
    """

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (MetricInfo("collapsed", "", None, self.version, "collapsed", 300),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        found = collapse_of(examples.subject.scores())
        if found is None:
            raise UnavailableError(f"fewer than {FEWEST} validations: collapse cannot be told from noise")
        reason = (
            "the final checkpoint is much worse than the best one, beyond the noise: collapsed or overfitted"
            if found.collapsed
            else ""
        )
        return [Estimate(info, float(found.collapsed), reason=reason)]
