"""Estimators of the support from duplicates: against likelihoods, worked examples and simulation."""

import math
from itertools import pairwise

import pytest
import torch
from helpers_birthday import generator
from helpers_metrics import ALL, examples, spec
from scipy import stats
from scipy.sparse.csgraph import connected_components
from torch import Generator, Tensor

from bench.errors import UserError
from bench.features.pixels import Pixels
from bench.metrics import near_duplicates
from bench.metrics.near_duplicates import collision_degrees, duplicate_groups
from bench.metrics.support_rows import SupportSize
from bench.metrics.support_size import (
    chao1,
    collision_ratio,
    different_error,
    fingerprint,
    half_chance_support,
    new_examples,
    new_examples_error,
    pair_limits,
    renyi2_support,
    uniform_support,
    unseen_mass,
)
from bench.schema import Relation, Status


def batch(p: Tensor, s: int, g: Generator) -> Tensor:
    """The group of each of s draws from p."""
    edges = p.cumsum(0)
    drawn = torch.searchsorted(edges, torch.rand(s, dtype=torch.float64, generator=g) * edges[-1])
    return drawn.unique(return_inverse=True)[1]


# N_eff. More distributions and batch sizes: tests/benchmarks/bench_birthday.py.


@pytest.mark.parametrize(("q", "n"), [(0.01, 100_000), (0.003, 100_000), (0.003, 10_000)])
def test_interval_holds_where_one_example_is_common(q: float, n: int) -> None:
    p = torch.full((n + 1,), (1 - q) / n, dtype=torch.float64)
    p[0] = q
    truth, g, covered, too_high = 1 / p.square().sum().item(), generator(3), 0, 0
    for _ in range(500):
        group = batch(p, 1000, g)
        support = renyi2_support(torch.bincount(group)[group] - 1, 1)
        covered += support.low <= truth <= (support.high or math.inf)
        too_high += support.low > truth
    assert 0.88 <= covered / 500 <= 0.985
    assert too_high / 500 <= 0.06


def test_limits_rise_with_the_evidence() -> None:
    pairs = 499_500.0
    for one_sided in (False, True):
        for clustered in (0.0, 6.0, 600.0):
            limits = [pair_limits(c, c, clustered, pairs, one_sided=one_sided) for c in range(1, 200)]
            assert all(a[0] <= b[0] and a[1] < b[1] for a, b in pairwise(limits))
        highs = [pair_limits(9, 9, w, pairs, one_sided=one_sided)[1] for w in (0.0, 1.0, 60.0, 600.0)]
        assert highs == sorted(highs)
    assert pair_limits(0, 0, 0, pairs, one_sided=True)[1] == pytest.approx(-math.log(0.05))
    assert pair_limits(0, 0, 0, pairs) == (0, pytest.approx(-math.log(0.025)))


def test_more_coincidences_never_give_a_larger_support() -> None:
    def with_pairs(c: int) -> tuple[float, float]:
        degrees = torch.zeros(1000, dtype=torch.int64)
        degrees[: 2 * c] = 1
        support = renyi2_support(degrees, 1)
        return support.low, support.high or math.inf

    found = [with_pairs(c) for c in range(30)]
    assert all(a[0] > b[0] and a[1] >= b[1] for a, b in pairwise(found))
    assert (found[4][1], found[5][1] < math.inf) == (math.inf, True), "four may be chance, five are not"


def test_larger_batches_expect_more_pairs_by_chance() -> None:
    degrees = torch.zeros(1000, dtype=torch.int64)
    degrees[:20] = 1
    assert renyi2_support(degrees, 1).relation is Relation.ESTIMATE
    assert renyi2_support(degrees, 1, ratio=10.0).relation is Relation.LOWER_BOUND


def test_half_chance_is_where_half_of_the_batches_hold_a_duplicate() -> None:
    s = 100
    square, support = half_chance_support(s)
    free = math.prod(1 - i / round(support) for i in range(s))
    assert free == pytest.approx(0.5, abs=0.01)
    assert square / support == pytest.approx(2 * math.log(2), rel=0.02)


# From the fingerprint.


def test_fingerprint_counts_groups_by_size() -> None:
    assert fingerprint(torch.tensor([4, 0, 4, 2, 4, 7, 7])).tolist() == [0, 2, 1, 1]


@pytest.mark.parametrize(("s", "distinct"), [(20, 15), (50, 20), (30, 29)])
def test_uniform_support_has_the_greatest_likelihood(s: int, distinct: int) -> None:
    def log_likelihood(n: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(n - distinct + 1) - s * math.log(n)

    found = uniform_support(s, distinct)
    assert found is not None
    best = max(range(distinct, 20_000), key=log_likelihood)
    assert abs(found - best) <= 1
    assert uniform_support(s, s) is None
    assert uniform_support(1000, 1) == 1


def test_chao1_and_unseen_mass_of_a_worked_example() -> None:
    f = torch.tensor([0, 10, 4, 2])  # 16 seen among 24 draws
    value = 16 + 23 / 24 * 100 / 8
    found = chao1(f)
    assert found.value == pytest.approx(value)
    assert 16 < found.low < value < found.high
    assert (found.low - 16) * (found.high - 16) == pytest.approx((value - 16) ** 2)
    mass, error = unseen_mass(f)
    assert mass == pytest.approx(10 / 24)
    assert error == pytest.approx(math.sqrt(10 * 14 / 24 + 8) / 24)
    for none in (torch.tensor([0, 24]), torch.tensor([0, 0, 0, 8])):
        assert unseen_mass(none)[1] == pytest.approx(math.sqrt(8) / 24), "no evidence is no certainty"
    assert chao1(torch.tensor([0, 6])).value == pytest.approx(6 + 5 / 6 * 15)
    assert chao1(torch.tensor([0, 0, 5])).value == 5, "nothing seen once: nothing is missing"


def test_estimates_of_the_unseen_hold_in_simulation() -> None:
    p = torch.full((800,), 1 / 800, dtype=torch.float64)
    g, chao, masses, errors, covered = generator(1), [], [], [], 0
    for _ in range(200):
        group = batch(p, 500, g)
        f = fingerprint(group)
        bound = chao1(f)
        chao.append(bound.value)
        covered += bound.low <= 800 <= bound.high
        mass, error = unseen_mass(f)
        masses.append(mass - (1 - int(f.sum()) / 800))
        errors.append(error)
    assert sum(chao) / 200 == pytest.approx(800, rel=0.05), "equally likely examples: the bound is reached"
    assert 0.88 <= covered / 200 <= 0.99
    assert abs(sum(masses) / 200) < 0.01
    assert torch.tensor(masses).std().item() == pytest.approx(sum(errors) / 200, rel=0.2)


def test_chao1_without_a_group_of_two_is_not_certain() -> None:
    """Sixty draws of 3,000 equally likely examples hold no pair, one or two."""
    p, g = torch.full((3000,), 1 / 3000, dtype=torch.float64), generator(5)
    found = [chao1(fingerprint(batch(p, 60, g))) for _ in range(200)]
    assert sum(one.low <= 3000 <= one.high for one in found) / 200 >= 0.8
    assert sum(one.low > 3000 for one in found) / 200 <= 0.05


@pytest.mark.parametrize(("support", "s"), [(2000, 100), (400, 400), (400, 200)])
def test_the_error_of_the_forecast_is_that_of_fresh_batches(support: int, s: int) -> None:
    p, g, misses, errors = torch.full((support,), 1 / support, dtype=torch.float64), generator(3), [], []
    for _ in range(300):
        whole = batch(p, 2 * s, g)
        f = fingerprint(whole[:s])
        misses.append(new_examples(f, 1.0) - (len(whole.unique()) - len(whole[:s].unique())))
        errors.append(new_examples_error(f) ** 2)
    assert math.sqrt(sum(errors) / 300) == pytest.approx(float(torch.tensor(misses).std()), rel=0.15)


@pytest.mark.parametrize(("support", "n"), [(100, 100), (3000, 1000), (100_000, 1000)])
def test_the_error_of_the_number_of_different_samples_and_of_the_share_of_some_of_them(support: int, n: int) -> None:
    """Where few are drawn often a binomial error is half too large; where nearly all differ it must not vanish."""
    g, values, variances = generator(4), [], []
    for _ in range(300):
        kinds, counts = torch.randint(support, (n,), generator=g).unique(return_counts=True)
        third = (kinds % 3 == 0).double()
        share = float(third.mean())
        values.append([len(kinds), share])
        variances.append(
            [different_error(counts, n) ** 2, (different_error(counts, n, third - share) / len(kinds)) ** 2]
        )
    spread, error = torch.tensor(values).std(0), torch.tensor(variances).mean(0).sqrt()
    assert (error / spread).tolist() == pytest.approx([1, 1], abs=0.15)


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0, 4.0])
def test_new_examples_are_foretold(t: float) -> None:
    p = torch.arange(1, 3001).double() ** -0.7
    p = p / p.sum()
    g, errors, truths = generator(2), [], []
    for _ in range(60):
        edges = p.cumsum(0)
        drawn = torch.searchsorted(edges, torch.rand(round(1000 * (1 + t)), dtype=torch.float64, generator=g))
        first = drawn[:1000].unique(return_inverse=True)
        truths.append(len(drawn.unique()) - len(first[0]))
        errors.append(new_examples(fingerprint(first[1]), t) - truths[-1])
    assert abs(sum(errors) / sum(truths)) < 0.12
    with pytest.raises(ValueError, match="ln s"):
        new_examples(torch.tensor([0, 1000]), 8.0)


def test_ratio_has_the_exact_limits() -> None:
    low, high = collision_ratio(12, 1000, 3, 500)
    exact = stats.binomtest(12, 15).proportion_ci(0.95, "exact")
    assert low == pytest.approx(exact.low / (1 - exact.low) / 2)
    assert high == pytest.approx(exact.high / (1 - exact.high) / 2)
    assert collision_ratio(5, 100, 0, 100)[1] is None
    assert collision_ratio(0, 100, 4, 100)[0] == 0
    with pytest.raises(ValueError, match="neither"):
        collision_ratio(0, 1, 0, 1)


def test_groups_are_the_components_of_coinciding_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "BLOCK", 16)
    x, radius = torch.randn(100, 2, generator=generator()), torch.ones(100).double()
    near = torch.cdist(x.double(), x.double()) <= 0.25
    expected = connected_components(near.numpy())[1]
    group = duplicate_groups(x, radius, 0.25)
    same = group[:, None] == group
    assert torch.equal(same, torch.from_numpy(expected[:, None] == expected))
    assert 10 < len(group.unique()) < 90, "neither all apart nor all together"
    assert torch.equal(collision_degrees(x, radius, 0.25), near.sum(dim=1) - 1)


# The rows.


def test_rows_of_a_model_with_twenty_modes() -> None:
    g = generator()
    held_out, modes = torch.randn(300, 6, generator=g), torch.randn(20, 6, generator=g)
    samples = modes[torch.randint(20, (200,), generator=g)]
    asked = examples(spec(6), held_out=held_out, samples=samples)
    metric = SupportSize(Pixels(), ALL)
    estimates = metric.compute(asked)
    assert [one.info for one in estimates] == list(metric.infos(asked))
    found = {one.info.name.removesuffix("[pixels]"): one for one in estimates}
    assert all(one.status is Status.OK for one in estimates)
    assert found["chao1"].value == found["uniform_support"].value == pytest.approx(20, rel=0.01)
    assert found["unseen_mass"].value == 0
    assert found["new_examples"].value == pytest.approx(0, abs=3 * math.sqrt(20)), "20 terms of either sign"
    assert found["collision_ratio"].ci_low is not None
    assert found["collision_ratio"].ci_low > 100
    curve = [found[f"support@{m}"].value or 0.0 for m in (1, 4, 16, 64)]
    assert curve == sorted(curve, reverse=True)
    assert curve[0] == pytest.approx(20, rel=0.2)


def test_without_a_duplicate_there_is_no_number_that_needs_one() -> None:
    held_out = torch.randn(300, 6, generator=generator())
    samples = torch.cartesian_prod(*[torch.arange(3.0)] * 6)[:200]  # no pair is closer than another
    found = {
        one.info.name.removesuffix("[pixels]"): one
        for one in SupportSize(Pixels(), ALL).compute(examples(spec(6), held_out=held_out, samples=samples))
    }
    for name in ("chao1", "uniform_support"):
        assert (found[name].status, found[name].reason) == (Status.SKIPPED, "no sample has a duplicate")
    unseen, new = found["unseen_mass"], found["new_examples"]
    assert (unseen.value, new.value) == (1, 200)
    assert unseen.ci_low is not None
    assert 0.96 < unseen.ci_low < 0.98, "200 samples without a pair: about 1 - 5.5 / 200"
    assert new.stderr == pytest.approx(math.sqrt(24)), "as of two pairs"


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="at least 1"):
        SupportSize(Pixels(), ALL, false_pairs=0)


def test_pairs_at_a_wide_threshold_are_as_many_as_chance_gives() -> None:
    """Samples of the data's own distribution: 64 close pairs are no copies where 64 real ones are that close."""
    g = generator(3)
    asked = examples(spec(6), held_out=torch.randn(300, 6, generator=g), samples=torch.randn(300, 6, generator=g))
    found = [one for one in SupportSize(Pixels(), ALL).compute(asked) if one.info.name.startswith("support@")]
    assert [one.relation for one in found] == [Relation.LOWER_BOUND] * 4
