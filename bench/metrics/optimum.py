r"""How many bits an entry a model needs beyond the fewest that any model can.

For data whose distribution p is known, and a model q with :math:`E[w] = q(x)`,

.. math:: \frac{1}{D \ln 2}\, \frac1N \sum_i \big(\log p(x_i) - L_K(x_i)\big), \qquad L_K \text{ the bound of K draws,}

estimates the divergence :math:`\mathrm{KL}(p \| q)` in bits an entry, or an upper bound of it. Both logarithms are
taken at the same test examples, so that the spread of log p over the examples is no error of the difference. Of
colourings, D is the number of nodes of each graph, within the mean.
"""

import math

import torch

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.metrics.draws import per_example
from bench.metrics.intervals import measured
from bench.schema import Estimate, MetricInfo, Relation, Status
from bench.subjects.examples import Examples

__all__ = ["Optimum"]


class Optimum(Metric):
    """Computes ``above_optimum`` in bits/dim, for data with levels whose distribution is known.

    Arguments:
        n_draws: Number K of draws per example, for a likelihood that is bounded or estimated.
    """

    def __init__(self, n_draws: int) -> None:
        self.n_draws = n_draws

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (MetricInfo("above_optimum", "bits/dim", False, self.version, "above the optimum", rank=25),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        truth = examples.data.log_density
        if truth is None or examples.spec.levels is None:
            raise UnavailableError(f"{examples.spec.name} has no known probabilities of entries, so no known optimum")
        relation = Relation(examples.relation)
        # Weights relative to the truth: what is said of log w is said of the difference.
        log_w = examples.log_weights(self.n_draws).double() - truth(examples.real).double().cpu()  # (K, N)
        draws, n = log_w.shape
        variables = examples.data.variables
        entries = examples.spec.dim if variables is None else variables(examples.real).double()
        excess = -per_example(log_w, relation) / (entries * math.log(2))  # bits an entry
        bad = int((~torch.isfinite(excess)).sum())
        if bad > 0 or n == 0:
            return [Estimate(info, status=Status.FAILED, reason=f"not finite for {bad} of {n} examples")]
        # Over new examples and draws. Draws of an estimate may share noise, which the spread of examples does not show.
        stderr = None if n < 2 or relation is Relation.ESTIMATE else excess.std().item() / math.sqrt(n)
        exact = relation is Relation.EXACT and stderr is not None
        return [
            measured(
                info, excess.mean().item(), test=stderr if exact else None, draws=0.0 if exact else None,
                stderr=stderr, relation=Relation(examples.subject.shown_relation).negated, n_real=n, n_draws=draws,
            )
        ]  # fmt: skip
