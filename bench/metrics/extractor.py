"""How good the feature extractor is: its accuracy stands beside the numbers that were made with it."""

import math

from bench.metrics.base import Context, Metric, Need, classifier_name
from bench.schema import Estimate, MetricInfo, Relation

__all__ = ["ExtractorAccuracy", "wilson_interval"]


def wilson_interval(p: float, n: int) -> tuple[float, float]:
    r"""95 % interval for a proportion p of n trials (Wilson 1927): inside [0, 1], and sensible at p = 1.

    .. math:: \frac{p + z^2/2n \pm z \sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}
    """
    z = 1.959964
    centre = p + z**2 / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - half) / (1 + z**2 / n)), min(1.0, (centre + half) / (1 + z**2 / n))


class ExtractorAccuracy(Metric):
    """``accuracy[<extractor>]`` on labelled test examples. It says nothing of the model, so it has no direction."""

    needs = (Need.CLASSIFIER,)

    def infos(self, context: Context) -> tuple[MetricInfo, ...]:
        name = classifier_name(context.spec)
        return (MetricInfo(f"accuracy[{name}]", "", None, title=f"accuracy[{name}]"),)

    def compute(self, context: Context) -> list[Estimate]:
        (info,) = self.infos(context)
        extractor = context.extractor
        p, n = extractor.accuracy, extractor.n_test
        return [
            Estimate(
                info, p, math.sqrt(p * (1 - p) / n), *wilson_interval(p, n), Relation.ESTIMATE, n_real=n,
                extractor=extractor.name, extractor_hash=extractor.hash,
            )
        ]  # fmt: skip
