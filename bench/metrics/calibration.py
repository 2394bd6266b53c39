"""Calibrate the threshold below which two samples count as copies, and run the controls that say whether it holds.

The birthday test (``bench.metrics.birthday``) says what for.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from scipy import special, stats
from torch import Generator, Tensor

from bench.device import on_gpu
from bench.errors import BrokenError, UnavailableError
from bench.features.base import Extractor, Recipe
from bench.metrics.controls import matched, planted, power
from bench.metrics.near_duplicates import (
    as_contrasted,
    closest_distances,
    closest_pairs,
    collision_degrees,
    distinct,
    duplicate_groups,
    local_radius,
    neighbour_rank,
    reference_radius,
)
from bench.metrics.pairs import rows_at_a_time
from bench.metrics.registered import registered, registered_shape
from bench.metrics.support_size import Support, renyi2_support
from bench.metrics.turned import TRIED, Pairs, closest_up_to_a_turn, joined, spread_of_turns, turned_at_random
from bench.schema import Estimate, MetricInfo, Relation, Status
from bench.seeds import derive_seed
from bench.subjects.examples import Examples

__all__ = [
    "Batch",
    "Calibration",
    "Controls",
    "calibrated",
    "measured_support",
    "near_duplicate_support",
    "prepared",
    "sequential",
    "verdict",
]

FEWEST = 50  # with fewer real examples no threshold can be calibrated
NARROW = 2.0  # an interval whose upper limit is at most so many times the lower one needs no larger batch
FRESH, PLANTED = 1000, 400  # most examples in the controls
OWN = 1000  # of the samples' own pairs, looked at first for how copies are turned
MOST_TRIED = 2**18  # pairs


@dataclass(frozen=True)
class Calibration:
    """A threshold from real examples, with what it takes to measure samples by it.

    Pairs are searched on the device of ``real``; what is found is on the CPU.

    Attributes:
        real: Features of real examples, ``(N, F)``.
        order: Indices of different real examples in random order.
        n: The first n of them were compared with each other.
        near: Distance within which pairs are likely copies, in units of the radius among real examples.
        threshold: Distance of copies, in units of the local radius.
        false_pairs: Its rank among the distances of the n real examples.
        pictures: Whether contrast and offset of the samples make no difference.
        shape: ``(C, H, W)`` of the features where they are pictures; distances are then taken up to a turn.
    """

    real: Tensor
    order: Tensor
    n: int
    near: float
    threshold: float
    false_pairs: int
    pictures: bool
    shape: tuple[int, ...] | None = None

    def radius(self, x: Tensor) -> Tensor:
        """Return the local radius of each of ``(s, F)``, ``(s,)``: among n of them, so that it can be compared.

        Raises:
            BrokenError: Distances between samples overflow even relative to the samples' spread.
        """
        x = x.to(self.real.device)
        k = neighbour_rank(self.n)
        gain, offset = as_contrasted(x, self.real) if self.pictures else (1.0, 0.0)
        candidates = reference_radius(x, self.real, self.order, k, gain=gain, offset=offset)
        among = min(len(x), self.n)
        return _finite(local_radius(x, self.near, candidates, max(1, round(k * among / self.n)), among))

    def degrees(self, x: Tensor) -> Tensor:
        """Return with how many others each of ``(s, F)`` coincides, ``(s,)`` int64."""
        x = x.to(self.real.device)
        radius = self.radius(x)
        degrees = collision_degrees(x, radius, self.threshold).cpu()
        pairs = self._turned(x, radius, int(degrees.sum()) // 2)
        return degrees if pairs is None else degrees + torch.bincount(torch.cat([pairs.i, pairs.j]), minlength=len(x))

    def groups(self, x: Tensor) -> Tensor:
        """Return the group of duplicates of each of ``(s, F)``, ``(s,)`` int64."""
        x = x.to(self.real.device)
        radius = self.radius(x)
        group = duplicate_groups(x, radius, self.threshold)
        size = torch.bincount(group)
        pairs = self._turned(x, radius, int((size * (size - 1)).sum()) // 2)
        return group if pairs is None else joined(group, pairs.i, pairs.j)

    def closest(self, x: Tensor, m: int) -> Pairs:
        """Return the m closest pairs of ``(s, F)``, up to a turn where the features are pictures."""
        x = x.to(self.real.device)
        radius = self.radius(x)
        if self.shape is None:
            i, j, distance = closest_pairs(x, radius, m)
            return Pairs(i, j, distance, distance, torch.zeros_like(distance)).cpu()
        return closest_up_to_a_turn(x, self.shape, radius, TRIED + m).first(m).cpu()

    def _turned(self, x: Tensor, radius: Tensor, coinciding: int) -> Pairs | None:
        """Return the pairs that coincide up to a turn and not without; None where features are not turned.

        Arguments:
            coinciding: Number of pairs that coincide without a turn.
        """
        if self.shape is None:
            return None
        pairs = closest_up_to_a_turn(x, self.shape, radius, min(TRIED + coinciding, MOST_TRIED))
        return pairs.where((pairs.distance <= self.threshold) & (pairs.plain > self.threshold)).cpu()

    def ratio(self, s: int) -> float:
        """Return how many times as many pairs s samples have as the n real examples."""
        return s * (s - 1) / (self.n * (self.n - 1))

    def by_chance(self, pairs: int, s: int) -> float:
        """Return the probability that s different real examples give at least so many pairs."""
        return float(special.nbdtrc(pairs - 1, self.false_pairs, 1 / (1 + self.ratio(s)))) if pairs > 0 else 1.0


@dataclass(frozen=True)
class Controls:
    """What the controls found.

    Attributes:
        fresh: Number of different real examples compared.
        false: Pairs of them that count as copies.
        planted: Planted pairs of copies; 0 where none were planted.
        found: Pairs found among the planted copies.
    """

    fresh: int
    false: int
    planted: int
    found: int


@dataclass(frozen=True)
class Batch:
    """Comparable features of the samples, ``fake`` (N, F), and what they are measured by.

    Attributes:
        controls: Runs the controls.
        fresh: Returns different real examples, which are new to the threshold, as features.
        about: The fields of an ``Estimate`` that say what it was measured on.
    """

    fake: Tensor
    calibration: Calibration
    controls: Callable[[], Controls]
    fresh: Callable[[], Tensor]
    about: dict[str, Any]


def prepared(examples: Examples, recipe: Recipe, n_samples: int, false_pairs: int) -> Batch:
    """Calibrate on the held-out examples, for ``n_samples`` of the subject.

    Raises:
        UnavailableError: There are too few examples, or they have the same features.
        BrokenError: Features are not finite, or their distances overflow.
    """
    examples.need(recipe)
    samples = examples.samples(n_samples)
    order = distinct(examples.held_out)
    n = min(len(order), len(samples))
    if n < FEWEST:
        raise UnavailableError(
            f"{n} examples (distinct real ones, or samples) are too few: at least {FEWEST} are needed"
        )
    # Take a random part of the real examples, because splits may be sorted. The samples are already independent.
    order = order[torch.randperm(len(order), generator=_generator(examples, "real"))]
    extractor = examples.extractor(recipe)
    # Features of these two are shared with other metrics, and kept.
    shared = partial(examples.features, extractor)
    real, fake = on_gpu(*(_comparable(extractor, x, shared) for x in (examples.held_out, samples)))
    for whose, x in (("the samples", fake), ("real examples", real)):
        if not all(bool(torch.isfinite(piece).all()) for piece in x.split(rows_at_a_time(x))):
            raise BrokenError(f"features of {whose} are not finite")
    shape = registered_shape(examples.spec.shape) if _raw(extractor) and examples.spec.is_image else None
    calibration = calibrated(real, order, n, false_pairs, pictures=examples.spec.is_image, shape=shape)
    return Batch(
        fake,
        calibration,
        lambda: _controls(examples, extractor, samples, calibration, fake[:n]),
        lambda: _comparable(extractor, _fresh(examples, n, _generator(examples, "fresh"))),
        {"n_real": n, "n_fake": len(samples), "extractor": extractor.name, "extractor_hash": extractor.hash},
    )


def calibrated(
    real: Tensor, order: Tensor, n: int, false_pairs: int, *, pictures: bool = False,
    shape: tuple[int, ...] | None = None,
) -> Calibration:  # fmt: skip
    """Calibrate the threshold on n examples of ``real`` (N, F): it is their ``false_pairs``-th smallest distance.

    So the same number of pairs is expected by chance among n new real examples. Real examples and samples go through
    the same steps.

    Arguments:
        real: Features of the real examples.
        order: Indices of different real examples in random order, int64, at least n. The first n are compared with each
            other; the local radius is measured among all.
        n: Number of real examples, at least 2.
        false_pairs: Rank of the distance that is the threshold, at least 1.
        pictures: Whether contrast and offset of the samples make no difference.
        shape: ``(C, H, W)`` where features are pictures whose distances are taken up to a turn.

    Raises:
        BrokenError: Distances overflow.
        UnavailableError: So many real examples have the same features that there is nothing to tell copies by.
    """
    k = neighbour_rank(n)
    held = real[order[:n]]
    candidates = reference_radius(held, real, order, k, itself=True)
    if bool((candidates == 0).any()):
        raise UnavailableError(f"some real example has the features of {k} others; they do not tell copies apart")
    near = closest_distances(held, candidates, false_pairs)[-1].item()
    radius = _finite(local_radius(held, near, candidates, k))
    if shape is None:
        threshold = closest_distances(held, radius, false_pairs)[-1].item()
    else:
        threshold = closest_up_to_a_turn(held, shape, radius, TRIED + false_pairs).distance[false_pairs - 1].item()
    return Calibration(real, order, n, near, threshold, false_pairs, pictures, shape)


def near_duplicate_support(
    fake: Tensor, real: Tensor, order: Tensor, false_pairs: int, *, pictures: bool = False
) -> Support:
    """Return the support of all of ``fake`` (s, F) by ``calibrated`` with n = s, or all of ``order``. No controls.

    Raises:
        BrokenError, UnavailableError: As ``calibrated`` and ``Calibration.degrees``.
    """
    calibration = calibrated(real, order, min(len(fake), len(order)), false_pairs, pictures=pictures)
    return renyi2_support(calibration.degrees(fake), false_pairs, calibration.ratio(len(fake)))


def measured_support(
    examples: Examples, recipe: Recipe, n_samples: int, false_pairs: int, info: MetricInfo
) -> Estimate:  # fmt: skip
    """Return the whole test: the support that the controls allow, or why there is no number."""
    try:
        batch = prepared(examples, recipe, n_samples, false_pairs)
    except UnavailableError as error:
        return Estimate(info, status=Status.SKIPPED, reason=str(error))
    except BrokenError as error:
        return Estimate(info, status=Status.FAILED, reason=str(error))
    support, s = sequential(batch.fake, batch.calibration)
    support, reason = verdict(support, s, batch.calibration, batch.controls())
    if reason:
        return Estimate(info, status=Status.SKIPPED, reason=reason, **batch.about)
    return Estimate(
        info, support.value, support.stderr, support.low, support.high, support.relation,
        stderr_draws=support.stderr, **batch.about,
    )  # fmt: skip


def verdict(support: Support, s: int, calibration: Calibration, controls: Controls) -> tuple[Support, str]:
    """Return the support that the controls allow, and why it is inconclusive (empty where it is not).

    It is inconclusive if the found planted pairs are not 0.8 to 1.25 times the planted ones, or if the fresh examples
    give more pairs than 99 % of unchanged ones do, unless the samples give at least four times as many. If the samples
    do not give more pairs than the fresh examples (binomial test, 5 %), only the lower limit is supported.

    What of the planted pairs was not found is likely to be missed among the samples as well: the lower limit is that
    share smaller, and where too many were found, the upper one larger.
    """
    alike = "made as blurred and noisy as the samples" if calibration.pictures else "not in the calibration"
    if controls.planted and not 0.8 <= controls.found / controls.planted <= 1.25:
        return support, (
            f"inconclusive: real examples {alike} gave {controls.found} pairs of copies instead of {controls.planted}"
        )
    support = _allowing_for(support, controls.found / controls.planted if controls.planted else 1.0)
    share = controls.fresh * (controls.fresh - 1) / (s * (s - 1))
    if calibration.by_chance(controls.false, controls.fresh) < 0.01:
        if support.collisions * share < 4 * float(special.pdtri(controls.false, 0.05)):
            return support, (
                f"inconclusive: of {controls.fresh} different real examples {alike} {controls.false} pairs count as "
                f"copies, of {s} samples {support.collisions}"
            )
    elif support.relation is Relation.ESTIMATE:
        total = support.collisions + controls.false
        if stats.binomtest(support.collisions, total, 1 / (1 + share), alternative="greater").pvalue > 0.05:
            low = support.low
            return dataclasses.replace(support, value=low, relation=Relation.LOWER_BOUND, high=None, stderr=None), ""
    return support, ""


def _allowing_for(support: Support, recall: float) -> Support:
    """Return the support with limits that allow for a share of pairs that is found, which is not quite 1."""
    low = support.low * min(1.0, recall)
    high = None if support.high is None else support.high * max(1.0, recall)
    value = low if support.relation is Relation.LOWER_BOUND else support.value
    return dataclasses.replace(support, value=value, low=low, high=high)


def sequential(fake: Tensor, calibration: Calibration) -> tuple[Support, int]:
    """Return the support from the smallest of the batches of n, 2n, ... whose interval is narrow, and its size."""
    s = min(calibration.n, len(fake))
    while True:
        degrees = calibration.degrees(fake[:s])
        support = renyi2_support(degrees, calibration.false_pairs, calibration.ratio(s))
        if s == len(fake) or (support.high is not None and support.high <= NARROW * support.low):
            return support, s
        s = min(2 * s, len(fake))


def _controls(
    examples: Examples, extractor: Extractor, samples: Tensor, calibration: Calibration, fake: Tensor
) -> Controls:
    """Run the controls on examples that are new to the threshold.

    Arguments:
        fake: Features of some samples: planted copies are turned as the samples' own pairs are.
    """
    generator = _generator(examples, "controls")
    spec = examples.spec
    pool = _fresh(examples, len(samples), generator)
    if not spec.is_image:
        return Controls(len(pool), _pairs(calibration, _comparable(extractor, pool)), 0, 0)
    of_samples, of_real = power(samples), power(examples.held_out)

    def found(x: Tensor) -> int:
        made = matched(x, of_samples, of_real, generator)
        if not _raw(extractor) and spec.levels is not None:
            made = made.round().clamp(0, spec.levels - 1).to(x.dtype)
        return _pairs(calibration, _comparable(extractor, made))

    copies, pairs = planted(pool[:PLANTED], generator)
    copies = turned_at_random(copies, _spread(calibration, fake), generator)
    return Controls(len(pool), found(pool), pairs, found(copies))


def _spread(calibration: Calibration, fake: Tensor) -> float:
    """Return the spread of the turns of samples, from all pairs that count as copies: the closest are turned least."""
    m = OWN
    while True:
        own = calibration.closest(fake, m)
        copies = own.distance <= calibration.threshold
        if len(own.i) < m or m == MOST_TRIED or not bool(copies.all()):
            return spread_of_turns(own.angle[copies])
        m = min(4 * m, MOST_TRIED)


def _fresh(examples: Examples, most: int, generator: Generator) -> Tensor:
    """Return different training examples in random order; held-out ones where there are few to train on."""
    train = examples.data.train.x
    pool = train if len(train) >= FEWEST else examples.held_out
    pool = pool[torch.randperm(len(pool), generator=generator)[: min(FRESH, most)]]
    pool = pool[distinct(pool)]
    return pool[torch.randperm(len(pool), generator=generator)]


def _pairs(calibration: Calibration, x: Tensor) -> int:
    """Return how many pairs of ``(s, F)`` coincide."""
    return int(calibration.degrees(x).sum()) // 2


def _comparable(extractor: Extractor, x: Tensor, features: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return the features of examples that are compared: pictures without an extractor of their own are registered.

    Arguments:
        features: Returns those of the extractor; None: computes them.
    """
    if _raw(extractor) and x.dim() == 4:
        return registered(x)
    return (features or extractor.features)(x)


def _raw(extractor: Extractor) -> bool:
    """Whether the features are the entries themselves."""
    return extractor.name == "pixels" and not extractor.hash


def _generator(examples: Examples, purpose: str) -> Generator:
    return Generator().manual_seed(derive_seed(examples.seed, "birthday", purpose))


def _finite(radius: Tensor) -> Tensor:
    if not bool(torch.isfinite(radius).all()):
        raise BrokenError("distances between samples overflow")
    return radius
