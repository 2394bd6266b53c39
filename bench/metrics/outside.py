r"""The mass that a model of integers puts outside the data's range.

Flows and the Gaussian are densities p of reals y, and the integers x = floor(y) are their data. Some put mass outside
[0, L). Their likelihood leaves it out and their sampler clips it to the end levels, so the two are different
distributions. The mass outside says by how much: with P the probabilities of the likelihood and Q those of the sampler,

.. math:: m = 1 - \sum_x P(x), \qquad \tfrac12 \sum_x |P(x) - Q(x)| = m / 2,

because :math:`Q(x) \ge P(x)` for all x. The likelihood is too low where the clipped mass lies, never too high.
"""

import math

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.metrics.intervals import measured, wilson_interval
from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

__all__ = ["MassOutside"]


class MassOutside(Metric):
    """Computes ``mass_outside``: the share of samples with an entry outside [0, L) before it is clipped.

    The standard error is that of a binomial proportion, the interval Wilson's. It has no direction: the likelihood
    already pays for the mass outside. It does not apply to real-valued data.

    Arguments:
        n_samples: Number of the subject's samples.
    """

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (MetricInfo("mass_outside", "", None, self.version, "mass outside", rank=300),)

    def compute(self, examples: Examples) -> list[Estimate]:
        if examples.spec.levels is None:
            raise UnavailableError("the data are real-valued: no sample is clipped")
        (info,) = self.infos(examples)
        outside = examples.subject.outside(self.n_samples, examples.report)
        n = len(outside)
        p = int(outside.sum()) / n
        low, high = wilson_interval(p, n)
        error = math.sqrt(p * (1 - p) / n)
        return [measured(info, p, draws=error, ci_low=low, ci_high=high, n_fake=n)]
