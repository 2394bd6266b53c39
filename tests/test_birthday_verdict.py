"""The verdict of the birthday test: what real digits, copies and spoilt samples get, and the controls behind it."""

import math

import pytest
import torch
from helpers_birthday import generator
from helpers_metrics import ORIGIN, FakeSubject
from torch import Tensor
from torch.nn import functional

from bench.data.base import Data
from bench.data.digits import mnist5k
from bench.features.pixels import Pixels
from bench.metrics import calibration as module
from bench.metrics.birthday import Birthday
from bench.metrics.calibration import Calibration, Controls, calibrated, prepared, sequential, verdict
from bench.metrics.controls import matched, planted, power
from bench.metrics.near_duplicates import local_radius
from bench.metrics.registered import registered, smoothed
from bench.metrics.support_size import Support, renyi2_support
from bench.metrics.turned import turned_at_random
from bench.schema import Estimate, Relation, Status
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples


@pytest.fixture(scope="module")
def data() -> Data:
    return mnist5k()


def shuffled(data: Data) -> Tensor:
    return data.train.x[torch.randperm(4000, generator=generator(1))].float()


def resampled(data: Data, n: int, s: int = 600) -> Tensor:
    return shuffled(data)[torch.randint(n, (s,), generator=generator(n))]


def levels(x: Tensor) -> Tensor:
    return x.clamp(0, 255).round().to(torch.uint8)


def noisy(x: Tensor, sd: float) -> Tensor:
    return levels(x + sd * torch.randn(x.shape, generator=generator(6)))


def shifted(x: Tensor, most: int) -> Tensor:
    moves = torch.randint(-most, most + 1, (len(x), 2), generator=generator(5)).tolist()
    return levels(torch.stack([one.roll(move, (1, 2)) for one, move in zip(x, moves, strict=True)]))


def turned(x: Tensor, degrees: float) -> Tensor:
    angle = (2 * torch.rand(len(x), generator=generator(7)) - 1) * math.radians(degrees)
    turn = torch.zeros(len(x), 2, 3)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
    turn[:, 0, 1], turn[:, 1, 0] = -angle.sin(), angle.sin()
    grid = functional.affine_grid(turn, list(x.shape), align_corners=False)
    return levels(functional.grid_sample(x, grid, align_corners=False))


def class_means(data: Data) -> Tensor:
    assert data.train.y is not None
    means = torch.stack([data.train.x[data.train.y == c].float().mean(0) for c in range(10)])
    return means[torch.randint(10, (600,), generator=generator(8))]


def judged(data: Data, samples: Tensor) -> Estimate:
    (estimate,) = Birthday(Pixels(), len(samples)).compute(Examples(FakeSubject({"samples": samples}), data, seed=0))
    return estimate


# What samples get.


def test_different_digits_are_at_least_many(data: Data) -> None:
    fresh = shuffled(data)[:400]
    for samples in (levels(fresh), levels(fresh / 10 + 60), shifted(fresh, 2)):
        estimate = judged(data, samples)
        assert (estimate.status, estimate.relation) == (Status.OK, Relation.LOWER_BOUND)
        assert estimate.value is not None
        assert estimate.value > 4000


def copies(data: Data, how: str) -> Tensor:
    x = resampled(data, 200, 400)
    made = {
        "exact": levels(x),
        "shifted by 1": shifted(x, 1),
        "shifted by 2": shifted(x, 2),
        "noise 10": noisy(x, 10),
        "turned by 3 degrees": turned(x, 3),
        "turned by 10 degrees": turned(x, 10),
        "a third of the contrast": levels(x / 3 + 60),
    }
    return made[how]


@pytest.mark.parametrize(
    ("how", "off"),
    [
        pytest.param("exact", 1.0, marks=pytest.mark.slow),
        pytest.param("shifted by 1", 1.05, marks=pytest.mark.slow),
        ("shifted by 2", 1.2),
        ("noise 10", 1.05),
        pytest.param("turned by 3 degrees", 1.1, marks=pytest.mark.slow),
        ("turned by 10 degrees", 1.2),
        pytest.param("a third of the contrast", 1.05, marks=pytest.mark.slow),
    ],
)
def test_copies_are_found_down_to_a_stated_jitter(data: Data, how: str, off: float) -> None:
    estimate, exact = judged(data, copies(data, how)), 200
    assert (estimate.status, estimate.relation) == (Status.OK, Relation.ESTIMATE)
    assert estimate.value is not None
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    assert estimate.ci_low <= exact * off
    assert exact <= estimate.ci_high
    assert estimate.value < 1.2 * off * exact


def test_planted_copies_are_turned_as_much_as_the_samples_are(data: Data) -> None:
    which = torch.randint(40, (500,), generator=generator(11))
    samples = levels(turned_at_random(shuffled(data)[which], math.radians(4), generator(12)))
    batch = prepared(Examples(FakeSubject({"samples": samples}), data, seed=0), Pixels(), 500, 1)
    # Of 3,000 pairs of copies the closest 1,000 are turned by hardly a degree.
    assert math.degrees(module._spread(batch.calibration, batch.fake)) == pytest.approx(4, rel=0.25)
    controls = batch.controls()
    assert controls.found < controls.planted


def spoilt(data: Data, how: str) -> Tensor:
    fresh = shuffled(data)[:600]
    made = {
        "blurred by 4": lambda: levels(smoothed(fresh, 4.0)),
        "noise 60": lambda: noisy(fresh, 60),
        "copies behind noise": lambda: noisy(resampled(data, 200), 60),
        "class means with noise": lambda: noisy(class_means(data), 40),
        "plain noise": lambda: torch.randint(256, fresh.shape, generator=generator(9)).to(torch.uint8),
    }
    return made[how]()


@pytest.mark.parametrize(
    "how",
    [
        "blurred by 4",
        "copies behind noise",
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("noise 60", "class means with noise", "plain noise")),
    ],
)
def test_blur_and_noise_end_inconclusive_and_without_a_number(data: Data, how: str) -> None:
    estimate = judged(data, spoilt(data, how))
    assert estimate.status is Status.SKIPPED
    assert (estimate.value, estimate.ci_low, estimate.ci_high, estimate.relation) == (None, None, None, None)
    assert estimate.reason.startswith("inconclusive: ")
    assert "\n" not in estimate.reason


def test_a_collapse_is_told_though_its_samples_are_blurred(data: Data) -> None:
    estimate = judged(data, levels(smoothed(resampled(data, 5), 2.0)))
    assert estimate.relation is Relation.ESTIMATE
    assert estimate.value == pytest.approx(5, rel=0.1)


def test_a_total_collapse_is_a_support_of_one(data: Data) -> None:
    for one in (data.train.x[7:8], torch.full((1, 1, 28, 28), 90, dtype=torch.uint8)):
        estimate = judged(data, one.expand(200, 1, 28, 28).contiguous())
        assert (estimate.value, estimate.ci_low, estimate.ci_high) == (1, 1, 1)


@pytest.mark.parametrize("shape", [(3, 12, 20), (1, 1, 1), (3, 2, 1)])
def test_pictures_of_any_shape_are_registered_and_matched(shape: tuple[int, int, int]) -> None:
    x = torch.rand(30, *shape, generator=generator())
    assert registered(x).isfinite().all()
    made = matched(x, power(x / 2), power(x), generator())
    assert torch.allclose(made, x, atol=1e-4)


# Batches.


def test_batches_grow_beyond_the_real_examples_until_the_interval_is_narrow(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def watched(degrees: Tensor, false_pairs: int, ratio: float) -> Support:
        asked.append(len(degrees))
        return renyi2_support(degrees, false_pairs, ratio)

    monkeypatch.setattr(module, "renyi2_support", watched)
    for samples, sizes in ((shuffled(data)[:2000], [1000, 2000]), (resampled(data, 100, 2000), [1000])):
        asked.clear()
        subject = GivenSamples(levels(samples), 0, ORIGIN)
        batch = prepared(Examples(subject, data, seed=0), Pixels(), 2000, 1)
        support, s = sequential(batch.fake, batch.calibration)
        assert asked == sizes
        assert (s, batch.about["n_fake"], batch.about["n_real"]) == (sizes[-1], 2000, 1000)
        assert (support.high is None) == (len(sizes) == 2)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "s"), [(500, 1000), (500, 4000), (2000, 4000), (4000, 4000)])
def test_planted_supports_are_recovered(data: Data, n: int, s: int) -> None:
    estimate = judged(data, levels(resampled(data, n, s)))
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    assert estimate.ci_low <= n <= estimate.ci_high


def test_radius_among_the_first_is_that_of_a_smaller_batch() -> None:
    x = torch.randn(300, 3, generator=generator())
    candidates = torch.full((300,), 2.0).double()
    among = local_radius(x, 0.0, candidates, 4, 100)
    assert torch.allclose(among[:100], local_radius(x[:100], 0.0, candidates[:100], 4))
    distance = torch.cdist(x[100:].double(), x[:100].double()).sort(dim=1).values[:, 3]
    assert torch.allclose(among[100:], distance)


# The rule.


def rule(collisions: int, false: int, found: int) -> tuple[Support, str]:
    real = torch.randn(1000, 2, generator=generator())
    known = Calibration(real, torch.arange(1000), 1000, 0.1, 0.1, 1, pictures=True)
    degrees = torch.zeros(1000, dtype=torch.int64)
    degrees[: 2 * collisions] = 1
    return verdict(renyi2_support(degrees, 1), 1000, known, Controls(1000, false, 800, found))


def test_limits_allow_for_the_planted_pairs_that_were_missed() -> None:
    whole, part, more = (rule(20, 1, found)[0] for found in (800, 700, 900))
    assert whole.high is not None
    assert (part.value, part.high) == (whole.value, whole.high)
    assert part.low == pytest.approx(whole.low * 7 / 8)
    assert (more.value, more.low) == (whole.value, whole.low)
    assert more.high == pytest.approx(whole.high * 9 / 8)
    assert rule(0, 0, 700)[0].value == pytest.approx(rule(0, 0, 800)[0].value * 7 / 8)


@pytest.mark.parametrize(
    ("collisions", "false", "found", "kind"),
    [
        (0, 0, 800, "at least"), (4, 2, 800, "at least"), (20, 1, 800, "supported"), (20, 6, 641, "supported"),
        (6, 4, 800, "at least"), (20, 1, 639, "inconclusive"), (20, 1, 1001, "inconclusive"),
        (20, 9, 800, "inconclusive"), (0, 9, 800, "inconclusive"), (400, 9, 800, "supported"),
    ],
)  # fmt: skip
def test_verdict_by_what_the_controls_found(collisions: int, false: int, found: int, kind: str) -> None:
    support, reason = rule(collisions, false, found)
    if kind == "inconclusive":
        assert reason.startswith("inconclusive: ")
    else:
        assert reason == ""
        assert support.relation is (Relation.ESTIMATE if kind == "supported" else Relation.LOWER_BOUND)
        assert (support.high is None) == (kind == "at least")


def test_false_pairs_grow_with_the_pairs_of_the_batch() -> None:
    found = []
    for seed in range(60):
        x = torch.randn(300, 5, generator=generator(seed))
        known = calibrated(x[:100], torch.arange(100), 100, 2)
        assert known.ratio(200) == pytest.approx(200 * 199 / 9900)
        found.append(int(known.degrees(x[100:]).sum()) / 2 / known.ratio(200))
    assert 1.4 < sum(found) / 60 < 3.4  # 2, and a little more because pairs of one example are not independent


# What the controls are made of.


def test_registered_pictures_are_the_same_after_a_shift_and_at_any_contrast(data: Data) -> None:
    inner = functional.pad(data.train.x[:50].float()[..., 4:24, 4:24], (8, 8, 8, 8))
    expected = registered(inner)
    spread = expected.std()
    assert (registered(inner.roll((3, -2), (2, 3))) - expected).abs().max() < 0.01 * spread
    assert torch.allclose(registered(0.2 * inner + 70), 0.2 * expected + 70, atol=0.01 * spread.item())
    assert expected.shape == (50, 18 * 18)


def test_matched_pictures_are_as_noisy_and_as_blurred_as_the_samples(data: Data) -> None:
    fresh = shuffled(data)
    real, noise = power(fresh[:1000]), 30 * torch.randn(1000, 1, 28, 28, generator=generator(3))
    made = matched(fresh[2000:3000], power(fresh[1000:2000] + noise), real, generator())
    added = power(made - fresh[2000:3000])
    assert added.band[4:].mean().item() * added.lowest == pytest.approx(30**2, rel=0.15)
    blurred = power(smoothed(fresh[1000:2000], 2.0))
    made = matched(fresh[2000:3000], blurred, real, generator())
    near, far = ((one.band / blurred.band)[:3].log().abs().max() for one in (power(made), real))
    assert near < 0.5 < 1.0 < far
    same = matched(fresh[2000:3000], power(0.1 * fresh[1000:2000] + 50), real, generator())
    assert (same - fresh[2000:3000]).norm() < 0.05 * fresh[2000:3000].norm(), "contrast and offset change nothing"


def test_planted_copies_are_counted() -> None:
    x = torch.arange(80)[:, None]
    copies, pairs = planted(x, generator())
    assert copies.max() < 20
    assert pairs == int((copies == copies.T).sum() - 80) // 2 > 100
