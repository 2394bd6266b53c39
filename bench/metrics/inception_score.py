r"""Inception Score on the class probabilities of a classifier, the in-domain one by default.

.. math:: \text{IS} = \exp\Big(\frac1N \sum_i \mathrm{KL}\big(p(y|x_i) \,\big\|\, \bar p\big)\Big), \qquad
          \bar p = \frac1N \sum_i p(y|x_i).

It lies between 1 and the number of classes (Salimans et al. 2016, "Improved techniques for training GANs", arXiv
1606.03498). All samples form a single split: the usual ten splits bias the score, and their spread is not a standard
error. The metric's name includes the classifier, because scores with different classifiers cannot be compared.

The modified score (Gurumurthy, Sarvadevabhatla, Babu 2017, "DeLiGAN: generative adversarial networks for diverse and
limited data", arXiv 1706.02071) looks at samples of one predicted class, where the score sees no diversity:

.. math:: \text{m-IS} = \frac{1}{|C|} \sum_{c \in C} \exp\Big( \frac{1}{n_c (n_c - 1)} \sum_{i \ne j}
          \mathrm{KL}\big(p(y|x_i) \,\big\|\, p(y|x_j)\big)\Big)

with both samples of class c. It is at least 1. Samples that the classifier is unsure of raise it like diverse ones, so
it has no direction here.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bench.errors import BrokenError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.schema import Estimate, MetricInfo, Status
from bench.subjects.examples import Examples

__all__ = ["InceptionScore", "ModifiedInceptionScore", "inception_score", "modified_inception_score"]


def inception_score(probabilities: Tensor) -> tuple[float, float]:
    r"""Return the score and its standard error from class probabilities ``(N, C)``, N >= 2.

    The error follows from the delta method. To first order example i, including its share in :math:`\bar p`, changes
    the mean divergence by :math:`(\mathrm{KL}_i - \log \text{IS}) / N`, so
    :math:`\mathrm{se}(\text{IS}) = \text{IS} \cdot \mathrm{sd}(\mathrm{KL}_i) / \sqrt N`.
    """
    p = _normalized(probabilities)
    # Take p log p and p log(mean p) separately, so that a class without any probability gives 0 log 0 = 0.
    divergence = (torch.xlogy(p, p) - torch.xlogy(p, p.mean(dim=0))).sum(dim=1)  # (N,)
    score = math.exp(divergence.mean().item())
    return score, score * divergence.std().item() / math.sqrt(len(p))


def modified_inception_score(probabilities: Tensor) -> tuple[float, float]:
    r"""Return the modified score and its standard error from class probabilities ``(N, C)``.

    The mean over the pairs of a class is a U-statistic, without the pairs of a sample with itself. Classes are those
    that the classifier predicts for at least two samples. The error is that of the jackknife over all N samples (Efron,
    Stein 1981, "The jackknife estimate of variance"). With :math:`h_i` the mean of the symmetrized divergence of sample
    i from the others of its class, the class without it has the mean :math:`(n_c U_c - 2 h_i) / (n_c - 2)`, and one of
    two samples counts no longer. So the error is not lost where classes have few samples, as the delta method's is; it
    is then up to half too large.

    Raises:
        BrokenError: No class has two samples, or a probability is 0 where another sample of the class has more, so that
            a divergence is infinite.
    """
    p = _normalized(probabilities)
    of_class = p.argmax(dim=1)
    scores, without = [], []  # of each class; of a class without each of its samples, NaN where it counts no longer
    for c in of_class.unique().tolist():
        rows = p[of_class == c]
        n = len(rows)
        if n < 2:
            continue
        if bool(((rows == 0).any(dim=0) & (rows > 0).any(dim=0)).any()):
            raise BrokenError(f"class {c} has a sample with a probability of 0 where another has more: the divergence "
                              "is infinite")  # fmt: skip
        logs = torch.where(rows > 0, rows, 1.0).log()  # a class that no sample gives any probability counts 0
        negative_entropy = (rows * logs).sum(dim=1)  # (n,)
        # Sums over j of KL(i, j) and of KL(j, i); the pair of i with itself adds 0.
        onto = n * negative_entropy - rows @ logs.sum(dim=0)
        back = negative_entropy.sum() - logs @ rows.sum(dim=0)
        h = (onto + back) / (2 * (n - 1))
        scores.append(math.exp(h.mean().item()))
        without.append(((n * h.mean() - 2 * h) / (n - 2)).exp() if n > 2 else torch.full_like(h, math.nan))
    if not scores:
        raise BrokenError(f"no class has two samples, of {len(p)} samples")
    total, classes = math.fsum(scores), len(scores)
    value = total / classes
    others = [total - score for score in scores]
    left = torch.cat([
        torch.where(one.isnan(), rest / (classes - 1) if classes > 1 else value, (rest + one) / classes)
        for rest, one in zip(others, without, strict=True)
    ])  # fmt: skip
    moved = torch.cat([left - value, left.new_zeros(len(p) - len(left))])  # the only sample of a class moves nothing
    return value, math.sqrt((len(p) - 1) / len(p) * (moved - moved.mean()).square().sum().item())


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
        return [_scored(self.infos(examples)[0], examples, self.recipe, self.n_samples, inception_score)]


class ModifiedInceptionScore(Metric):
    """Computes ``modified_is[<features>]`` from the subject's samples alone.

    Arguments:
        features: Recipe of a classifier.
        n_samples: Number of the subject's samples.
    """

    def __init__(self, features: Recipe, n_samples: int) -> None:
        self.recipe = features
        self.n_samples = n_samples

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        return (MetricInfo(f"modified_is[{name}]", "", None, self.version, f"m-IS[{name}]", rank=300),)

    def compute(self, examples: Examples) -> list[Estimate]:
        return [_scored(self.infos(examples)[0], examples, self.recipe, self.n_samples, modified_inception_score)]


def _scored(
    info: MetricInfo, examples: Examples, recipe: Recipe, n_samples: int, score: Callable[[Tensor], tuple[float, float]]
) -> Estimate:
    """The estimate that a score and its standard error make of the samples' class probabilities."""
    examples.need(recipe)
    samples = examples.samples(n_samples)
    classifier = examples.classifier(recipe)
    probabilities = examples.probabilities(classifier, samples)
    if len(probabilities) < 2 or not bool(torch.isfinite(probabilities).all()):
        reason = f"needs at least 2 samples with finite class probabilities, of {len(probabilities)}"
        return Estimate(info, status=Status.FAILED, reason=reason)
    value, stderr = score(probabilities)
    return measured(
        info, value, draws=stderr, within=(1.0, math.inf), n_fake=len(probabilities),
        extractor=classifier.name, extractor_hash=classifier.hash,
    )  # fmt: skip


def _normalized(probabilities: Tensor) -> Tensor:
    """In float64, with sums of 1: those of float32 rows are 1 only approximately."""
    p = probabilities.double()
    return p / p.sum(dim=1, keepdim=True)
