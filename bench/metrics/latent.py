r"""What a model does with its latent codes: the parts of the ELBO, active units, the error of a reconstruction.

.. math:: \text{ELBO} = E_q[\log p(x|z)] - KL(q(z|x) \| p(z)) \le \log p(x)

A posterior that has collapsed onto the prior shows as a KL term near 0 and few active units.
"""

import math

import torch
from torch import Generator, Tensor

from bench.errors import UnavailableError
from bench.metrics.base import Metric
from bench.metrics.intervals import measured
from bench.schema import Estimate, MetricInfo, Relation, Status
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["LatentCodes", "ReconstructionError", "active_units", "activity", "mean_errors", "squared_errors"]

REPLICATES = 200
"""Bootstrap samples of the test examples, for the error of the number of active units."""


def mean_errors(draws: Tensor) -> tuple[float, float | None]:
    r"""Return two standard errors of the mean of ``(K, N)`` numbers, K independent draws for each of N >= 2 examples.

    The total is that of a mean of N independent averages. The part that other draws for the same examples would change
    is :math:`\frac1N \sqrt{\sum_i s_i^2 / K}` with the variance :math:`s_i^2` over the draws; None for a single draw.
    """
    k, n = draws.shape
    total = draws.mean(0).std().item() / math.sqrt(n)
    return total, None if k < 2 else (draws.var(0) / k).sum().sqrt().item() / n


def activity(codes: Tensor, counts: Tensor | None = None) -> Tensor:
    r"""Return :math:`A_u = \operatorname{Var}_x E_q[z_u]`, the variance over examples of each posterior mean.

    Codes are K unbiased draws of each mean, or K copies of it where it is known. With :math:`\bar c` their average,

    .. math:: \widehat A_u = \operatorname{Var}_x \bar c_u - \frac1N \sum_x \frac{s_u^2(x)}{K}

    is unbiased; the variance :math:`s^2` over the draws is taken as 0 for K = 1.

    Arguments:
        codes: ``(K, N, Z)``, N >= 2.
        counts: ``(R, N)``, how often each of R resamples of N examples holds each of them.

    Returns:
        ``(Z,)``, or ``(R, Z)`` for resamples, float64.
    """
    k, n, _ = codes.shape
    codes = codes.double()
    mean = codes.mean(0)
    mean = mean - mean.mean(0)  # a large common mean would cancel below
    of_draws = codes.var(0) / k if k > 1 else torch.zeros_like(mean)
    share = torch.full((n,), 1 / n, dtype=torch.float64) if counts is None else counts.double() / n
    variance = (share @ mean.square() - (share @ mean).square()) * n / (n - 1)
    return variance - share @ of_draws


def active_units(codes: Tensor, threshold: float, generator: Generator) -> tuple[int, float]:
    r"""Return the number of units with :math:`A_u` above the threshold, and its standard error over other examples.

    The error is the spread over bootstrap resamples of the examples.

    Arguments:
        codes: ``(K, N, Z)`` as for :func:`activity`.
        threshold: In squared units of the codes.
        generator: Of the resamples.
    """
    n = codes.shape[1]
    chosen = torch.randint(n, (REPLICATES, n), generator=generator)
    counts = torch.zeros(REPLICATES, n).scatter_add_(1, chosen, torch.ones(REPLICATES, n))
    number = int((activity(codes) > threshold).sum())
    return number, (activity(codes, counts) > threshold).sum(1).double().std().item()


def squared_errors(x: Tensor, reconstructed: Tensor, levels: int | None) -> Tensor:
    """Return the squared error of an entry, averaged over each example: ``(N,)`` float64.

    Integers 0 .. L-1 are divided by L - 1, so that errors lie in [0, 1]; reals are in their own unit.
    """
    scale = 1 if levels is None else levels - 1
    return ((x.double() - reconstructed.double()) / scale).square().flatten(1).mean(1)


class LatentCodes(Metric):
    """Computes ``elbo``, its two terms ``reconstruction`` and ``kl``, and ``active_units``, on the test split.

    The first three are in nats an example, with ``elbo`` = ``reconstruction`` - ``kl``; the analytic KL divergence is
    taken where the model has it. A unit is active if its activity exceeds the threshold (Burda, Grosse, Salakhutdinov
    2016, "Importance weighted autoencoders", arXiv 1509.00519: 0.01, section 5.2). The terms and the number of units
    have no direction: a good model may have few.

    Arguments:
        n_draws: Number K of codes drawn for each example.
        threshold: Of the activity.
    """

    def __init__(self, n_draws: int, threshold: float = 0.01) -> None:
        self.n_draws = n_draws
        self.threshold = threshold

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (
            MetricInfo("elbo", "nats", True, self.version, "ELBO", rank=15),
            MetricInfo("reconstruction", "nats", None, self.version, "E log p(x|z)", rank=300),
            MetricInfo("kl", "nats", None, self.version, "KL(q|p)", rank=301),
            MetricInfo("active_units", "", None, self.version, "active units", rank=302),
        )

    def compute(self, examples: Examples) -> list[Estimate]:
        infos = self.infos(examples)
        reconstruction, kl, codes = examples.subject.elbo_terms(examples.real, self.n_draws, examples.report)
        draws, n = kl.shape
        if n < 2:
            raise UnavailableError("needs at least 2 test examples")
        estimates = []
        relations = (Relation.LOWER_BOUND, Relation.ESTIMATE, Relation.ESTIMATE)
        for info, term, relation in zip(infos, (reconstruction - kl, reconstruction, kl), relations, strict=False):
            if not bool(torch.isfinite(term).all()):
                estimates.append(_not_finite(info, term))
                continue
            total, of_draws = mean_errors(term)
            of_test = None if of_draws is None else math.sqrt(max(0.0, total**2 - of_draws**2))
            estimates.append(
                measured(
                    info, term.mean().item(), test=of_test, draws=of_draws, stderr=total, relation=relation,
                    n_real=n, n_draws=draws,
                )
            )  # fmt: skip
        if bool(torch.isfinite(codes).all()):
            generator = Generator().manual_seed(derive_seed(examples.seed, "active units"))
            number, error = active_units(codes, self.threshold, generator)
            within = (0.0, float(codes.shape[2]))
            estimates.append(measured(infos[3], number, test=error, within=within, n_real=n, n_draws=draws))
        else:
            estimates.append(_not_finite(infos[3], codes))
        return estimates


class ReconstructionError(Metric):
    """Computes ``reconstruction_error``: the mean squared error of an entry of a test example, encoded and decoded.

    It has no direction, because it says nothing about samples: flows have 0 up to rounding (a check of their inverse),
    and an autoencoder with a larger code has less.
    """

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (MetricInfo("reconstruction_error", "", None, self.version, "reconstruction error", rank=303),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        x = examples.real
        errors = squared_errors(x, examples.subject.reconstructions(x, examples.report), examples.spec.levels)
        if not bool(torch.isfinite(errors).all()):
            return [_not_finite(info, errors)]
        error = errors.std().item() / math.sqrt(len(x)) if len(x) > 1 else None
        return [measured(info, errors.mean().item(), test=error, within=(0.0, math.inf), n_real=len(x))]


def _not_finite(info: MetricInfo, values: Tensor) -> Estimate:
    bad = int((~torch.isfinite(values)).sum())
    return Estimate(info, status=Status.FAILED, reason=f"{bad} of {values.numel()} values are not finite")
