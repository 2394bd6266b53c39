"""Mode counting: known values, the published toy protocol on the data's own samples, errors against simulation."""

import math

import numpy as np
import pytest
import torch
from helpers_metrics import ALL, ORIGIN, FakeClassifier, FakeRecipe, examples, spec
from helpers_models import new_model
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from bench.checkpoint import Progress
from bench.data import toy
from bench.data.base import ClassifiedModes, Data, Modes, Split
from bench.evaluation.evaluate import evaluate
from bench.features.base import Classifier, Note
from bench.metrics.modes import ModeCounts, mode_divergence, modes_hit
from bench.schema import Estimate, Status
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel

UNIFORM25 = np.full(25, 1 / 25)
UNIFORM1000 = np.full(1000, 1 / 1000)
ZIPF = 1 / np.arange(1, 1001) / (1 / np.arange(1, 1001)).sum()
HALF = np.append(np.full(500, 1 / 500), np.zeros(500))
RARE = np.append(np.full(20, 0.049), np.full(5, 0.004))


def counted(counts: list[int], rejected: int = 0, probabilities: Tensor | None = None) -> dict[str, Estimate]:
    """The metric on samples of which ``counts`` fell into each mode and ``rejected`` into none."""
    modes = [mode for mode, count in enumerate(counts) for _ in range(count)] + [-1] * rejected
    samples = torch.tensor(modes, dtype=torch.float32).unsqueeze(1)
    known = Modes(len(counts), lambda x: x[:, 0].long(), probabilities)
    estimates = ModeCounts(FakeRecipe(), ALL).compute(examples(spec(1), samples=samples, modes=known))
    return {estimate.info.name: estimate for estimate in estimates}


# Known values


def test_perfect_proportions_have_no_divergence() -> None:
    found = counted([100, 100, 100, 100])
    assert found["modes"].value == 4
    assert found["high_quality"].value == 1
    assert found["mode_kl"].value == pytest.approx(0, abs=1e-12)
    found = counted([300, 100], probabilities=torch.tensor([0.75, 0.25]))
    assert found["mode_kl"].value == pytest.approx(0, abs=1e-7)


def test_collapse_to_one_of_k_modes_diverges_by_log_k() -> None:
    found = counted([0, 50, 0, 0, 0], rejected=150)
    assert (found["modes"].value, found["modes"].stderr) == (1, 0)
    assert found["high_quality"].value == 0.25
    assert found["high_quality"].stderr == pytest.approx(math.sqrt(0.25 * 0.75 / 200))
    assert found["mode_kl"].value == pytest.approx(math.log(5), abs=1e-12)
    assert {estimate.n_fake for estimate in found.values()} == {200}


def test_divergence_is_the_reverse_one() -> None:
    q, p = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.4, 0.1, 0.1, 0.4])
    found = counted([50, 30, 20, 0], probabilities=torch.from_numpy(p))
    assert found["mode_kl"].value == pytest.approx(stats.entropy(q[:3], p[:3] / p[:3].sum()) - math.log(p[:3].sum()))
    assert found["mode_kl"].info.unit == "nats"


def test_without_a_sample_in_a_mode_there_is_no_distribution_over_modes() -> None:
    found = counted([0, 0], rejected=30)
    assert (found["modes"].value, found["high_quality"].value) == (0, 0)
    assert found["mode_kl"].status is Status.SKIPPED  # a bad model is no failure of the run
    assert found["mode_kl"].reason == "no sample belongs to a mode"


@pytest.mark.parametrize("counts", [[1], [1, 0, 0], [1, 1], [7], [3, 0, 1]])
def test_few_samples_give_finite_numbers(counts: list[int]) -> None:
    for estimate in counted(counts).values():
        assert estimate.status is Status.OK
        assert estimate.value is not None
        assert estimate.ci_low is not None
        assert estimate.ci_high is not None
        assert estimate.ci_low <= estimate.value <= estimate.ci_high


# The toys' own samples


@pytest.mark.parametrize(("name", "modes"), [("ring8", 8), ("grid25", 25), ("gaussian_mixture", 8)])
def test_fresh_samples_of_the_data_hit_every_mode(name: str, modes: int) -> None:
    data = getattr(toy, name)()
    assert isinstance(data.modes, Modes)
    context = examples(data.spec, samples=data.test.x[:2500], modes=data.modes)  # 2,500 as published
    found = {estimate.info.name: estimate for estimate in ModeCounts(FakeRecipe(), ALL).compute(context)}
    assert found["modes"].value == modes
    share = -math.expm1(-4.5)
    assert found["high_quality"].value == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 2500))
    # 2 n KL of the true proportions is a chi-square with modes - 1 degrees of freedom.
    assert found["mode_kl"].value is not None
    assert 1e-4 < stats.chi2.sf(2 * 2500 * found["mode_kl"].value, modes - 1) < 1 - 1e-4


def test_three_of_eight_modes_and_outliers_are_seen_as_such() -> None:
    data = toy.ring8()
    assert isinstance(data.modes, Modes)
    few = data.test.x[data.modes.assign(data.test.x) < 3][:800]  # modes 0, 1, 2 and the far ones
    samples = torch.cat([few, torch.zeros(200, 2)])
    asked = examples(data.spec, samples=samples, modes=data.modes)
    found = {e.info.name: e for e in ModeCounts(FakeRecipe(), ALL).compute(asked)}
    kept = int((data.modes.assign(few) >= 0).sum())
    assert found["modes"].value == 3
    assert found["high_quality"].value == kept / 1000
    assert found["mode_kl"].value == pytest.approx(math.log(8 / 3), abs=0.01)


# Standard errors


def simulate(q: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and standard errors of (modes hit, divergence from uniform) over 400 samples of size n: ``(400, 2)``."""
    draws = torch.from_numpy(RandomState(n).multinomial(n, q, size=400))
    pairs = [(modes_hit(counts, n), mode_divergence(counts)) for counts in draws]
    array = np.array(pairs)  # (400, 2, 2)
    return array[:, :, 0], array[:, :, 1]


@pytest.mark.parametrize(
    ("q", "n"),
    [
        (UNIFORM25, 50),
        (UNIFORM1000, 100),
        (UNIFORM1000, 1000),
        (UNIFORM1000, 3000),
        (ZIPF, 300),
        (ZIPF, 26_000),
        (HALF, 1000),
        (RARE, 500),
    ],
)
def test_standard_errors_against_simulation(q: NDArray[np.float64], n: int) -> None:
    values, errors = simulate(q, n)
    spread = values.std(axis=0)
    assert 0.8 < errors[:, 0].mean() / spread[0] < 1.25
    assert 0.8 < errors[:, 1].mean() / spread[1] < 1.25


@pytest.mark.parametrize(("q", "n"), [(UNIFORM25, 2500), (UNIFORM1000, 26_000)])
def test_errors_of_the_published_protocols_where_the_model_is_perfect(q: NDArray[np.float64], n: int) -> None:
    values, errors = simulate(q, n)
    assert values[:, 0].min() == len(q)
    assert errors[:, 0].mean() < 0.02
    assert errors[:, 1].mean() == pytest.approx(values[:, 1].std(), rel=0.15)
    assert values[:, 1].mean() == pytest.approx((len(q) - 1) / (2 * n), rel=0.1), "the bias that the docstring names"


@pytest.mark.parametrize(("q", "n"), [(UNIFORM25, 150), (UNIFORM1000, 8000)])
def test_modes_that_are_nearly_certain_to_be_hit_have_nearly_no_error(q: NDArray[np.float64], n: int) -> None:
    values, errors = simulate(q, n)
    assert values[:, 0].std() < 0.7
    assert np.sqrt((errors[:, 0] ** 2).mean()) < 2.5 * values[:, 0].std()


def test_no_simpler_error_would_do() -> None:
    """The multinomial bootstrap of the number of modes hit, which the docstring warns of."""
    values, errors = simulate(UNIFORM1000, 100)
    rng = RandomState(0)
    resampled = rng.multinomial(100, rng.multinomial(100, UNIFORM1000) / 100, size=400)
    bootstrap = (resampled > 0).sum(axis=1).std()
    truth = values[:, 0].std()
    assert abs(errors[:, 0].mean() / truth - 1) < 0.2 < 0.3 < bootstrap / truth - 1


# In the harness


def test_a_classifier_lends_its_name_and_leaves_no_sample_out() -> None:
    metric = ModeCounts(FakeRecipe(FakeClassifier(name="mnist-cnn", hash="f00")), ALL)
    x = torch.tensor([[0.0], [2.0], [2.0]])
    labelled = Data(spec(1), Split(x), Split(x), Split(x))
    known = ClassifiedModes(labelled, lambda classify: Modes(3, lambda x: x[:, 0].long()))
    context = examples(spec(1), samples=x, modes=known)
    estimates = metric.compute(context)
    assert [estimate.info for estimate in estimates] == list(metric.infos(context))
    assert [estimate.info.name for estimate in estimates] == ["modes[mnist-cnn]", "mode_kl[mnist-cnn]"]
    assert {(estimate.extractor, estimate.extractor_hash) for estimate in estimates} == {("mnist-cnn", "f00")}


@pytest.mark.parametrize("known", [True, False])
def test_data_without_known_modes_are_skipped(known: bool) -> None:
    data = (toy.grid25 if known else toy.two_moons)(200, 20, 20)
    model = new_model("gaussian", data.spec)

    class Unasked(FakeRecipe):
        def extractor(self, data: Data, note: Note | None = None) -> Classifier:
            raise AssertionError("not asked for")

    subject = TrainedModel(model, Progress(), 0, ORIGIN)
    estimates = evaluate(Examples(subject, data, seed=0), {"modes": ModeCounts(Unasked(), 300)})["modes"]
    assert [estimate.info.name for estimate in estimates] == ["modes", "mode_kl", "high_quality"]
    if known:
        assert all(estimate.status is Status.OK for estimate in estimates)
    else:
        assert {estimate.status for estimate in estimates} == {Status.SKIPPED}
        assert {estimate.reason for estimate in estimates} == {"the modes of two_moons are not known"}
