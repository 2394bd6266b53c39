"""What else the duplicates in a batch say of the support: more estimators beside the N_eff of ``Birthday``."""

from typing import Any

from torch import Tensor

from bench.errors import UnavailableError, UserError
from bench.features.base import Recipe
from bench.metrics.base import Metric
from bench.metrics.calibration import Calibration, calibrated, prepared, verdict
from bench.metrics.intervals import measured
from bench.metrics.support_size import (
    chao1,
    collision_ratio,
    fingerprint,
    new_examples,
    new_examples_error,
    renyi2_support,
    uniform_support,
    unseen_mass,
)
from bench.schema import Estimate, MetricInfo, Relation, Status
from bench.subjects.examples import Examples

__all__ = ["SupportSize"]

FALSE_PAIRS = (1, 4, 16, 64)


class SupportSize(Metric):
    """Computes estimates of the support from the groups of duplicates in one batch of all samples.

    ``chao1`` is a lower bound on the number of different examples, ``uniform_support`` that number if all are equally
    likely, ``unseen_mass`` the probability of what the batch does not hold, ``new_examples`` how many different ones as
    many samples again will bring. ``collision_ratio`` is the rate of coinciding pairs over that of real examples.
    ``support@m`` for m = 1, 4, 16, 64 is N_eff at the threshold at which m pairs of n real examples coincide: if it
    falls only as chance does, there are no copies at any distance; chance is not subtracted. Like the number of
    ``Birthday``, all are skipped where a control fails.

    Version 2 finds copies that are turned, as ``Birthday`` does.

    Arguments:
        features: Recipe of the feature space in which distances are measured.
        n_samples: Number of the subject's samples.
        false_pairs: Expected number of close pairs by chance among n real examples, at least 1. ``support@m``
            has m instead.

    Raises:
        UserError: ``false_pairs`` is below 1.
    """

    version = 2

    def __init__(self, features: Recipe, n_samples: int, false_pairs: int = 1) -> None:
        if false_pairs < 1:
            raise UserError(f"metric.support_size.false_pairs={false_pairs}: must be at least 1")
        self.recipe = features
        self.n_samples = n_samples
        self.false_pairs = false_pairs

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        on = f"[{self.recipe.name(examples.spec)}]"
        curve = [f"support@{m}" for m in FALSE_PAIRS]
        names = ["chao1", "uniform_support", "unseen_mass", "new_examples", "collision_ratio", *curve]
        return tuple(MetricInfo(f"{name}{on}", "", None, self.version, f"{name}{on}", rank=300) for name in names)

    def compute(self, examples: Examples) -> list[Estimate]:
        batch = prepared(examples, self.recipe, self.n_samples, self.false_pairs)
        fake, calibration, s = batch.fake, batch.calibration, len(batch.fake)
        degrees = calibration.degrees(fake)
        support = renyi2_support(degrees, self.false_pairs, calibration.ratio(s))
        reason = verdict(support, s, calibration, batch.controls())[1]
        if reason:
            raise UnavailableError(reason)
        f = fingerprint(calibration.groups(fake))
        chao, uniform, (unseen, unseen_error) = chao1(f), uniform_support(s, int(f.sum())), unseen_mass(f)
        infos = dict(zip(("chao1", "uniform", "unseen", "new", "ratio"), self.infos(examples), strict=False))
        bound, about = Relation.LOWER_BOUND, batch.about
        none: dict[str, Any] = {"status": Status.SKIPPED, "reason": "no sample has a duplicate", **about}
        new, new_error = max(0.0, new_examples(f, 1.0)), new_examples_error(f)  # fewer than none will not come
        alone = uniform is None
        estimates = [
            Estimate(infos["chao1"], **none) if alone else
            Estimate(infos["chao1"], chao.value, None, chao.low, chao.high, bound, **about),
            Estimate(infos["uniform"], **none) if alone else
            Estimate(infos["uniform"], uniform, relation=Relation.ESTIMATE, **about),
            measured(infos["unseen"], unseen, draws=unseen_error, within=(0.0, 1.0), **about),
            measured(infos["new"], new, draws=new_error, within=(0.0, float(s)), **about),
            _ratio(infos["ratio"], support.collisions, s, batch.fresh(), calibration, about),
        ]  # fmt: skip
        for m, info in zip(FALSE_PAIRS, self.infos(examples)[5:], strict=True):
            known = calibration
            at = calibrated(known.real, known.order, known.n, m, pictures=known.pictures, shape=known.shape)
            found = renyi2_support(at.degrees(fake), m, at.ratio(s))
            estimates.append(Estimate(info, found.value, found.stderr, found.low, found.high, found.relation, **about))
        return estimates


def _ratio(
    info: MetricInfo, found: int, s: int, fresh: Tensor, calibration: Calibration, about: dict[str, Any]
) -> Estimate:
    """Compare the samples' coinciding pairs with those of fresh real examples."""
    real, pairs, real_pairs = (
        int(calibration.degrees(fresh).sum()) // 2, s * (s - 1) // 2, len(fresh) * (len(fresh) - 1) // 2,
    )  # fmt: skip
    if found + real == 0:
        return Estimate(info, status=Status.SKIPPED, reason="neither samples nor real examples coincide", **about)
    low, high = collision_ratio(found, pairs, real, real_pairs)
    if high is None:
        return Estimate(info, low, None, low, None, Relation.LOWER_BOUND, **about)
    return Estimate(info, found / pairs / (real / real_pairs), None, low, high, Relation.ESTIMATE, **about)
