"""How good the feature extractor is: its accuracy stands beside the numbers that were made with it."""

import math

from bench.metrics.base import Context, Metric, Need, classifier_name
from bench.metrics.intervals import wilson_interval
from bench.schema import Estimate, MetricInfo, Relation

__all__ = ["ExtractorAccuracy"]


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
