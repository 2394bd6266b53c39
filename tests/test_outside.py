"""The share of a model's samples outside the data's range, against normal distributions whose mass there is known."""

import math

import numpy as np
import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data
from scipy.stats import multivariate_normal
from torch import Generator, Tensor

from bench.data.base import Data
from bench.errors import UnavailableError
from bench.evaluation.evaluate import evaluate
from bench.metrics.intervals import wilson_interval
from bench.metrics.outside import MassOutside
from bench.schema import Estimate, Status
from bench.subjects.base import Report, Subject, silent
from bench.subjects.density import KnownDensity
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples
from bench.subjects.trained import FailedModel, TrainedModel
from models.base import ClipsSamples, GenerativeModel
from models.baselines import Gaussian


def share(model: ClipsSamples, n: int, seed: int = 0) -> float:
    outside = model.outside(n, generator=Generator().manual_seed(seed))
    assert outside.shape == (n,)
    assert outside.dtype == torch.bool
    return outside.double().mean().item()


def tolerance(p: float, n: int) -> float:
    return 4.5 * math.sqrt(p * (1 - p) / n) + 1 / n


def estimate(subject: Subject, data: Data, n: int = 1000) -> Estimate:
    [found] = evaluate(Examples(subject, data, seed=0), {"mass_outside": MassOutside(n)})["mass_outside"]
    return found


def trained(model: GenerativeModel, seed: int = 0) -> TrainedModel:
    return TrainedModel(model, None, seed, ORIGIN)


@pytest.mark.parametrize(
    ("mean", "covariance", "levels"),
    [
        ([0.5], [[1.0]], 2),
        ([3.9], [[0.3]], 4),
        ([100.0], [[900.0]], 256),
        ([8.0, 1.0], [[4.0, 1.5], [1.5, 2.0]], 16),
        ([0.5, 1.0, 1.5], [[0.4, 0.2, 0.0], [0.2, 0.4, 0.1], [0.0, 0.1, 0.4]], 2),
        ([128.0, 128.0], [[1.0, 0.0], [0.0, 1.0]], 256),  # nothing outside
    ],
)
def test_gaussian_has_the_mass_of_the_normal_outside(
    mean: list[float], covariance: list[list[float]], levels: int
) -> None:
    model = Gaussian((len(mean),), levels)
    model.mean.copy_(torch.tensor(mean))
    model.cholesky.copy_(torch.linalg.cholesky(torch.tensor(covariance, dtype=torch.float64)))
    normal = multivariate_normal(np.array(mean), np.array(covariance))
    expected = 1 - float(normal.cdf(np.full(len(mean), float(levels)), lower_limit=np.zeros(len(mean))))
    assert share(model, 50_000) == pytest.approx(expected, abs=tolerance(expected, 50_000))


@pytest.mark.parametrize("shape", [(2,), (1, 1, 2), (1, 2, 2)])
@pytest.mark.parametrize(
    ("name", "overrides", "half_width"),
    [
        ("tarflow", [], 1.0),
        ("tarflow_conditional", [], 1.0),
        ("realnvp_small", ["model.alpha=0.05"], math.log(0.95 / 0.05)),
        ("realnvp", ["model.alpha=0.2"], math.log(0.8 / 0.2)),
        ("realnvp_vardeq", ["model.alpha=0.3"], math.log(0.7 / 0.3)),
    ],
)
def test_flow_that_is_the_identity_has_the_mass_of_the_standard_normal_outside(
    name: str, overrides: list[str], half_width: float, shape: tuple[int, ...]
) -> None:
    """The scale or the logit takes the data's range to +-half_width; the layers above do nothing at their start."""
    model = new_model(name, small_data(shape, 16).spec, *overrides).eval()
    assert isinstance(model, ClipsSamples)
    expected = 1 - math.erf(half_width / math.sqrt(2)) ** math.prod(shape)
    assert share(model, 20_000) == pytest.approx(expected, abs=tolerance(expected, 20_000))


@pytest.mark.parametrize("name", ["gaussian", "tarflow", "tarflow_conditional", "glow", "glow_conditional", "flowpp"])
def test_samples_outside_are_those_that_were_clipped(name: str) -> None:
    """A clipped sample has an entry at the first or last level, and with 256 levels few others have."""
    data = small_data((1, 1, 2), 256)
    model = new_model(name, data.spec)
    if isinstance(model, Gaussian):
        model.mean.fill_(128.0)
        model.cholesky.copy_(80 * torch.eye(2))
    subject = trained(model, seed=3)
    outside, samples = subject.outside(600), subject.samples(600).flatten(1)  # in three chunks
    extreme = ((samples == 0) | (samples == 255)).any(1)
    assert 0.005 < outside.double().mean() < 0.95
    assert (extreme | ~outside).all()
    assert (extreme & ~outside).double().mean() < 0.04
    assert torch.equal(outside, subject.outside(600))
    assert not torch.equal(outside, trained(model, seed=4).outside(600))


def test_inverse_that_runs_into_nan_is_no_mass_outside() -> None:
    data = small_data((2,), 16)
    model = new_model("tarflow", data.spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    found = estimate(trained(model), data)
    assert found.status is Status.FAILED
    assert "NaN" in found.reason


class Known(Subject):
    """``clipped`` of its samples were clipped."""

    origin = ORIGIN

    def __init__(self, clipped: int) -> None:
        self.clipped = clipped

    def outside(self, n: int, report: Report = silent) -> Tensor:
        return torch.arange(n) < self.clipped


@pytest.mark.parametrize("clipped", [0, 1, 250, 1000])
def test_row_is_a_proportion_with_its_binomial_error_and_no_direction(clipped: int) -> None:
    found = estimate(Known(clipped), small_data((2,), 16))
    p = clipped / 1000
    assert found.value == p
    assert found.stderr == found.stderr_draws == pytest.approx(math.sqrt(p * (1 - p) / 1000))
    assert (found.ci_low, found.ci_high) == wilson_interval(p, 1000)
    assert found.n_fake == 1000
    assert found.info.name == "mass_outside"
    assert found.info.higher_is_better is None


INTEGERS, REALS = small_data((2,), 16), small_data((2,), None)


@pytest.mark.parametrize(
    ("subject", "data", "reason"),
    [
        (lambda: trained(new_model("gaussian", REALS.spec)), REALS, "real-valued"),
        (lambda: trained(new_model("tarflow", REALS.spec)), REALS, "real-valued"),
        (lambda: FailedModel(new_model("gaussian", REALS.spec), "diverged", ORIGIN), REALS, "real-valued"),
        (lambda: trained(new_model("vae", INTEGERS.spec)), INTEGERS, "does not report"),
        (lambda: trained(new_model("resampler", INTEGERS.spec)), INTEGERS, "does not report"),
        (lambda: FailedModel(new_model("vae", INTEGERS.spec), "diverged", ORIGIN), INTEGERS, "does not report"),
        (lambda: GivenSamples(INTEGERS.test.x, 0, ORIGIN), INTEGERS, "only samples are given"),
        (lambda: KnownDensity(lambda x: x.double().sum(1), ORIGIN), INTEGERS, "not known"),
    ],
)
def test_skipped_with_a_reason_where_it_does_not_apply(subject: object, data: Data, reason: str) -> None:
    assert callable(subject)
    found = estimate(subject(), data)
    assert found.status is Status.SKIPPED
    assert reason in found.reason


def test_a_run_that_failed_has_a_failed_row() -> None:
    found = estimate(FailedModel(new_model("gaussian", INTEGERS.spec), "diverged", ORIGIN), INTEGERS)
    assert found.status is Status.FAILED
    assert found.reason == "diverged"


def test_model_without_samples_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model("tarflow", INTEGERS.spec)
    monkeypatch.setattr(type(model), "cannot_sample", "no inverse")
    with pytest.raises(UnavailableError, match="cannot be sampled: no inverse"):
        trained(model).outside(5)
    with pytest.raises(UnavailableError, match="cannot be sampled: no inverse"):
        FailedModel(model, "diverged", ORIGIN).outside(5)


def test_model_of_reals_has_no_range() -> None:
    for name in ("gaussian", "tarflow"):
        model = new_model(name, REALS.spec)
        assert isinstance(model, ClipsSamples)
        assert not model.clips_samples
        with pytest.raises(NotImplementedError):
            model.outside(3)
