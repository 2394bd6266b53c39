"""The evaluator: what is shared is computed once, what cannot apply is skipped, what fails stays alone."""

import logging
from typing import Any

import pytest
import torch
from helpers_models import new_model, small_data
from torch import Generator, Tensor

from bench.data.base import Data
from bench.data.toy import two_moons
from bench.errors import UserError
from bench.evaluation.evaluate import DataDensity, EvalContext, evaluate, failed_estimates
from bench.evaluation.rows import validation_score
from bench.metrics.base import Context, Metric, Need
from bench.metrics.cost import Cost
from bench.metrics.extractor import ExtractorAccuracy
from bench.metrics.frechet import FID
from bench.metrics.inception_score import InceptionScore
from bench.metrics.likelihood import LogLikelihood
from bench.metrics.modes import ModeCounts
from bench.schema import Estimate, MetricInfo, Status
from bench.training.fit import Progress
from models.base import GenerativeModel


class Mean(Metric):
    """Mean of the samples."""

    needs = (Need.SAMPLES,)

    def infos(self, context: Context) -> tuple[MetricInfo, ...]:
        return (MetricInfo("mean", "", None, title="mean"),)

    def compute(self, context: Context) -> list[Estimate]:
        return [Estimate(self.infos(context)[0], value=float(context.samples.float().mean()))]


class Broken(Metric):
    """Raises."""

    def infos(self, context: Context) -> tuple[MetricInfo, ...]:
        return (MetricInfo("broken", "", None, title="broken"),)

    def compute(self, context: Context) -> list[Estimate]:
        raise ZeroDivisionError("no\nluck")


def no_classifier(data: Data) -> Any:
    raise AssertionError("not asked for")


def context(model: GenerativeModel | None, data: Data | None = None, **more: Any) -> EvalContext:
    settings: dict[str, Any] = {"seed": 3, "n_samples": 600, "n_draws": 4, "load_classifier": no_classifier} | more
    progress = Progress(train_seconds=2.0, examples_seen=10)
    return EvalContext(model, small_data((4,), None) if data is None else data, progress=progress, **settings)


def test_samples_are_drawn_once_in_chunks_from_the_runs_own_stream() -> None:
    model = new_model("vae", small_data((4,), None).spec)
    calls: list[int] = []
    plain = model.sample

    def counted(n: int, **keywords: Any) -> Tensor:
        calls.append(n)
        return plain(n, **keywords)

    model.sample = counted  # type: ignore[method-assign]
    first = context(model)
    assert len(first.samples) == 600
    assert first.samples is first.samples
    assert sum(calls) == 600
    assert max(calls) <= 250
    before = torch.get_rng_state()
    assert torch.equal(context(model).samples, first.samples)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(context(model, seed=4).samples, first.samples)


def test_exact_models_are_evaluated_once_and_bounds_k_times() -> None:
    spec = small_data((4,), None).spec
    assert context(new_model("realnvp", spec)).log_weights.shape == (1, 16)
    vae = context(new_model("vae", spec)).log_weights
    assert vae.shape == (4, 16)
    assert vae.dtype == torch.float64
    assert not torch.equal(vae[0], vae[1])


def test_one_failure_stays_alone_and_a_missing_capability_is_skipped() -> None:
    model = new_model("dcgan", small_data((4,), None).spec)
    asked = {"broken": Broken(), "likelihood": LogLikelihood(), "mean": Mean()}
    estimates = {estimate.info.name: estimate for estimate in evaluate(context(model), asked)}
    assert estimates["broken"].status is Status.FAILED
    assert estimates["broken"].reason == "ZeroDivisionError: no luck"
    assert estimates["log_likelihood"].status is Status.SKIPPED
    assert estimates["log_likelihood"].reason == "the model has no likelihood"
    assert estimates["mean"].status is Status.OK
    assert [e.value for e in estimates.values() if e.status is not Status.OK] == [None, None, None]


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO])
def test_a_failing_metric_is_one_line_for_a_user_and_a_traceback_for_a_runs_log(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = new_model("dcgan", small_data((4,), None).spec)
    with caplog.at_level(level, "genbench"):  # a run's log is the only one that is set to INFO
        evaluate(context(model), {"broken": Broken()})
    first, *rest = caplog.records
    assert (first.getMessage(), first.exc_info) == ("metric broken failed: ZeroDivisionError: no luck", None)
    assert ["Traceback" in caplog.text, len(rest)] == ([False, 0] if level == logging.WARNING else [True, 1])


@pytest.mark.parametrize("fault", ["dtype", "shape", "nan"])
def test_samples_that_are_not_data_fail_the_metric(fault: str) -> None:
    model = new_model("vae", small_data((4,), None).spec)

    def sample(n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        return {
            "dtype": torch.zeros(n, 4, dtype=torch.float64),
            "shape": torch.zeros(n, 5),
            "nan": torch.full((n, 4), float("nan")),
        }[fault]

    model.sample = sample  # type: ignore[method-assign]
    estimate = evaluate(context(model), {"mean": Mean()})[0]
    assert estimate.status is Status.FAILED
    assert "samples" in estimate.reason


@pytest.mark.parametrize("shape", [(16, 1), (), (1, 16)])
def test_log_weights_of_another_shape_fail_the_metric(shape: tuple[int, ...]) -> None:
    model = new_model("vae", small_data((4,), None).spec)
    assert len(small_data((4,), None).test) == 16
    model.log_weight = lambda x, *, generator=None: torch.zeros(shape)
    for estimate in evaluate(context(model), {"likelihood": LogLikelihood()}):
        assert estimate.status is Status.FAILED
        assert f"log_weight returned shape {shape} for 16 examples" in estimate.reason
        assert estimate.reason.endswith("shape (16,)")


def test_pictures_too_small_for_the_classifier_have_no_metric_of_its() -> None:
    data = small_data((1, 4, 4), 256)
    metrics: dict[str, Metric] = {"fid": FID(), "is": InceptionScore(), "accuracy": ExtractorAccuracy()}
    estimates = evaluate(context(new_model("vae", data.spec), data), metrics)
    assert [estimate.status for estimate in estimates] == [Status.SKIPPED] * 3
    assert all("8 x 8" in estimate.reason for estimate in estimates)


def test_validation_can_train_the_classifier_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation runs without gradients; on a fresh machine its first call trains the classifier."""

    class Pixels:
        def features(self, x: Tensor) -> Tensor:
            return x.flatten(1).float()

    trained: list[bool] = []

    def load_or_train(*_: Any) -> Pixels:
        trained.append(torch.is_grad_enabled())
        return Pixels()

    monkeypatch.setattr("bench.evaluation.rows.load_or_train", load_or_train)
    data = small_data((1, 8, 8), 256)
    score = validation_score(data, 0)
    with torch.no_grad():
        values = [score(new_model("dcgan", data.spec)) for _ in range(2)]
    assert values[0] == values[1] > 0
    assert trained == [True], "once, with gradients"


def test_validation_of_pictures_too_small_for_the_classifier_is_of_pixels() -> None:
    data = small_data((1, 4, 4), 256)
    with torch.no_grad():
        assert 0 < validation_score(data, 0)(new_model("dcgan", data.spec)) < float("inf")


def test_a_log_weight_of_another_shape_is_told_at_the_first_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data((3,), None)
    model = new_model("realnvp", data.spec)
    plain = type(model).log_weight
    monkeypatch.setattr(type(model), "log_weight", lambda self, x, **named: plain(self, x, **named)[:, None])
    with torch.no_grad(), pytest.raises(ValueError, match=r"shape \(16, 1\) for 16 examples"):
        validation_score(data, 0)(model)


def test_one_validation_example_is_too_few() -> None:
    with pytest.raises(UserError, match="at least 20 examples"):
        validation_score(small_data((3,), None, held_out=1), 0)


def test_a_failed_run_has_a_row_for_every_metric() -> None:
    integers, metrics = small_data((4,), 256), {"mean": Mean(), "likelihood": LogLikelihood()}
    rows = failed_estimates(context(None, integers), metrics, "diverged at example 3")
    assert [row.info.name for row in rows] == ["mean", "log_likelihood", "bits_per_dim"]
    assert all(row.status is Status.FAILED and row.reason == "diverged at example 3" for row in rows)


APPLIED: dict[str, Metric] = {
    "fid": FID(), "is": InceptionScore(), "accuracy": ExtractorAccuracy(), "likelihood": LogLikelihood(),
    "modes": ModeCounts(), "cost": Cost(),
}  # fmt: skip


@pytest.mark.parametrize("model", [None, "dcgan", "realnvp"])
def test_a_failed_run_has_failed_in_what_a_successful_one_would_have(model: str | None) -> None:
    data = two_moons(n_train=10, n_val=10, n_test=10)
    made = None if model is None else new_model(model, data.spec)
    failed = failed_estimates(context(made, data), APPLIED, "diverged")
    assert {row.reason for row in failed if row.status is Status.FAILED} == {"diverged"}
    measured = evaluate(context(new_model(model or "realnvp", data.spec), data), APPLIED)
    assert len(measured) == 12
    lacking = [(row.info.name, row.reason) for row in measured if row.status is Status.SKIPPED]
    assert len(lacking) == (8 if model == "dcgan" else 7)
    assert [(row.info.name, row.reason) for row in failed if row.status is Status.SKIPPED] == lacking


def test_the_oracle_is_a_likelihood_like_any_other() -> None:
    normal = torch.distributions.Normal(torch.zeros(4, dtype=torch.float64), 1.0)
    oracle = context(None, likelihood=DataDensity(lambda x: normal.log_prob(x.double()).sum(1)))
    estimate = evaluate(oracle, {"likelihood": LogLikelihood()})[0]
    assert estimate.value == pytest.approx(float(normal.log_prob(oracle.real.double()).sum(1).mean()), abs=1e-12)
    assert estimate.relation == "exact"


def test_costs_are_measured() -> None:
    model = new_model("vae", small_data((4,), None).spec)
    costs = context(model).costs
    assert costs["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert costs["train_seconds"] == 2.0
    assert costs["train_examples_per_second"] == 5.0
    assert costs["samples_per_second"] > 0
