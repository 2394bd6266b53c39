r"""Classification by likelihood: a class-conditional model as a generative classifier.

.. math:: \hat y(x) = \operatorname*{argmax}_y \; \log p(x|y) + \log p(y)

is the best rule where the model is right (Ng, Jordan 2002, "On discriminative vs. generative classifiers"). Where the
model only bounds log p(x|y), as a flow on integer data does, the bounds of K draws take its place: a class may then win
because its bound is tighter.
"""

import math

import torch
from torch import Tensor

from bench.errors import BrokenError, UnavailableError
from bench.metrics.base import Metric
from bench.metrics.draws import per_example
from bench.metrics.intervals import measured, wilson_interval
from bench.schema import Estimate, MetricInfo, Relation
from bench.subjects.examples import Examples

__all__ = ["ClassLikelihood", "most_probable"]


def most_probable(log_w: Tensor, relation: Relation) -> Tensor:
    """Return the class of the largest log p(x, y) of each example: ``(K, N, classes)`` draws to ``(N,)`` int64.

    A class may have probability 0 (-inf).

    Raises:
        BrokenError: An example has NaN or infinity, or probability 0 in every class.
    """
    joint = per_example(log_w, relation)  # (N, classes)
    best, y = joint.max(dim=1)
    bad = int((~torch.isfinite(best)).sum())
    if bad > 0:
        raise BrokenError(f"log p(x, y) is not finite for {bad} of {len(best)} examples")
    return y


class ClassLikelihood(Metric):
    """Computes ``class_accuracy``: the share of test examples whose own class has the largest log p(x|y) + log p(y).

    It is shown as exact (=) where the likelihoods are, and as an estimate (≈) of what they would give where K draws
    bound or estimate them. The standard error is binomial, the interval Wilson's. It applies to class-conditional
    models with a likelihood, on data with labels.

    Arguments:
        n_draws: Number K of draws per example and class, for a likelihood that is bounded or estimated.
    """

    def __init__(self, n_draws: int) -> None:
        self.n_draws = n_draws

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (MetricInfo("class_accuracy", "", True, self.version, "accuracy by likelihood"),)

    def compute(self, examples: Examples) -> list[Estimate]:
        labels = examples.data.test.y
        if labels is None:
            raise UnavailableError("the data have no labels")
        relation = Relation(examples.relation) if examples.relation else Relation.ESTIMATE
        log_w = examples.subject.class_log_weights(examples.real, self.n_draws, examples.report)
        n = len(labels)
        if n == 0:
            raise BrokenError("there are no test examples")
        p = int((most_probable(log_w, relation) == labels).sum()) / n
        low, high = wilson_interval(p, n)
        error = math.sqrt(p * (1 - p) / n)
        (info,) = self.infos(examples)
        shown = Relation.EXACT if relation is Relation.EXACT else Relation.ESTIMATE
        return [measured(info, p, test=error, ci_low=low, ci_high=high, relation=shown, n_real=n, n_draws=len(log_w))]
