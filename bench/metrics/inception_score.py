r"""Inception Score on the in-domain classifier's probabilities.

.. math:: \text{IS} = \exp\Big(\frac1N \sum_i \mathrm{KL}\big(p(y|x_i) \,\big\|\, \bar p\big)\Big), \qquad
          \bar p = \frac1N \sum_i p(y|x_i).

It lies between 1 and the number of classes (Salimans et al. 2016, "Improved techniques for training GANs", arXiv
1606.03498). All samples form a single split: the usual ten splits bias the score, and their spread is not a standard
error. The metric's name includes the classifier, because scores with different classifiers cannot be compared.
"""

import math

import torch
from torch import Tensor

from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["InceptionScore", "inception_score"]


def inception_score(probabilities: Tensor) -> tuple[float, float]:
    r"""Return the score and its standard error from class probabilities ``(N, C)``, N >= 2.

    The error follows from the delta method. To first order example i, including its share in :math:`\bar p`, changes
    the mean divergence by :math:`(\mathrm{KL}_i - \log \text{IS}) / N`, so
    :math:`\mathrm{se}(\text{IS}) = \text{IS} \cdot \mathrm{sd}(\mathrm{KL}_i) / \sqrt N`.
    """
    p = probabilities.double()
    p = p / p.sum(dim=1, keepdim=True)  # float32 rows sum to 1 only approximately
    # Take p log p and p log(mean p) separately, so that a class without any probability gives 0 log 0 = 0.
    divergence = (torch.xlogy(p, p) - torch.xlogy(p, p.mean(dim=0))).sum(dim=1)  # (N,)
    score = math.exp(divergence.mean().item())
    return score, score * divergence.std().item() / math.sqrt(len(p))


class InceptionScore(Metric):
    """Computes ``is[<features>]`` from the subject's samples alone.

    Arguments:
        features: Recipe of a classifier.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"is[{name}]", "", True, self.version, f"IS[{name}]", rank=40),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        examples.need(self.recipe)
        samples = examples.samples(self.n_samples)
        classifier = examples.classifier(self.recipe)
        probabilities = examples.probabilities(classifier, samples)
        if len(probabilities) < 2 or not bool(torch.isfinite(probabilities).all()):
            reason = f"needs at least 2 samples with finite class probabilities, of {len(probabilities)}"
            return [Estimate(info, status=Status.FAILED, reason=reason)]
        value, stderr = inception_score(probabilities)
        return [
            measured(
                info, value, draws=stderr, within=(1.0, math.inf), n_fake=len(probabilities),
                extractor=classifier.name, extractor_hash=classifier.hash,
            )
        ]  # fmt: skip
