"""How often the 95 % intervals of metrics cover what they estimate, over fresh real examples and fresh samples.

A metric of N examples estimates its own expectation at N: FID of 500 samples is biased upwards, and its interval is
about FID of 500 samples. That expectation is known for proportions and exact likelihoods, and is otherwise the mean of
all repetitions, whose own error (1/sqrt(R) of a standard deviation) moves the coverage by less than 0.1 %.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from helpers_metrics import ALL, FakeRecipe, examples, spec
from torch import Generator, Tensor

from bench.data.base import Data, Modes, Split
from bench.evaluation.evaluate import evaluate
from bench.metrics.base import Metric
from bench.metrics.bins import NDB
from bench.metrics.copying import Copying
from bench.metrics.critic_distance import trained_critic
from bench.metrics.frechet import FID
from bench.metrics.inception_score import InceptionScore
from bench.metrics.intervals import Z975, combined_interval, proportion_error, wilson_interval
from bench.metrics.kernel_distance import KID, MMD
from bench.metrics.kernel_entropy import KernelEntropy
from bench.metrics.latent import active_units
from bench.metrics.likelihood import LogLikelihood
from bench.metrics.low_level import standardized_difference
from bench.metrics.manifold import Manifold
from bench.metrics.modes import ModeCounts
from bench.metrics.parzen import Parzen
from bench.metrics.sliced import MIND
from bench.metrics.support_size import renyi2_support
from bench.metrics.two_sample_test import _chosen, _parts
from bench.schema import Estimate, MetricInfo

__all__ = ["CASES", "DEAR", "Coverage", "coverage_of"]

DIM = 8
N_REAL, N_FAKE = 400, 500
INFO = MetricInfo("it", "", None)


@dataclass(frozen=True)
class Drawn:
    """One repetition: a number with its errors and interval, and the truth where that is known."""

    name: str
    value: float
    whole: float
    test: float | None
    draws: float | None
    low: float
    high: float
    truth: float | None = None

    @classmethod
    def of(cls, one: Estimate, truth: float | None = None) -> "Drawn":
        assert one.value is not None, one.reason
        assert one.ci_low is not None, one.info.name
        assert one.ci_high is not None, one.info.name
        assert one.stderr is not None, one.info.name
        name = one.info.name.partition("[")[0]
        return cls(name, one.value, one.stderr, one.stderr_test, one.stderr_draws, one.ci_low, one.ci_high, truth)


Simulate = Callable[[Generator, Generator], list[Drawn]]
"""From a generator of the real side and one of the samples to the numbers of one repetition."""


@dataclass(frozen=True)
class Coverage:
    """Of one interval.

    Attributes:
        case: What was simulated.
        redrawn: ``both`` sides anew in each repetition, against the stated interval; ``real`` or ``samples``: that
            side alone, against the value and 1.96 times that side's part of the error.
        covered: Share of the repetitions whose interval covers.
        error_ratio: Mean stated error over the standard deviation of the values; NaN where values do not vary.
    """

    interval: str
    case: str
    redrawn: str
    repetitions: int
    covered: float
    error_ratio: float


def coverage_of(case: str, repetitions: int) -> Iterator[Coverage]:
    """The coverage of all numbers of one of ``CASES``."""
    simulate, sides = CASES[case]
    for side in sides:
        drawn: dict[str, list[Drawn]] = {}
        for r in range(repetitions):
            real = Generator().manual_seed(1 + (0 if side == "samples" else r))
            fake = Generator().manual_seed(10**6 + (0 if side == "real" else r))
            for one in simulate(real, fake):
                drawn.setdefault(one.name, []).append(one)
        for name, found in drawn.items():
            if side == "both" or getattr(found[0], "test" if side == "real" else "draws") is not None:
                yield _coverage(name, case, side, found)


def _coverage(name: str, case: str, side: str, found: list[Drawn]) -> Coverage:
    values = np.array([one.value for one in found])
    part = {"both": "whole", "real": "test", "samples": "draws"}[side]
    errors = np.array([getattr(one, part) for one in found])
    truths = np.array([values.mean() if one.truth is None or side != "both" else one.truth for one in found])
    if side == "both":
        low, high = (np.array([getattr(one, end) for one in found]) for end in ("low", "high"))
    else:
        low, high = values - Z975 * errors, values + Z975 * errors
    rounding = 1e-9 * (1 + np.abs(truths))
    covered = ((low - rounding <= truths) & (truths <= high + rounding)).mean()
    spread = (values - truths).std()
    return Coverage(
        name, case, side, len(found), float(covered), float(errors.mean() / spread) if spread > 0 else math.nan
    )


def normal(n: int, generator: Generator, dim: int = DIM) -> Tensor:
    return torch.randn(n, dim, generator=generator)


def worse(n: int, generator: Generator) -> Tensor:
    """Samples of a model that is off by a little in every way: shifted, too wide, and without some of the tails."""
    x = normal(n, generator)
    return 0.3 + 1.2 * x.clamp(-2, 2)


def _two_sets(
    metric: Metric, real: Generator, fake: Generator, *, of_fake: Callable[[int, Generator], Tensor] = worse
) -> list[Drawn]:
    context = examples(spec(DIM), real=normal(N_REAL, real), samples=of_fake(N_FAKE, fake))
    return [Drawn.of(one) for one in evaluate(context, {"it": metric})["it"] if one.stderr is not None]


def _inception(real: Generator, fake: Generator) -> list[Drawn]:
    logits = 2 * normal(N_FAKE, fake, 10)
    context = examples(spec(10), samples=logits)
    return [Drawn.of(one) for one in evaluate(context, {"it": InceptionScore(FakeRecipe(), ALL)})["it"]]


def _copying(copies: int, real: Generator, fake: Generator) -> list[Drawn]:
    train = normal(800, Generator().manual_seed(0))
    # Copies are a random share of the samples, as a model makes them.
    chosen = torch.rand(N_FAKE, generator=fake) < copies / N_FAKE
    index = torch.randint(len(train), (N_FAKE,), generator=fake)
    samples = torch.where(chosen[:, None], train[index], normal(N_FAKE, fake))
    x = normal(N_REAL, real)
    context = examples(spec(DIM), real=x, samples=samples)
    context.data = Data(spec(DIM), Split(train), Split(x[:0]), Split(x))
    return [Drawn.of(one) for one in evaluate(context, {"it": Copying(FakeRecipe(), ALL)})["it"]]


def _likelihood(relation: str, draws: int, real: Generator, fake: Generator) -> list[Drawn]:
    """x = z + noise, both standard normal. Draws of z from a proposal that is a little too wide; or noise instead."""
    x = math.sqrt(2) * torch.randn(N_REAL, generator=real, dtype=torch.float64)
    exact = -0.25 * x**2 - 0.5 * math.log(4 * math.pi)
    truth = None
    if relation == "exact":
        log_w, truth = exact[None], -0.5 - 0.5 * math.log(4 * math.pi)
    elif relation == "estimate":
        truth = -0.5 - 0.5 * math.log(4 * math.pi)
        noise = torch.randn(draws, N_REAL, generator=fake) + 0.2 * torch.randn(draws, 1, generator=fake)
        log_w = exact + noise
    else:
        z = x / 2 + torch.randn(draws, N_REAL, generator=fake, dtype=torch.float64)
        proposal = -0.5 * (z - x / 2) ** 2
        log_w = -0.5 * (x - z) ** 2 - 0.5 * z**2 - proposal - 0.5 * math.log(2 * math.pi)
    context = examples(spec(1), log_weights=log_w.double(), relation=relation)
    first = evaluate(context, {"it": LogLikelihood(draws)})["it"][0]
    return [Drawn.of(first, truth)]


def _parzen(real: Generator, fake: Generator) -> list[Drawn]:
    context = examples(spec(2), real=normal(N_REAL, real, 2), samples=normal(200, Generator().manual_seed(5), 2))
    return [Drawn.of(one) for one in evaluate(context, {"it": Parzen(0.3, ALL)})["it"]]


def _modes(missing: int, real: Generator, fake: Generator) -> list[Drawn]:
    """25 modes of unequal weight of which a model misses some; a tenth of its samples lie in none."""
    weights = torch.linspace(1, 3, 25)
    weights[:missing] = 0
    mode = torch.multinomial(weights, N_FAKE, replacement=True, generator=fake)
    mode[torch.rand(N_FAKE, generator=fake) < 0.1] = -1
    modes = Modes(25, lambda x: x[:, 0].long())
    context = examples(spec(1), samples=mode[:, None].float(), modes=modes)
    return [Drawn.of(one) for one in evaluate(context, {"it": ModeCounts(FakeRecipe(), ALL)})["it"]]


def _rare_modes(real: Generator, fake: Generator) -> list[Drawn]:
    """1000 modes and 1000 samples of a model that favours some."""
    weights = torch.linspace(0.2, 3, 1000)
    mode = torch.multinomial(weights, 1000, replacement=True, generator=fake)
    context = examples(spec(1), samples=mode[:, None].float(), modes=Modes(1000, lambda x: x[:, 0].long()))
    made = evaluate(context, {"it": ModeCounts(FakeRecipe(), ALL)})["it"]
    return [Drawn.of(one) for one in made if one.info.name != "high_quality"]


def _proportion(p: float, n: int, real: Generator, fake: Generator) -> list[Drawn]:
    share = float((torch.rand(n, generator=fake) < p).double().mean())
    return [Drawn("proportion", share, proportion_error(share, n), None, None, *wilson_interval(share, n), p)]


def _two_proportions(p: float, q: float, real: Generator, fake: Generator) -> list[Drawn]:
    """The mean of two proportions, as of C2ST's answers."""
    a, b = (float((torch.rand(n, generator=g) < s).double().mean()) for n, s, g in ((200, p, real), (250, q, fake)))
    low, high = combined_interval((0.5, 0.5), (a, b), (wilson_interval(a, 200), wilson_interval(b, 250)))
    error = math.hypot(proportion_error(a, 200), proportion_error(b, 250)) / 2
    return [Drawn("mean of two", (a + b) / 2, error, None, None, low, high, (p + q) / 2)]


def _c2st(real: Generator, fake: Generator) -> list[Drawn]:
    """The held-out accuracy of the classifier that was trained, whose truth is its accuracy on many more examples."""
    parts = [_parts(normal(N_REAL, real), real), _parts(worse(N_FAKE, fake), fake)]
    logit = _chosen(parts[0], parts[1], Generator().manual_seed(int(fake.initial_seed())))
    p, q = (float(right.double().mean()) for right in (logit(parts[0][2]) <= 0, logit(parts[1][2]) > 0))
    many = 20_000
    truth = float((logit(normal(many, real).double()) <= 0).double().mean()) / 2
    truth += float((logit(worse(many, fake).double()) > 0).double().mean()) / 2
    n, m = len(parts[0][2]), len(parts[1][2])
    low, high = combined_interval((0.5, 0.5), (p, q), (wilson_interval(p, n), wilson_interval(q, m)))
    error = math.hypot(proportion_error(p, n), proportion_error(q, m)) / 2
    return [Drawn("c2st", (p + q) / 2, error, None, None, low, high, truth)]


@functools.cache
def _one_critic(bounded: bool) -> Callable[[Tensor], Tensor]:
    seed = Generator().manual_seed(7)
    return trained_critic(normal(N_REAL, seed), worse(N_FAKE, seed), seed, bounded=bounded)


def _critic(bounded: bool, real: Generator, fake: Generator) -> list[Drawn]:
    """The held-out difference of one critic's means, whose truth is that of many more examples."""
    critic = _one_critic(bounded)
    of_real, of_fake = critic(normal(N_REAL // 2, real)), critic(worse(N_FAKE // 2, fake))
    test, draws = (float(side.std()) / math.sqrt(len(side)) for side in (of_real, of_fake))
    value, error = float(of_real.mean() - of_fake.mean()), math.hypot(test, draws)
    name = "nn_tv" if bounded else "nn_wasserstein"
    return [Drawn(name, value, error, test, draws, value - Z975 * error, value + Z975 * error)]


def _difference(real: Generator, fake: Generator) -> list[Drawn]:
    """A statistic of pictures whose distributions are skewed and differ."""
    value, test, draws = standardized_difference(
        (0.6 * torch.randn(N_FAKE, generator=fake)).exp().double(), torch.randn(N_REAL, generator=real).exp().double()
    )
    error = math.hypot(test, draws)
    return [Drawn("low_level", value, error, test, draws, value - Z975 * error, value + Z975 * error)]


def _support(exponent: float, real: Generator, fake: Generator) -> list[Drawn]:
    """N_eff of Zipf's distribution over 1000 different samples, duplicates being known."""
    p = torch.arange(1, 1001, dtype=torch.float64) ** -exponent
    p = p / p.sum()
    kind = torch.multinomial(p, N_FAKE, replacement=True, generator=fake)
    degrees = torch.bincount(kind, minlength=1000)[kind] - 1
    found = renyi2_support(degrees, 1)
    assert found.high is not None
    assert found.stderr is not None
    return [Drawn("support", found.value, found.stderr, None, None, found.low, found.high, float(1 / p.square().sum()))]


def _active(real: Generator, fake: Generator) -> list[Drawn]:
    """Twenty units whose activities lie on both sides of the threshold."""
    scale = torch.linspace(0.05, 0.2, 20)
    codes = scale * normal(N_REAL, real, 20) + 0.05 * torch.randn(4, N_REAL, 20, generator=fake)
    number, error = active_units(codes, 0.01, Generator().manual_seed(3))
    return [Drawn("active_units", number, error, None, None, number - Z975 * error, number + Z975 * error)]


SIDES = ("both", "real", "samples")
PIXELS = FakeRecipe()
CASES: dict[str, tuple[Simulate, tuple[str, ...]]] = {
    "exact likelihood of a normal": (partial(_likelihood, "exact", 1), ("both",)),
    "bound of 16 draws": (partial(_likelihood, "lower_bound", 16), ("both", "samples")),
    "estimate of 8 draws, a part of whose noise all examples share": (
        partial(_likelihood, "estimate", 8), ("both", "samples")
    ),
    "fid: normal against shifted, wide and cut off": (partial(_two_sets, FID(PIXELS, ALL)), SIDES),
    "kid: the same": (partial(_two_sets, KID(PIXELS, ALL)), SIDES),
    "kid: equal distributions": (partial(_two_sets, KID(PIXELS, ALL), of_fake=normal), SIDES),
    "mmd: the same": (partial(_two_sets, MMD(PIXELS, ALL)), SIDES),
    "ndb: the same": (partial(_two_sets, NDB(PIXELS, ALL)), ("both",)),
    "statistics that are log-normal": (_difference, SIDES),
    "a 1-Lipschitz critic": (partial(_critic, False), SIDES),
    "a bounded critic": (partial(_critic, True), SIDES),
    "mind: the same": (partial(_two_sets, MIND(PIXELS, ALL, n_directions=100)), SIDES),
    "manifold: the same": (partial(_two_sets, Manifold(PIXELS, ALL)), SIDES),
    "manifold: equal distributions": (partial(_two_sets, Manifold(PIXELS, ALL), of_fake=normal), SIDES),
    "kernel entropy: the same": (partial(_two_sets, KernelEntropy(PIXELS, ALL)), ("both",)),
    "softmax of normal logits": (_inception, ("both",)),
    "a classifier against many more examples": (_c2st, ("both",)),
    "no copies": (partial(_copying, 0), ("both",)),
    "a tenth are copies": (partial(_copying, 50), ("both",)),
    "25 modes, none missing": (partial(_modes, 0), ("both",)),
    "25 modes, 5 missing": (partial(_modes, 5), ("both",)),
    "1000 modes, 1000 samples": (_rare_modes, ("both",)),
    "a share of 0.01 in 1000": (partial(_proportion, 0.01, 1000), ("both",)),
    "a share of 0.98 in 500": (partial(_proportion, 0.98, 500), ("both",)),
    "shares of 0.99 and 1": (partial(_two_proportions, 0.99, 1.0), ("both",)),
    "shares of 0.6 and 0.7": (partial(_two_proportions, 0.6, 0.7), ("both",)),
    "Zipf of exponent 0.5": (partial(_support, 0.5), ("both",)),
    "Zipf of exponent 1": (partial(_support, 1.0), ("both",)),
    "windows around fixed samples": (_parzen, ("both",)),
    "units about the threshold": (_active, ("both",)),
}  # fmt: skip
DEAR = ("manifold: the same", "manifold: equal distributions", "a classifier against many more examples")
"""Cases that take minutes."""
