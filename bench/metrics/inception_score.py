r"""Inception Score on the in-domain classifier's probabilities.

.. math:: \text{IS} = \exp\Big(\frac1N \sum_i \mathrm{KL}\big(p(y|x_i) \,\big\|\, \bar p\big)\Big), \qquad
          \bar p = \frac1N \sum_i p(y|x_i),

between 1 and the number of classes (Salimans et al. 2016, "Improved techniques for training GANs"). All samples are one
split: the usual ten bias the score, and their spread is no standard error. The name says which classifier it is on,
because scores of different classifiers have nothing in common.
"""

import math

import torch
from torch import Tensor

from bench.metrics.base import Context, Metric, Need, classifier_name
from bench.schema import Estimate, MetricInfo, Relation, Status

__all__ = ["InceptionScore", "inception_score"]


def inception_score(probabilities: Tensor) -> tuple[float, float]:
    r"""Score and standard error from class probabilities ``(N, C)``, N >= 2.

    The error is the delta method's: to first order the mean divergence moves by :math:`\mathrm{KL}_i - \log
    \text{IS}` over N with example i, its share in :math:`\bar p` included, so
    :math:`\mathrm{se}(\text{IS}) = \text{IS} \cdot \mathrm{sd}(\mathrm{KL}_i) / \sqrt N`.
    """
    p = probabilities.double()
    p = p / p.sum(dim=1, keepdim=True)  # float32 rows sum to 1 only nearly
    # Log-probabilities apart, so that a class nobody predicts gives 0 log 0 = 0.
    divergence = (torch.xlogy(p, p) - torch.xlogy(p, p.mean(dim=0))).sum(dim=1)  # (N,)
    score = math.exp(divergence.mean().item())
    return score, score * divergence.std().item() / math.sqrt(len(p))


class InceptionScore(Metric):
    """``is[<extractor>]``, of the model's samples alone."""

    needs = (Need.SAMPLES, Need.CLASSIFIER)

    def infos(self, context: Context) -> tuple[MetricInfo, ...]:
        name = classifier_name(context.spec)
        return (MetricInfo(f"is[{name}]", "", True, title=f"IS[{name}]"),)

    def compute(self, context: Context) -> list[Estimate]:
        (info,) = self.infos(context)
        probabilities = context.probabilities(context.samples)
        if len(probabilities) < 2 or not bool(torch.isfinite(probabilities).all()):
            reason = f"needs at least 2 samples with finite class probabilities, of {len(probabilities)}"
            return [Estimate(info, status=Status.FAILED, reason=reason)]
        value, stderr = inception_score(probabilities)
        return [
            Estimate(
                info, value, stderr, max(1.0, value - 1.959964 * stderr), value + 1.959964 * stderr, Relation.ESTIMATE,
                n_fake=len(probabilities), extractor=context.extractor.name, extractor_hash=context.extractor.hash,
            )
        ]  # fmt: skip
