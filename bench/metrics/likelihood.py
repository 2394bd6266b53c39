r"""Log-likelihood in nats and in bits per dimension, with bounds from K draws.

Each draw w of a model's ``log_weight`` has :math:`E[w] = p(x)`. The mean of K draws gives the importance-weighted bound
(Burda, Grosse, Salakhutdinov 2016, "Importance weighted autoencoders", arXiv 1509.00519)

.. math:: L_K(x) = \log \frac1K \sum_k w_k, \qquad E[L_1] \le E[L_2] \le \dots \le \log p(x).

If w is deterministic, the bound is exact with K = 1. If log w itself is an unbiased estimate (with an estimated
log-determinant), the logarithm of the mean of w would be biased upwards. Then the draws of log w are averaged, and the
error due to the estimator is measured too. Integer data have probabilities, so their bits/dim is the length of a
lossless code; a density of reals has no bits per dimension.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bench.metrics.base import Metric
from bench.metrics.certificate import CHECKED, ode_change, refusal
from bench.metrics.draws import k_draw_bound, log_mean_exp, per_example
from bench.metrics.intervals import measured
from bench.schema import Estimate, Kind, MetricInfo, Relation, Status
from bench.statistics import t_quantile
from bench.subjects.examples import Examples

__all__ = [
    "LogLikelihood", "bits_per_dim", "bound_errors", "estimate_errors", "k_draw_bound", "log_mean_exp",
]  # fmt: skip

_ORDERS = {"any-order": "any order of nodes", "data-order": "nodes in the data's order"}


def bound_errors(log_w: Tensor, weight: Tensor | float = 1.0) -> tuple[float, float]:
    r"""Return two standard errors of the mean bound of ``(K, N)`` draws of log w, K and N at least 2, in nats.

    The bounds of the examples may count with a ``weight`` ``(N,)`` in the mean, for another unit.

    The total is that of a mean of N independent bounds, over other examples and other draws. What other draws for the
    same examples add to it is estimated by the jackknife over draws (Efron, Stein 1981, "The jackknife estimate of
    variance"), with :math:`L_{-k}` the bound without draw k:

    .. math::
        \widehat{\operatorname{Var}}_{\text{draws}} = \frac1{N^2} \sum_i \frac{K-1}{K} \sum_k
        \Big(L_{-k}(x_i) - \frac1K \sum_l L_{-l}(x_i)\Big)^2

    The delta method would be capped at 1 nat² an example, which one dominant weight reaches: for weights of a standard
    deviation of 5 nats it gives a third of the error.

    Returns:
        The total, and the part of the draws.
    """
    draws, n = log_w.shape
    log_w = log_w.double()
    # Sums of all weights before and after each, because to subtract one weight from their sum would cancel.
    nothing = torch.full((1, n), -math.inf, dtype=torch.float64)
    before = torch.cat([nothing, log_w[:-1].logcumsumexp(0)])
    after = torch.cat([log_w[1:].flip(0).logcumsumexp(0).flip(0), nothing])
    without = weight * (torch.logaddexp(before, after) - math.log(draws - 1))  # (K, N): L_{-k}
    of_draws = (draws - 1) / draws * (without - without.mean(0)).square().sum(0)  # (N,)
    return (weight * k_draw_bound(log_w)).std().item() / math.sqrt(n), of_draws.sum().sqrt().item() / n


def estimate_errors(log_w: Tensor) -> tuple[float, float]:
    r"""Return the standard errors of the mean of ``(K, N)`` estimated log-likelihoods, K and N at least 2, in nats.

    Draw k of example i is modelled as :math:`y_{ki} = \mu + a_i + d_k + e_{ki}`: the effect of the example, noise that
    all examples of a draw share (the number of terms of a random series is drawn once for a whole batch), and a
    residual. With the mean squares M of a two-way analysis of variance (Searle, Casella, McCulloch 1992, Variance
    components)

    .. math::
        \operatorname{Var} \bar y = \frac{\sigma_a^2}{N} + \frac{\sigma_d^2}{K} + \frac{\sigma_e^2}{NK}, \qquad
        \widehat{\operatorname{Var}} \bar y = \frac{M_a + \max(0, M_d - M_e)}{NK}, \qquad
        \widehat{\operatorname{Var}}_{\text{draws}} \bar y = \frac{M_d}{NK}

    Returns:
        The error over new examples and new draws, and the error over new draws for the same examples. The latter is the
        estimator's own error, which shrinks with more draws.
    """
    y = log_w.double()
    draws, n = y.shape
    per_example, per_draw, mean = y.mean(0), y.mean(1), y.mean()
    of_examples = draws * per_example.var()
    of_draws = n * per_draw.var()
    rest = (y - per_example - per_draw[:, None] + mean).square().sum() / ((draws - 1) * (n - 1))
    total = (of_examples + (of_draws - rest).clamp(min=0)) / (n * draws)
    return total.sqrt().item(), (of_draws / (n * draws)).sqrt().item()


def bits_per_dim(nats: float, dim: int) -> float:
    r"""Return :math:`-\text{nats} / (D \ln 2)`, given the log-probability of an example with D entries."""
    return -nats / (dim * math.log(2))


class LogLikelihood(Metric):
    """Computes ``log_likelihood``, the mean in nats per test example, and ``bits_per_dim`` for integer data.

    If the relation is ``estimate``, an additional row ``estimator_stderr`` gives the standard error due to the
    estimator's draws, in nats. If the likelihood is the solution of a differential equation, ``ode_change`` is by how
    much it moves with a finer solver, in nats per example (``bench.metrics.certificate``); where that is too much, the
    likelihood is ``failed`` with this reason, and is not computed.

    Where the nodes of graphs stand in an order of the data, the names say whether the model can learn that order:
    ``log_likelihood[any-order]``, ``log_likelihood[data-order]``. The two are not ranked together, and that of a model
    that does not say is not ranked.

    Arguments:
        n_draws: Number K of draws per example, for a likelihood that is bounded or estimated.
    """

    def __init__(self, n_draws: int) -> None:
        self.n_draws = n_draws

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        of = examples.subject.likelihood_of
        name, title = (f"[{of}]", f", {_ORDERS[of]}") if _is_ordered(examples) and of in _ORDERS else ("", "")
        infos: tuple[MetricInfo, ...] = (
            MetricInfo(f"log_likelihood{name}", "nats", True, self.version, f"log-likelihood{title}", rank=10),
            MetricInfo(f"bits_per_dim{name}", "bits/dim", False, self.version, f"bits/dim{title}", rank=20),
        )
        if examples.relation == Relation.ESTIMATE:
            infos += (MetricInfo("estimator_stderr", "nats", None, self.version, "estimator's error", rank=300),)
        if examples.subject.solves_ode:
            infos += (MetricInfo("ode_change", "nats", None, self.version, "change, finer ODE solver", rank=300),)
        return infos

    def inapplicable(self, examples: Examples) -> dict[str, str]:
        if examples.spec.levels is not None:
            return {}
        _, bits, *_ = self.infos(examples)
        return {bits.name: "the data are real-valued: a density has no bits per dimension"}

    def compute(self, examples: Examples) -> list[Estimate]:
        infos = self.infos(examples)
        if not examples.subject.solves_ode:
            return self._likelihood(examples, infos)
        change = ode_change(examples)
        reason = refusal(change, examples.spec.dim)
        estimates = self._failed(examples, infos[:-1], reason) if reason else self._likelihood(examples, infos[:-1])
        if math.isfinite(change):
            return [*estimates, Estimate(infos[-1], change, n_real=min(CHECKED, len(examples.real)))]
        return [*estimates, Estimate(infos[-1], status=Status.FAILED, reason=reason)]

    def items(self, examples: Examples) -> Tensor:
        """Return the log-likelihood of each test example, or its bound or estimate, in nats."""
        return per_example(examples.log_weights(self.n_draws), Relation(examples.relation))

    def _failed(self, examples: Examples, infos: Sequence[MetricInfo], reason: str) -> list[Estimate]:
        skipped = self.inapplicable(examples)
        return [
            Estimate(info, status=Status.SKIPPED, reason=skipped[info.name])
            if info.name in skipped
            else Estimate(info, status=Status.FAILED, reason=reason)
            for info in infos
        ]

    def _likelihood(self, examples: Examples, infos: Sequence[MetricInfo]) -> list[Estimate]:
        skipped = self.inapplicable(examples)
        log_w = examples.log_weights(self.n_draws)
        draws, n = log_w.shape
        relation = Relation(examples.relation)
        bound = per_example(log_w, relation)  # (N,)
        bad = int((~torch.isfinite(bound)).sum())
        if bad > 0 or n == 0:
            reason = f"log-likelihood is not finite for {bad} of {n} examples"
            return [Estimate(info, status=Status.FAILED, reason=reason) for info in infos]
        if _too_probable(examples, log_w, bound, relation):
            reason = ("the probabilities of the different test examples sum to more than 1: these are no "
                      "log-probabilities of the data's own values, in nats")  # fmt: skip
            return [Estimate(info, status=Status.FAILED, reason=reason) for info in infos]
        value = bound.mean().item()
        total, of_draws = _errors(log_w, bound, relation)
        shown = Relation(examples.subject.shown_relation)
        estimates = [_with_error(infos[0], value, total, of_draws, shown, n, draws)]
        if infos[1].name in skipped:
            estimates.append(Estimate(infos[1], status=Status.SKIPPED, reason=skipped[infos[1].name]))
        else:
            variables = examples.data.variables
            if variables is None:
                scale = abs(bits_per_dim(1.0, examples.spec.dim))
                total, of_draws_in_bits = (None if error is None else scale * error for error in (total, of_draws))
                bits = bits_per_dim(value, examples.spec.dim)
            else:  # the numbers of variables differ: the mean over examples of their bits a variable
                each = 1 / (variables(examples.real).double() * math.log(2))
                total, of_draws_in_bits = _errors(log_w, bound, relation, each)
                bits = -(each * bound).mean().item()
            estimates.append(_with_error(infos[1], bits, total, of_draws_in_bits, shown.negated, n, draws))
        caveats = [examples.subject.caveat]
        if _is_ordered(examples) and examples.subject.likelihood_of not in _ORDERS:
            caveats.append("whether the model can learn the order of the nodes is not said (likelihood_of)")
        said = "; ".join(filter(None, caveats))
        estimates = [replace(one, reason=said) if said and one.value is not None else one for one in estimates]
        for info in infos[2:]:
            if of_draws is not None:
                estimates.append(Estimate(info, of_draws, n_real=n, n_draws=draws))
            else:
                reason = "needs two draws and two examples; add evaluate.n_draws=16"
                estimates.append(Estimate(info, status=Status.SKIPPED, reason=reason))
        return estimates


def _is_ordered(examples: Examples) -> bool:
    """Whether the examples are graphs whose nodes stand in an order that a model may learn or not."""
    spec = examples.spec
    return spec.kind is Kind.GRAPHS and spec.graph is not None and not spec.graph.random_order


def _too_probable(examples: Examples, log_w: Tensor, bound: Tensor, relation: Relation) -> bool:
    """Whether integers are given more mass than there is, for certain: by 1e-3, at a chance of 1e-9 over the draws.

    Each draw of w is p(x) on average, so its sum over different examples is at most 1 on average; one draw of a bound
    says nothing. Of graphs and colourings nothing is said: their likelihoods may be those of a class of examples, or
    given a part of one.
    """
    k = len(log_w)
    if k == 1 and relation is not Relation.EXACT:
        return False
    plain = examples.spec.levels is not None and examples.spec.kind in (Kind.NUMBERS, Kind.CATEGORIES)
    if not plain or relation is Relation.ESTIMATE or bound.logsumexp(0) <= 0:  # the sum with repeated examples
        return False
    _, same, times = examples.real.flatten(1).unique(dim=0, return_inverse=True, return_counts=True)
    mass = (log_w.double() - times[same].log()).logsumexp(1)  # (K,)
    shares = (mass - mass.max()).exp()
    error = shares.std().item() / math.sqrt(k) if k > 1 else 0.0
    least = shares.mean().item() - t_quantile(1e-9, max(k - 1, 1)) * error
    return math.log(max(least, 1e-300)) + mass.max().item() > 1e-3


def _errors(
    log_w: Tensor, bound: Tensor, relation: Relation, weight: Tensor | float = 1.0
) -> tuple[float | None, float | None]:
    """Return the standard error of the mean of ``bound`` and the part due to the draws; None for an unknown one.

    The examples may count with a ``weight`` ``(N,)``.
    """
    draws, n = log_w.shape
    if n < 2:
        return None, None
    if draws < 2:
        return (weight * bound).std().item() / math.sqrt(n), 0.0 if relation is Relation.EXACT else None
    estimated = relation is Relation.ESTIMATE
    total, of_draws = estimate_errors(weight * log_w) if estimated else bound_errors(log_w, weight)
    return total, of_draws if math.isfinite(of_draws) else None  # all weights but one may be 0


def _with_error(
    info: MetricInfo, value: float, total: float | None, of_draws: float | None, relation: Relation, n: int, draws: int
) -> Estimate:
    of_test = None
    if total is not None and of_draws is not None:
        of_test = math.sqrt(max(0.0, total**2 - of_draws**2))
    return measured(
        info, value, test=of_test, draws=of_draws, stderr=total, relation=relation, n_real=n, n_draws=draws
    )  # fmt: skip
