"""Support size: distances against brute force, intervals against simulation, and the controls on real digits."""

import math
from typing import Any

import pytest
import torch
from helpers_birthday import brute, generator
from helpers_metrics import ALL, FakeRecipe, examples, spec
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from bench.data.digits import mnist5k
from bench.errors import UserError
from bench.evaluation.evaluate import evaluate
from bench.features.pixels import Pixels
from bench.metrics import calibration, near_duplicates, pairs
from bench.metrics.birthday import Birthday
from bench.metrics.calibration import Calibration, calibrated, near_duplicate_support
from bench.metrics.near_duplicates import (
    closest_distances,
    closest_pairs,
    collision_degrees,
    distinct,
    local_radius,
    reference_radius,
)
from bench.metrics.support_size import Support, renyi2_support
from bench.schema import Relation, Status


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "BLOCK", 32)
    monkeypatch.setattr(pairs, "PIECE", 2**14)


# Distances.


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("n", [33, 100])
def test_degrees_and_closest_are_those_of_brute_force(n: int, offset: float) -> None:
    x = torch.randn(n, 3, generator=generator()) + offset
    x[7] = x[20]
    radius = 0.5 + torch.rand(n, generator=generator(1)).double()
    scaled = brute(x) / torch.outer(radius, radius).sqrt()
    pairs = scaled[tuple(torch.triu_indices(n, n, 1))].sort().values
    assert torch.allclose(closest_distances(x, radius, 40), pairs[:40], rtol=1e-12, atol=0)
    for threshold in (0.0, pairs[5].item() * (1 + 1e-12), 0.7, 100.0):
        assert torch.equal(collision_degrees(x, radius, threshold), (scaled <= threshold).sum(dim=1) - 1)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("m", [1, 40, 10_000])
def test_closest_pairs_are_those_of_brute_force(m: int) -> None:
    x = torch.randn(70, 3, generator=generator()) + 1e3
    radius = 0.5 + torch.rand(70, generator=generator(1)).double()
    scaled = brute(x) / torch.outer(radius, radius).sqrt()
    first, second = torch.triu_indices(70, 70, 1)
    order = scaled[first, second].argsort()[:m]
    i, j, distance = closest_pairs(x, radius, m)
    assert (i.tolist(), j.tolist()) == (first[order].tolist(), second[order].tolist())
    assert torch.allclose(distance, scaled[i, j], rtol=1e-12, atol=0)


def test_closest_pairs_of_copies_are_pairs_of_different_rows() -> None:
    i, j, distance = closest_pairs(torch.ones(3000, 2), torch.ones(3000).double(), 20)
    assert len({*zip(i.tolist(), j.tolist(), strict=True)}) == 20
    assert bool((i < j).all())
    assert distance.tolist() == [0] * 20


@pytest.mark.usefixtures("small_blocks")
def test_ties_with_the_threshold_are_decided_exactly() -> None:
    # Squared distances of integers far from the origin: 25 is within, 26 is not, and float32 alone cannot tell.
    x = torch.tensor([[0, 0], [3, 4], [1, 5], [0, 0]]) + torch.tensor([1_000_000, 0])
    far = torch.tensor([[-1_000_000, 50_000 * i] for i in range(40)])
    degrees = collision_degrees(torch.cat([x, far]), torch.ones(44).double(), 5.0)
    assert degrees[:4].tolist() == [2, 3, 1, 2]
    assert degrees[4:].sum() == 0


@pytest.mark.usefixtures("small_blocks")
def test_radii_are_those_of_brute_force() -> None:
    x, reference = torch.randn(70, 4, generator=generator()) + 5, torch.randn(90, 4, generator=generator(1)) + 5
    counted = torch.randperm(90, generator=generator(2))[:80]
    joined = torch.cat([x, reference[counted]])
    distance = brute(joined)
    expected = distance[:70, 70:].sort(dim=1).values[:, 2]
    assert torch.allclose(reference_radius(x, reference, counted, 3), expected, rtol=1e-5)
    expected = distance[:70].sort(dim=1).values[:, 3]  # the 0th is the example itself
    order = torch.randperm(150, generator=generator(3))
    shuffled = torch.empty_like(joined).index_copy_(0, order, joined)
    assert torch.allclose(reference_radius(x, shuffled, order, 3, itself=True), expected, rtol=1e-5)
    candidate = torch.full((70,), 2.0).double()
    # Neighbours within 0.5 * 2 are passed over.
    others = distance[:70, :70].clone()
    others[others <= 1.0] = math.inf
    expected = others.sort(dim=1).values[:, 2]
    assert torch.allclose(local_radius(x, 0.5, candidate, 3), expected, rtol=1e-5)
    same = torch.ones(70, 4)
    assert torch.equal(local_radius(same, 0.5, candidate, 3), candidate)


def test_distinct_keeps_each_once() -> None:
    x = torch.tensor([[[3, 1]], [[0, 2]], [[3, 1]], [[0, 1]]], dtype=torch.uint8)
    assert x[distinct(x)].tolist() == [[[0, 1]], [[0, 2]], [[3, 1]]]
    assert len(distinct(torch.zeros(5, 3))) == 1


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_distinct_is_in_lexicographic_order(dtype: torch.dtype) -> None:
    levels = torch.randint(256, (500, 2, 2), generator=generator()) // 50
    # Reals: from -2 to 3, and -0.0, which is no other number than 0.
    x = levels.to(dtype) if dtype is torch.uint8 else torch.where(levels == 3, -0.0, levels.to(dtype) - 2)
    unique = torch.unique(x, dim=0)
    assert 200 < len(unique) < 450
    assert torch.equal(x[distinct(x)], unique)


class Sizes(TorchDispatchMode):
    """Which operations made tensors of at least ``nbytes``, by name."""

    def __init__(self, nbytes: int) -> None:
        super().__init__()
        self.nbytes = nbytes
        self.large: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        known = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}  # what a view looks at
        for tensor in made if isinstance(made, tuple | list) else [made]:
            new = isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known
            if new and tensor.nbytes >= self.nbytes:
                self.large.add(function.name())
        return made


@pytest.mark.usefixtures("small_blocks")
def test_memory_is_one_float_copy_of_what_is_compared() -> None:
    g, n, d = generator(), 300, 1000
    held_out, samples = (torch.randint(256, (m, d), generator=g).to(torch.uint8) for m in (2 * n, n))
    # Few samples: of the real examples not even a copy is made.
    few, many = (examples(spec(d, 256), held_out=held_out, samples=samples[:count]) for count in (60, n))
    assert few.held_out.equal(many.held_out), "joined before the memory is watched"
    with Sizes(held_out.nbytes) as sizes:
        (estimate,) = Birthday(Pixels(), ALL).compute(few)
    assert (estimate.n_real, sizes.large) == (60, set())
    # Many: the centred examples in float32, and nothing as large beside them.
    with Sizes(4 * samples.nbytes) as sizes:
        (estimate,) = Birthday(Pixels(), ALL).compute(many)
    assert (estimate.n_real, sizes.large) == (n, {"aten::empty.memory_format"})


# Statistics. Draws from a known distribution over N labels give degrees without any distance.


def degrees_of(labels: Tensor) -> Tensor:
    return torch.bincount(labels)[labels] - 1


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_interval_covers_a_uniform_support(n: int) -> None:
    g, s, covered, values = generator(n), 1000, 0, []
    for _ in range(300):
        support = renyi2_support(degrees_of(torch.randint(n, (s,), generator=g)), 1)
        assert support.high is not None
        covered += support.low <= n <= support.high
        values.append(1 / support.value)
    assert 0.91 <= covered / 300 <= 0.99
    assert sum(values) / 300 == pytest.approx(1 / n, rel=0.03)  # p2 is unbiased


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_interval_covers_the_renyi_support_of_zipf(exponent: float) -> None:
    weights = torch.arange(1, 10_001).double() ** -exponent
    p = weights / weights.sum()
    truth, g, covered = 1 / p.square().sum().item(), generator(5), 0
    for _ in range(200):
        support = renyi2_support(degrees_of(torch.multinomial(p, 1000, replacement=True, generator=g)), 1)
        covered += support.low <= truth <= (support.high or math.inf)
    assert covered / 200 >= 0.88


def test_standard_error_against_simulation() -> None:
    p = torch.arange(1, 501).double() ** -0.7
    g = generator(2)
    supports = [renyi2_support(degrees_of(torch.multinomial(p, 800, True, generator=g)), 1) for _ in range(300)]
    errors = [support.stderr for support in supports if support.stderr is not None]
    spread = torch.tensor([support.value for support in supports]).std().item()
    assert sum(errors) / 300 == pytest.approx(spread, rel=0.15)


def test_no_collisions_give_the_bound_of_the_rule_of_three() -> None:
    support = renyi2_support(torch.zeros(1000, dtype=torch.int64), 1)
    assert support.relation is Relation.LOWER_BOUND
    assert support.value == pytest.approx(1000 * 999 / 6, rel=2e-3)
    assert (support.low, support.high, support.stderr) == (support.value, None, None)


def test_few_collisions_may_be_false_ones_and_many_are_not() -> None:
    def with_pairs(c: int) -> Support:
        degrees = torch.zeros(200, dtype=torch.int64)
        degrees[: 2 * c] = 1
        return renyi2_support(degrees, 1)

    # P(C >= c) = 2^-c: 4 are within the 95 % of chance, 5 are not.
    assert [with_pairs(c).relation for c in (1, 4, 5)] == [
        Relation.LOWER_BOUND, Relation.LOWER_BOUND, Relation.ESTIMATE,
    ]  # fmt: skip
    for c in (1, 4):
        mean = 200 * 199 / 2 / with_pairs(c).value  # coincidences expected if the support were just the bound
        chance = math.exp(-mean) * sum(mean**i / math.factorial(i) for i in range(c + 1))
        assert chance < 0.05, "the Poisson limit and more, for examples that are drawn often"
    assert with_pairs(5).value == pytest.approx(200 * 199 / 2 / 5)


def test_total_collapse_is_a_support_of_one() -> None:
    support = renyi2_support(torch.full((100,), 99), 1)
    assert (support.value, support.low, support.high) == (1, 1, 1)


def test_false_pairs_are_as_many_as_declared() -> None:
    found = []
    for seed in range(150):
        x = torch.randn(200, 5, generator=generator(seed))
        found.append(near_duplicate_support(x[:100], x[100:], torch.arange(100), 2).collisions)
    # The mean has a standard error of 0.16, and exceeds 2 a little because pairs of one example are not independent.
    assert 1.5 < sum(found) / 150 < 3
    assert sum(c > 6 for c in found) / 150 < 0.1  # 6 is the limit below which C is blamed on chance, of 5 %


# Real digits: 1000 held out, models that copy the other 4000 or distort them.


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = mnist5k()
    order = torch.randperm(4000, generator=generator(1))
    return data.train.x[order], torch.cat([data.val.x, data.test.x])


def support_of(samples: Tensor, held_out: Tensor) -> Support:
    order = torch.randperm(len(held_out), generator=generator(2))
    return near_duplicate_support(samples.flatten(1), held_out.flatten(1), order, 1)


def low_pass(x: Tensor, sigma: float) -> Tensor:
    kernel = torch.exp(-(torch.arange(-4, 5) ** 2) / (2 * sigma**2))
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    return functional.conv2d(x.float(), kernel[None, None], padding=4).round().to(torch.uint8)


def test_fresh_shrunk_and_blurred_digits_are_no_collapse(digits: tuple[Tensor, Tensor]) -> None:
    train, held_out = digits
    fresh = support_of(train[:1000], held_out)
    shrunk = support_of((train[:1000].float() / 2).round().to(torch.uint8), held_out)
    for support in (fresh, shrunk):
        assert support.relation is Relation.LOWER_BOUND
        assert support.value > 50_000
    # Blur brings some pairs too close. With distances in units of the real radius alone they are hundreds.
    assert support_of(low_pass(train[1000:2000], 1.0), held_out).value > 25_000


@pytest.mark.parametrize("n", [4000, 1000, 200])
def test_resampler_is_recovered(digits: tuple[Tensor, Tensor], n: int) -> None:
    train, held_out = digits
    support = support_of(train[torch.randint(n, (1000,), generator=generator(n))], held_out)
    assert support.high is not None
    assert support.low <= n <= support.high


@pytest.mark.parametrize("n", [1, 5, 200])
def test_noisy_copies_are_recovered(digits: tuple[Tensor, Tensor], n: int) -> None:
    train, held_out = digits
    copies = train[torch.randint(n, (1000,), generator=generator(n))].float()
    noisy = copies + 10 * torch.randn(copies.shape, generator=generator(3))
    assert support_of(noisy.clamp(0, 255).round().to(torch.uint8), held_out).value == pytest.approx(n, rel=0.1)


# The metric.


def test_metric_row_and_nothing_global_is_touched() -> None:
    g = generator()
    held_out, modes = torch.randn(300, 6, generator=g), torch.randn(20, 6, generator=g)
    samples = modes[torch.randint(20, (200,), generator=g)]
    before, state = samples.clone(), torch.get_rng_state()
    (estimate,) = Birthday(Pixels(), ALL).compute(examples(spec(6), held_out=held_out, samples=samples))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(samples, before)
    assert estimate.value == pytest.approx(20, rel=0.2)
    assert (estimate.info.name, estimate.n_real, estimate.n_fake, estimate.extractor) == (
        "support[pixels]",
        200,
        200,
        "pixels",
    )
    (features,) = Birthday(FakeRecipe(), ALL).compute(examples(spec(6), held_out=held_out, samples=samples))
    assert (features.info.name, features.extractor, features.value) == ("support[toy-cnn]", "toy-cnn", estimate.value)


def test_the_real_examples_are_a_random_part_of_a_sorted_split(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def watched(real: Tensor, order: Tensor, *given: int, **options: bool) -> Calibration:
        seen.append(real[order, 0])
        return calibrated(real, order, *given, **options)

    monkeypatch.setattr(calibration, "calibrated", watched)
    held_out = torch.arange(1000.0).repeat_interleave(2)[:, None].expand(2000, 2).contiguous()
    samples = 1000 * torch.rand(100, 2, generator=generator())
    for seed in range(3):
        Birthday(Pixels(), ALL).compute(examples(spec(2), held_out=held_out, samples=samples, seed=seed))
        assert seen[seed].sort().values.tolist() == list(range(1000))  # each different example once
        first = seen[seed][:100]
        assert 380 < first.mean() < 620  # four standard errors of 100 of 1000
        assert (first.diff() > 0).double().mean() < 0.7
    assert not torch.equal(seen[0], seen[1])


def test_too_few_or_repeated_real_examples_are_skipped() -> None:
    samples, held_out = torch.randn(100, 2, generator=generator()), torch.zeros(100, 2)
    (estimate,) = Birthday(Pixels(), ALL).compute(examples(spec(2), held_out=held_out, samples=samples))
    assert estimate.status is Status.SKIPPED
    assert "1 examples" in estimate.reason


def test_nan_samples_fail() -> None:
    held_out, samples = torch.randn(100, 2, generator=generator()), torch.full((100, 2), math.nan)
    asked = examples(spec(2), held_out=held_out, samples=samples)
    (estimate,) = evaluate(asked, {"birthday": Birthday(Pixels(), ALL)})["birthday"]
    assert estimate.status is Status.FAILED


# Scales: distances neither overflow nor vanish, and of pictures contrast and offset make no difference.


def drawn(n: int, copies: int, seed: int) -> Tensor:
    """Points of which every one is different, but for ``copies`` that stand a second time."""
    x = torch.randn(n, 2, generator=generator(seed))
    x[n - copies :] = x[:copies]
    return x


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e18, 1e19, 1e30, 1e36])
@pytest.mark.parametrize("copies", [0, 30])
def test_support_is_the_same_in_any_unit(scale: float, copies: int) -> None:
    real, order = torch.randn(1000, 2, generator=generator()), torch.arange(1000)
    fake = drawn(600, copies, seed=1)
    expected = near_duplicate_support(fake, real, order, 1)
    assert expected.collisions == copies
    assert near_duplicate_support(fake * scale, real * scale, order, 1) == expected


@pytest.mark.parametrize("scale", [1e3, 1e12, 1e19, 1e36])
@pytest.mark.parametrize("copies", [0, 30])
def test_samples_far_apart_are_no_copies(scale: float, copies: int) -> None:
    real = torch.randn(1000, 2, generator=generator())
    support = near_duplicate_support(drawn(600, copies, seed=1) * scale, real, torch.arange(1000), 1)
    assert support.collisions == copies
    assert support.value >= 1


@pytest.mark.parametrize("wild", [1e15, 1e25, 1e38])
def test_one_wild_sample_hides_no_copies_and_makes_none(wild: float) -> None:
    real = torch.randn(1000, 2, generator=generator())
    for copies in (0, 30):
        fake = drawn(600, copies, seed=1)
        fake[300] = wild
        assert near_duplicate_support(fake, real, torch.arange(1000), 1).collisions == copies


def test_constant_samples_are_a_support_of_one() -> None:
    real = torch.randn(1000, 2, generator=generator())
    for value in (0.0, 1.0, 1e19, -1e36):
        support = near_duplicate_support(torch.full((600, 2), value), real, torch.arange(1000), 1)
        assert support.value == 1


@pytest.mark.parametrize("gain", [0.01, 0.1, 0.5, 3.0])
@pytest.mark.parametrize("offset", [-500.0, 60.0])
@pytest.mark.parametrize("n", [1, 200, 4000])
def test_contrast_and_offset_of_pictures_make_no_difference(
    digits: tuple[Tensor, Tensor], n: int, gain: float, offset: float
) -> None:
    train, held_out = digits
    pictures = train[torch.randint(n, (300,), generator=generator(n))].flatten(1).double()
    noisy = pictures + torch.randn(pictures.shape, generator=generator(3)).double()
    real, order = held_out.flatten(1), torch.randperm(len(held_out), generator=generator(2))
    expected = near_duplicate_support(noisy, real, order, 1, pictures=True)
    changed = near_duplicate_support(gain * noisy + offset, real, order, 1, pictures=True)
    assert changed == expected
    assert near_duplicate_support(noisy, real, order, 1).collisions == expected.collisions


def test_metric_takes_no_notice_of_the_contrast_of_pictures(digits: tuple[Tensor, Tensor]) -> None:
    train, held_out = digits
    pale = (train[:300].float() / 10 + 100).round().to(torch.uint8)
    (estimate,) = Birthday(Pixels(), ALL).compute(examples(mnist5k().spec, held_out=held_out, samples=pale))
    assert estimate.relation is Relation.LOWER_BOUND
    assert estimate.value is not None
    assert estimate.value > 5_000


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_fail_in_one_line(bad: float) -> None:
    for whose in ("samples", "real examples"):
        made = {"samples": torch.randn(100, 2, generator=generator(1)), "real examples": torch.randn(100, 2)}
        made[whose][3, 1] = bad
        asked = examples(spec(2), held_out=made["real examples"], samples=made["samples"])
        (estimate,) = evaluate(asked, {"birthday": Birthday(Pixels(), ALL)})["birthday"]
        assert estimate.status is Status.FAILED
        assert estimate.reason
        assert "\n" not in estimate.reason


def test_real_examples_with_equal_features_are_skipped_with_a_reason() -> None:
    class Blind(FakeRecipe):
        """Sees nothing: all features are equal."""

    held_out = torch.randn(100, 2, generator=generator())
    asked = examples(spec(2), held_out=held_out, samples=torch.randn(100, 2, generator=generator(1)))
    recipe = Blind()
    extractor = asked.extractor(recipe)
    extractor.features = lambda x: torch.zeros_like(x)  # type: ignore[method-assign]
    (estimate,) = evaluate(asked, {"birthday": Birthday(recipe, ALL)})["birthday"]
    assert estimate.status is Status.SKIPPED
    assert "tell copies apart" in estimate.reason


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="at least 1"):
        Birthday(Pixels(), ALL, false_pairs=0)
