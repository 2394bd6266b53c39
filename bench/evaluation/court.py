r"""The metric court: every metric on two sets is shown samples that are bad in one known way, and must say so.

The real examples are ten Gaussian modes in 16 dimensions. A *charge* is a series of sets of samples that get worse in
one respect: shifted, noisy, with modes missing, and so on. A metric is named by what it claims to see: fidelity (are
samples good?), diversity (are they all there?), both, or copying. What it claims to see it must notice, and what is
none of its business it must not be fooled by:

* *noticed*: its mean over the repetitions gets worse from step to step, and at the last step every repetition is worse
  than every repetition of ideal samples;
* *fooled*: at some step every repetition is at least as good as every one of ideal samples, and the mean is better.

(The checks are those of Raisa, van Breugel, van der Schaar 2025, "Position: All current generative fidelity and
diversity metrics are flawed", and of Salvy et al. 2025, arXiv 2507.01761, on other distributions and at our sizes.)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Generator, Tensor

from bench.data.base import Data, Split
from bench.evaluation.evaluate import evaluate
from bench.features.pixels import Pixels
from bench.metrics.base import Metric
from bench.metrics.bins import NDB
from bench.metrics.copying import Copying
from bench.metrics.critic_distance import NeuralNetDistance
from bench.metrics.frechet import FID
from bench.metrics.kernel_distance import KID, MMD
from bench.metrics.kernel_entropy import KernelEntropy
from bench.metrics.manifold import Manifold
from bench.metrics.sliced import MIND
from bench.metrics.two_sample_test import C2ST
from bench.schema import DataSpec
from bench.seeds import derive_seed
from bench.subjects.base import Origin
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples

__all__ = ["CHARGES", "CLAIMS", "Charge", "Finding", "Sees", "hold_court"]

DIM, MODES, N, N_TRAIN = 16, 10, 600, 1200
REPETITIONS = 5


class Sees(StrEnum):
    """What a metric claims to see."""

    FIDELITY = "fidelity"
    DIVERSITY = "diversity"
    BOTH = "both"
    COPYING = "copying"


CLAIMS: dict[str, tuple[Sees, int]] = {
    "fid": (Sees.BOTH, -1),
    "kid": (Sees.BOTH, -1),
    "mind": (Sees.BOTH, -1),
    "c2st": (Sees.BOTH, -1),
    "mmd": (Sees.BOTH, -1),
    "nn_wasserstein": (Sees.BOTH, -1),
    "nn_tv": (Sees.BOTH, -1),
    "precision": (Sees.FIDELITY, 1),
    "density": (Sees.FIDELITY, 1),
    "clipped_density": (Sees.FIDELITY, 1),
    "recall": (Sees.DIVERSITY, 1),
    "coverage": (Sees.DIVERSITY, 1),
    "clipped_coverage": (Sees.DIVERSITY, 1),
    "ndb": (Sees.DIVERSITY, -1),
    "rke": (Sees.DIVERSITY, 1),
    "vendi": (Sees.DIVERSITY, 1),
    "authenticity": (Sees.COPYING, 1),
    "copying_statistic": (Sees.COPYING, 1),
    "copies": (Sees.COPYING, -1),
}
"""By metric: what it claims to see, and the sign of better."""

Sets = tuple[Tensor, Tensor]
"""Real examples and samples."""


@dataclass(frozen=True)
class Charge:
    """One way to be bad.

    Attributes:
        title: For the table.
        steps: From mild to severe: what is done to independent draws (train, real, samples).
        noticed_by: Who must notice it.
        fools: Who must not be fooled by it. Others may say what they like.
    """

    title: str
    steps: tuple[Callable[["Draws"], Sets], ...]
    noticed_by: frozenset[Sees] = frozenset()
    fools: frozenset[Sees] = frozenset()


@dataclass(frozen=True)
class Draws:
    """Independent draws of one distribution, and of normal noise."""

    means: Tensor
    train: Tensor
    real: Tensor
    fake: Tensor
    mode: Tensor
    noise: Tensor

    @classmethod
    def of(cls, seed: int) -> "Draws":
        generator = Generator().manual_seed(derive_seed(seed, "court"))

        def normal(n: int) -> Tensor:
            return torch.randn(n, DIM, generator=generator)

        means = 6 * torch.nn.functional.normalize(normal(MODES), dim=1)
        modes = [torch.randint(MODES, (n,), generator=generator) for n in (N_TRAIN, N, N)]
        train, real, fake = (means[mode] + normal(len(mode)) for mode in modes)
        return cls(means, train, real, fake, modes[2], normal(N))


def _shifted(by: float) -> Callable[[Draws], Sets]:
    return lambda d: (d.real, d.fake + by / DIM**0.5)


def _scaled(by: float) -> Callable[[Draws], Sets]:
    def bad(d: Draws) -> Sets:
        fake = d.fake.clone()
        fake[:, 0] *= by
        return d.real, fake

    return bad


def _noisy(sigma: float) -> Callable[[Draws], Sets]:
    return lambda d: (d.real, d.fake + sigma * d.noise)


def _shrunk(by: float) -> Callable[[Draws], Sets]:
    return lambda d: (d.real, d.means[d.mode] + by * (d.fake - d.means[d.mode]))


def _centred(by: float) -> Callable[[Draws], Sets]:
    return lambda d: (d.real, d.fake.mean(0) + by * (d.fake - d.fake.mean(0)))


def _dropped(kept: int) -> Callable[[Draws], Sets]:
    """Samples of the missing modes become samples of those that are kept."""
    return lambda d: (d.real, d.fake - d.means[d.mode] + d.means[d.mode % kept])


def _added(share: float) -> Callable[[Draws], Sets]:
    def bad(d: Draws) -> Sets:
        n = int(share * N)
        return d.real, torch.cat([-2 * d.means[d.mode[:n]] + d.noise[:n], d.fake[n:]])

    return bad


def _outliers_among_samples(share: float) -> Callable[[Draws], Sets]:
    """Half of the modes are missing; some samples lie far away in all directions."""

    def bad(d: Draws) -> Sets:
        fake = _dropped(MODES // 2)(d)[1].clone()
        fake[: int(share * N)] = 100 * d.noise[: int(share * N)]
        return d.real, fake

    return bad


def _outliers_among_real(share: float) -> Callable[[Draws], Sets]:
    """Samples are noise of the outliers' width; some real examples are outliers."""

    def bad(d: Draws) -> Sets:
        real = d.real.clone()
        real[: int(share * N)] = 20 * d.noise[: int(share * N)]
        return real, 20 * d.noise.flip(0)

    return bad


def _few(different: int) -> Callable[[Draws], Sets]:
    return lambda d: (d.real, d.fake[torch.arange(N) % different])


def _copied(share: float) -> Callable[[Draws], Sets]:
    return lambda d: (d.real, torch.cat([d.train[: int(share * N)], d.fake[int(share * N) :]]))


def _copied_behind_noise(share: float) -> Callable[[Draws], Sets]:
    def bad(d: Draws) -> Sets:
        n = int(share * N)
        return d.real, torch.cat([d.train[:n], d.fake[n:] + 2 * d.noise[n:]])

    return bad


F, D, B, C = Sees.FIDELITY, Sees.DIVERSITY, Sees.BOTH, Sees.COPYING
CHARGES = (
    Charge("all shifted", (_shifted(2), _shifted(4), _shifted(8)), frozenset({F, B})),
    Charge("one dimension scaled", (_scaled(2), _scaled(4), _scaled(8)), frozenset({F, B})),
    Charge("noise added", (_noisy(0.5), _noisy(1), _noisy(2)), frozenset({F, B}), frozenset({D})),
    Charge("shrunk to the modes", (_shrunk(0.8), _shrunk(0.5), _shrunk(0.2)), frozenset({D, B}), frozenset({F})),
    Charge("shrunk to the centre", (_centred(0.7), _centred(0.3), _centred(0.05)), frozenset({D, B}), frozenset({F})),
    Charge("modes missing", (_dropped(8), _dropped(5), _dropped(2)), frozenset({D, B})),
    Charge("false modes", (_added(0.1), _added(0.3), _added(0.5)), frozenset({F, B}), frozenset({D})),
    Charge(
        "modes missing, with far outliers", (_outliers_among_samples(0.01), _outliers_among_samples(0.05)),
        fools=frozenset({D, F, B}),
    ),
    Charge(
        "noise, with outliers among the real", (_outliers_among_real(0.01), _outliers_among_real(0.05)),
        fools=frozenset({F, B}),
    ),
    Charge("few different samples", (_few(100), _few(30), _few(10)), frozenset({D, B})),
    Charge("training copies", (_copied(0.1), _copied(0.3), _copied(1.0)), frozenset({C})),
    Charge("training copies behind noise", (_copied_behind_noise(0.1), _copied_behind_noise(0.3)), frozenset({C})),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """How one metric did on one charge.

    Attributes:
        values: Mean value for the ideal samples and for each step.
        spread: Standard deviation of the repetitions of ideal samples.
        must: ``notice`` or ``not be fooled``.
        passed: Whether it did.
    """

    metric: str
    sees: Sees
    charge: str
    values: tuple[float, ...]
    spread: float
    must: str
    passed: bool


def hold_court(repetitions: int = REPETITIONS, charges: Sequence[Charge] = CHARGES) -> Iterator[Finding]:
    """Yield a finding for every metric and charge that concerns it."""
    draws = [Draws.of(seed) for seed in range(repetitions)]
    ideal = [_values(d, (d.real, d.fake)) for d in draws]
    for charge in charges:
        steps = [[_values(d, step(d)) for d in draws] for step in charge.steps]
        for metric, (sees, sign) in CLAIMS.items():
            must = "notice" if sees in charge.noticed_by else "not be fooled" if sees in charge.fools else ""
            if must:
                series = torch.tensor([[values[metric] for values in step] for step in (ideal, *steps)])
                yield _finding(metric, sees, sign, charge.title, must, series.double())


def _finding(metric: str, sees: Sees, sign: int, charge: str, must: str, series: Tensor) -> Finding:
    means, better = series.mean(1), sign * series  # larger is better
    ideal, steps = better[0], better[1:]
    if must == "notice":
        worse_and_worse = bool((better.mean(1).diff() < 0).all())
        passed = worse_and_worse and bool(steps[-1].max() < ideal.min())
    else:
        # As good as the best ideal one is better, where a metric has an end that ideal samples nearly reach.
        fooled = (steps.min(1).values >= ideal.max()) & (steps.mean(1) > ideal.mean())
        passed = not bool(fooled.any())
    return Finding(metric, sees, charge, tuple(means.tolist()), float(series[0].std()), must, passed)


def _values(draws: Draws, sets: Sets) -> dict[str, float]:
    real, fake = sets
    spec = DataSpec("court", "1", (DIM,), None, N_TRAIN, 0, len(real))
    data = Data(spec, Split(draws.train), Split(real[:0]), Split(real))
    origin = Origin("court", "", "", "samples", "", "")
    examples = Examples(GivenSamples(fake, 0, origin), data, seed=0)
    found = evaluate(examples, _metrics())
    values = {}
    for estimates in found.values():
        for estimate in estimates:
            name = estimate.info.name.partition("[")[0]
            if name in CLAIMS:
                assert estimate.value is not None, estimate.reason
                values[name] = estimate.value
    return values


def _metrics() -> dict[str, Metric]:
    features = Pixels()  # the entries themselves
    return {
        "fid": FID(features, N),
        "kid": KID(features, N),
        "mind": MIND(features, N, n_directions=200),
        "c2st": C2ST(features, N),
        "mmd": MMD(features, N),
        "ndb": NDB(features, N),
        "nn_distance": NeuralNetDistance(features, N),
        "manifold": Manifold(features, N),
        "kernel_entropy": KernelEntropy(features, N),
        "copying": Copying(features, N),
    }
