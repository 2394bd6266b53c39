"""The birthday test in each class: a model may repeat itself in one class and not in another."""

import dataclasses

from torch import Tensor

from bench.data.base import Data, Split
from bench.errors import UserError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.calibration import measured_support
from bench.schema import Estimate, MetricInfo
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples

__all__ = ["SupportByClass"]


class SupportByClass(Metric):
    """Computes ``support_of_class[<features>,c]`` for each class c: the number of ``Birthday``, or why there is none.

    A sample belongs to the class that the classifier reads. It is compared with samples of its class alone,
    and thresholds and controls come from real examples of that class. A class with fewer than 50 samples, or held-out
    examples, has no number. Held-out and training examples belong to the class of their label. The rows' hash of
    features is that of the classifier as well: another one reads other classes.

    Arguments:
        features: Recipe of the feature space in which distances are measured; pixels work best.
        classes: Recipe of the classifier.
        n_samples: Number of the subject's samples, of all classes together.
        false_pairs: Expected number of close pairs by chance among n real examples of a class, at least 1.

    Raises:
        UserError: ``false_pairs`` is below 1.
    """

    def __init__(self, features: Recipe, classes: Recipe, n_samples: int, false_pairs: int = 1) -> None:
        if false_pairs < 1:
            raise UserError(f"metric.support_by_class.false_pairs={false_pairs}: must be at least 1")
        self.recipe = features
        self.classes = classes
        self.n_samples = n_samples
        self.false_pairs = false_pairs

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        classes = [str(c) for c in range(examples.spec.classes or 0)] or ["none"]
        return tuple(
            MetricInfo(f"support_of_class[{name},{c}]", "", None, self.version, f"N_eff of class {c}", rank=305)
            for c in classes
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        examples.need(self.classes)
        samples = examples.samples(self.n_samples)
        classifier = examples.classifier(self.classes)
        read = classifier.classes(samples)
        estimates = []
        for c, info in enumerate(self.infos(examples)):
            of_class = samples[read == c]
            subject = GivenSamples(of_class, examples.seed, examples.subject.origin)
            part = Examples(subject, _of_class(examples.data, c), seed=examples.seed)
            estimate = measured_support(part, self.recipe, max(1, len(of_class)), self.false_pairs, info)
            hashes = dict.fromkeys(hash for hash in (estimate.extractor_hash, classifier.hash) if hash)
            both = " ".join(hashes) if estimate.extractor else ""
            estimates.append(dataclasses.replace(estimate, extractor_hash=both))
        return estimates


def _of_class(data: Data, c: int) -> Data:
    """Return the examples with the label c. Extractors are still those of all classes."""
    return dataclasses.replace(
        data, train=_split(data.train, c), val=_split(data.val, c), test=_split(data.test, c), modes=None,
        learned=data if data.learned is None else data.learned,
    )  # fmt: skip


def _split(split: Split, c: int) -> Split:
    kept: Tensor | slice = slice(0, 0) if split.y is None else split.y == c
    return Split(split.x[kept], None if split.y is None else split.y[kept])
