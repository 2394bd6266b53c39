r"""Estimate how many different examples a model can generate, by the birthday paradox.

Two draws coincide with probability :math:`p_2 = \sum_i p_i^2`. If C of the :math:`\binom{s}{2}` pairs among s draws
coincide, :math:`C / \binom{s}{2}` is an unbiased estimate of :math:`p_2`, and :math:`N_{\text{eff}} = 1/p_2` is the
Rényi-2 support. It is a lower bound on the number of different examples, with equality if all are equally likely. This
makes the test of Arora, Risteski, Zhang 2018, "Do GANs learn the distribution? Some theory and empirics", quantitative.

Copies need not be exact, so two samples coincide if their distance is below a threshold. The threshold is calibrated:
among equally many held-out real examples, a given number of pairs (one) is that close. Distances are divided by the
local radius within the batch, because samples with less contrast or detail than the data have small distances without
being copies. This correction is imperfect: among 1000 different digits about 15 pairs count as copies after blurring by
1 pixel, and about 90 after blurring by 2 pixels. So read an N_eff of several thousand from blurry samples as a lower
bound.

For pictures the result does not change with the contrast or the offset of the samples, :math:`x \to a x + b` with
numbers a > 0 and b: before they are compared with real examples, they are given the mean and the standard deviation
that the real ones have over all entries. Of vectors the scale is kept: points that all lie close together are copies.
"""

import math
from dataclasses import dataclass

import torch
from scipy import special
from torch import Generator, Tensor

from bench.errors import BrokenError, UnavailableError, UserError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.intervals import Z975
from bench.metrics.near_duplicates import (
    as_contrasted,
    closest_distances,
    collision_degrees,
    distinct,
    local_radius,
    neighbour_rank,
    reference_radius,
    rows_at_a_time,
)
from bench.schema import Estimate, MetricInfo, Relation, Status
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = ["Birthday", "Support", "near_duplicate_support", "renyi2_support"]

FEWEST = 50  # with fewer real examples no threshold can be calibrated


@dataclass(frozen=True)
class Support:
    """Rényi-2 support with its 95 % interval. If ``relation`` is a lower bound, there is only ``low``."""

    value: float
    relation: Relation
    low: float
    high: float | None
    stderr: float | None
    collisions: int


class Birthday(Metric):
    """Computes ``support[<features>]``: the Rényi-2 support of the subject, N_eff.

    The sample size s is the number of distinct held-out real examples or the number of samples, whichever is smaller.

    Version 2 does not depend on the contrast and offset of pictures, and computes distances in float64.

    Arguments:
        features: Recipe of the feature space in which distances are measured. On digits, pixels work better than the
            classifier's features: they find more noisy and more distorted copies, and samples without fine detail do
            not collapse to one point.
        n_samples: Number of the subject's samples.
        false_pairs: Expected number of close pairs by chance among s real examples, at least 1.

    Raises:
        UserError: ``false_pairs`` is below 1.
    """

    version = 2

    def __init__(self, features: Recipe, n_samples: int, false_pairs: int = 1) -> None:
        if false_pairs < 1:
            raise UserError(f"metric.birthday.false_pairs={false_pairs}: must be at least 1")
        self.recipe = features
        self.n_samples = n_samples
        self.false_pairs = false_pairs

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        name = self.recipe.name(examples.spec)
        # No direction: more is better only up to what the data have, and noise has more than any data.
        return (MetricInfo(f"support[{name}]", "", None, self.version, "N_eff", rank=50),)

    def compute(self, examples: Examples) -> list[Estimate]:
        (info,) = self.infos(examples)
        examples.need(self.recipe)
        samples = examples.samples(self.n_samples)
        order = distinct(examples.held_out)
        s = min(len(order), len(samples))
        if s < FEWEST:
            reason = f"{s} examples (distinct real ones, or samples) are too few: at least {FEWEST} are needed"
            return [Estimate(info, status=Status.SKIPPED, reason=reason)]
        # Take a random part of the real examples, because splits may be sorted. The samples are already independent.
        generator = Generator().manual_seed(derive_seed(examples.seed, "birthday", "real"))
        order = order[torch.randperm(len(order), generator=generator)]
        extractor = examples.extractor(self.recipe)
        real, fake = (examples.features(extractor, x) for x in (examples.held_out, samples))
        fake = fake[:s]
        for whose, x in (("the samples", fake), ("real examples", real)):
            if not all(bool(torch.isfinite(piece).all()) for piece in x.split(rows_at_a_time(x))):
                return [Estimate(info, status=Status.FAILED, reason=f"features of {whose} are not finite")]
        support = near_duplicate_support(fake, real, order, self.false_pairs, pictures=len(examples.spec.shape) == 3)
        return [
            Estimate(
                info, support.value, support.stderr, support.low, support.high, support.relation, n_real=s, n_fake=s,
                extractor=extractor.name, extractor_hash=extractor.hash, stderr_draws=support.stderr,
            )
        ]  # fmt: skip


def near_duplicate_support(
    fake: Tensor, real: Tensor, order: Tensor, false_pairs: int, *, pictures: bool = False
) -> Support:
    """Return the support of ``fake`` (s, F), with the threshold calibrated on s examples of ``real`` (N, F).

    Real and fake examples go through the same steps. The threshold is the ``false_pairs``-th smallest distance between
    real examples, so that the same number of pairs is expected by chance among s new real examples.

    Arguments:
        fake: Features of the samples.
        real: Features of the real examples.
        order: Indices of different real examples in random order, ``(n,)`` int64 with n >= s. The first s are compared
            with each other; the local radius is measured among all n.
        false_pairs: Rank of the distance that is the threshold, at least 1.
        pictures: Whether contrast and offset of the samples make no difference.

    Raises:
        BrokenError: Distances between samples overflow even relative to the samples' spread.
        UnavailableError: So many real examples have the same features that there is nothing to tell copies by.
    """
    s = len(fake)
    k = neighbour_rank(s)
    held = real[order[:s]]
    gain, offset = as_contrasted(fake, real) if pictures else (1.0, 0.0)
    candidates = [
        reference_radius(held, real, order, k, itself=True),
        reference_radius(fake, real, order, k, gain=gain, offset=offset),
    ]
    if bool((candidates[0] == 0).any()):
        raise UnavailableError(f"some real example has the features of {k} others; they do not tell copies apart")
    near = closest_distances(held, candidates[0], false_pairs)[-1].item()
    radius = [local_radius(x, near, own, k) for x, own in zip((held, fake), candidates, strict=True)]
    if not all(bool(torch.isfinite(own).all()) for own in radius):
        raise BrokenError("distances between samples overflow")
    threshold = closest_distances(held, radius[0], false_pairs)[-1].item()
    return renyi2_support(collision_degrees(fake, radius[1], threshold), false_pairs)


def renyi2_support(degrees: Tensor, false_pairs: int) -> Support:
    r"""Return N_eff and its interval from the numbers of coincidences ``degrees`` (s,).

    .. math::
        \hat p_2 = C / \tbinom s2, \qquad
        \operatorname{var} \hat p_2 = \frac{2}{s(s-1)} \left[2(s-2) \zeta_1 + \zeta_2\right].

    This is the variance of a U-statistic (Hoeffding 1948), with :math:`\zeta_1 = \overline{\binom{\deg}{2}} /
    \binom{s-1}{2} - \hat p_2^2` from coinciding triples and :math:`\zeta_2 = \hat p_2 (1 - \hat p_2)`. The interval is
    symmetric on the log scale.

    If real examples reach C by chance with a probability above 5 %, the result is the lower bound
    :math:`\binom s2 / U`, where U is the upper 95 % Poisson limit for C; for C = 0 it is s(s-1)/6. The chance
    distribution of C is negative binomial: it counts the pairs of new examples below the m-th smallest distance of as
    many others, and that distance is random.

    Arguments:
        degrees: ``(s,)`` int64 from ``collision_degrees``.
        false_pairs: m >= 1, the rank of the real distance that is the threshold.
    """
    s = len(degrees)
    pairs = s * (s - 1) / 2
    collisions = int(degrees.sum()) // 2
    if collisions == 0 or special.nbdtrc(collisions - 1, false_pairs, 0.5) > 0.05:
        bound = pairs / float(special.pdtri(collisions, 0.05))
        return Support(bound, Relation.LOWER_BOUND, bound, None, None, collisions)
    p2 = collisions / pairs
    degree = degrees.double()
    triples = (degree * (degree - 1) / 2).mean().item() / ((s - 1) * (s - 2) / 2)
    variance = 2 / (s * (s - 1)) * (2 * (s - 2) * max(triples - p2**2, 0.0) + p2 * (1 - p2))
    relative = math.sqrt(variance) / p2
    factor = math.exp(Z975 * relative)
    return Support(1 / p2, Relation.ESTIMATE, 1 / p2 / factor, factor / p2, relative / p2, collisions)
