"""The accuracy of the feature extractor, reported beside the numbers computed with it."""

import math

from bench.errors import UnavailableError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured, wilson_interval
from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples

__all__ = ["ExtractorAccuracy"]


class ExtractorAccuracy(Metric):
    """Computes ``accuracy[<features>]`` on labelled test examples. It does not rank subjects, so it has no direction.

    Arguments:
        features: Recipe of a classifier.
    """

    def __init__(self, features: Recipe) -> None:
        self.recipe = features

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"accuracy[{name}]", "", None, self.version, f"accuracy[{name}]", rank=300),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        classifier = examples.classifier(self.recipe)
        p, n = classifier.accuracy, classifier.n_test
        if p is None:
            raise UnavailableError(f"the classes of {classifier.name} are not those of the data")
        low, high = wilson_interval(p, n)
        return [
            measured(
                info, p, test=math.sqrt(p * (1 - p) / n), ci_low=low, ci_high=high, n_real=n,
                extractor=classifier.name, extractor_hash=classifier.hash,
            )
        ]  # fmt: skip
