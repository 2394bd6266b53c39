r"""How many bits an entry a model needs beyond the fewest that any model can.

For data whose distribution p is known, and a model q with :math:`E[w] = q(x)`,

.. math:: \frac{1}{D \ln 2}\, \frac1N \sum_i \big(\log p(x_i) - L_K(x_i)\big), \qquad L_K \text{ the bound of K draws,}

estimates the divergence :math:`\mathrm{KL}(p \| q)` in bits an entry, or an upper bound of it. Both logarithms are
taken at the same test examples, so that the spread of log p over the examples is no error of the difference.
"""

import math

import torch

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.metrics.draws import per_example
from bench.metrics.intervals import measured
from bench.metrics.likelihood import bits_per_dim, likelihood_errors
from bench.schema import Estimate, MetricInfo, Relation, Status
from bench.subjects.examples import Examples

__all__ = ["Optimum"]


class Optimum(Metric):
    """Computes ``above_optimum`` in bits/dim, for integer data or categories whose distribution is known.

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
            raise UnavailableError(f"{examples.spec.name} has no known probabilities, so no known optimum")
        log_w = examples.log_weights(self.n_draws)
        relation = Relation(examples.relation)
        draws, n = log_w.shape
        excess = truth(examples.real).double().cpu() - per_example(log_w, relation)
        bad = int((~torch.isfinite(excess)).sum())
        if bad > 0 or n == 0:
            return [Estimate(info, status=Status.FAILED, reason=f"not finite for {bad} of {n} examples")]
        scale = abs(bits_per_dim(1.0, examples.spec.dim))
        total, of_draws = likelihood_errors(log_w - truth(examples.real).to(log_w), -excess, relation)
        shown = Relation(examples.subject.shown_relation).negated
        test = None if total is None or of_draws is None else math.sqrt(max(0.0, total**2 - of_draws**2))
        in_bits = [None if error is None else scale * error for error in (test, of_draws, total)]
        return [
            measured(
                info, scale * excess.mean().item(), test=in_bits[0], draws=in_bits[1], stderr=in_bits[2],
                relation=shown, n_real=n, n_draws=draws,
            )
        ]  # fmt: skip
