"""The evaluator: what is shared is computed once, what cannot apply is skipped, what fails stays alone."""

import logging
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data
from torch import Generator, Tensor

from bench.checkpoint import Progress
from bench.config.spec import Measurement
from bench.data.base import Data
from bench.data.toy import two_moons
from bench.errors import UnavailableError, UserError
from bench.evaluation.evaluate import evaluate
from bench.evaluation.measure import measure
from bench.evaluation.rows import rows_of
from bench.features.base import Note
from bench.features.classifier import InDomainClassifier
from bench.features.own import OwnModule
from bench.features.pixels import Pixels
from bench.metrics.base import Metric
from bench.metrics.copying import Copying
from bench.metrics.cost import Cost
from bench.metrics.extractor import ExtractorAccuracy
from bench.metrics.frechet import FID
from bench.metrics.inception_score import InceptionScore
from bench.metrics.likelihood import LogLikelihood
from bench.metrics.modes import ModeCounts
from bench.schema import Estimate, Kind, MetricInfo, Status
from bench.subjects.copies import said_of_copies
from bench.subjects.density import KnownDensity
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples
from bench.subjects.trained import FailedModel, TrainedModel
from bench.training.select import validation_score
from models.base import GenerativeModel


class Mean(Metric):
    """Mean of the samples."""

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (MetricInfo("mean", "", None, title="mean"),)

    def compute(self, examples: Examples) -> list[Estimate]:
        return [Estimate(self.infos(examples)[0], value=float(examples.samples(600).float().mean()))]


class Broken(Metric):
    """Raises."""

    def infos(self, examples: Examples) -> tuple[MetricInfo, ...]:
        return (MetricInfo("broken", "", None, title="broken"),)

    def compute(self, examples: Examples) -> list[Estimate]:
        raise ZeroDivisionError("no\nluck")


class Unasked(InDomainClassifier):
    """A classifier that nobody may train."""

    def extractor(self, data: Data, note: Note | None = None) -> Any:
        raise AssertionError("not asked for")


def context(model: GenerativeModel, data: Data | None = None, seed: int = 3) -> Examples:
    subject = TrainedModel(model, Progress(train_seconds=2.0, examples_seen=10, best_seconds=1.0), seed, ORIGIN)
    return Examples(subject, small_data((4,), None) if data is None else data, seed=seed)


def flat(estimates: Mapping[str, list[Estimate]]) -> list[Estimate]:
    return [estimate for made in estimates.values() for estimate in made]


def test_samples_are_drawn_once_in_chunks_from_the_runs_own_stream() -> None:
    model = new_model("vae", small_data((4,), None).spec)
    calls: list[int] = []
    plain = model.sample

    def counted(n: int, **keywords: Any) -> Tensor:
        calls.append(n)
        return plain(n, **keywords)

    model.sample = counted  # type: ignore[method-assign]
    first = context(model)
    assert len(first.samples(600)) == 600
    assert first.samples(600) is first.samples(600)
    assert sum(calls) == 600
    assert max(calls) <= 250
    before = torch.get_rng_state()
    assert torch.equal(context(model).samples(600), first.samples(600))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(context(model, seed=4).samples(600), first.samples(600))


def test_exact_models_are_evaluated_once_and_bounds_k_times() -> None:
    spec = small_data((4,), None).spec
    assert context(new_model("realnvp", spec)).log_weights(4).shape == (1, 16)
    vae = context(new_model("vae", spec)).log_weights(4)
    assert vae.shape == (4, 16)
    assert vae.dtype == torch.float64
    assert not torch.equal(vae[0], vae[1])


def test_every_number_of_draws_has_its_own() -> None:
    examples = context(new_model("vae", small_data((4,), None).spec))
    assert [len(examples.log_weights(draws)) for draws in (4, 2, 4)] == [4, 2, 4]


def test_lost_samples_are_told_of_the_numbers_that_are_made_of_samples() -> None:
    examples = context(new_model("vae", small_data((4,), None).spec))
    examples.subject.lost = "1 of 21 samples are lost"
    made = flat(evaluate(examples, {"likelihood": LogLikelihood(2), "fid": FID(Pixels(), 20)}))
    assert {one.info.name: one.reason for one in made if one.status is Status.OK} == {
        "log_likelihood": "", "fid[pixels]": "1 of 21 samples are lost",
    }  # fmt: skip


def test_copies_are_told_of_the_numbers_that_are_ranked() -> None:
    data = small_data((4,), None, held_out=20)

    def said(x: Tensor, family: str = "samples") -> dict[str, str]:
        examples = Examples(GivenSamples(x, 0, replace(ORIGIN, model_family=family)), data, seed=0)
        made = flat(evaluate(examples, {"fid": FID(Pixels(), 20), "copying": Copying(Pixels(), 20)}))
        return {one.info.name: one.reason for one in made if one.reason}

    fresh = torch.randn(20, 4, generator=Generator().manual_seed(0))
    assert said(fresh) == {}
    whole = "100 % of the samples are {} examples, value for value"
    assert said(data.train.x[:20]) == {"fid[pixels]": whole.format("training")}
    assert said(data.train.x[:20], "control") == {}
    assert said(data.test.x) == {"fid[pixels]": whole.format("test")}
    assert said(data.val.x) == {"fid[pixels]": whole.format("validation")}
    assert said(torch.cat([data.train.x[:1], fresh[1:]])) == {}, "a twentieth is no tenth"
    assert said(torch.cat([fresh[:10], fresh[:10]])) == {
        "fid[pixels]": "50 % of the samples repeat another one, value for value"
    }


@pytest.mark.parametrize(("kind", "told"), [(Kind.CATEGORIES, True), (Kind.GRAPHS, False)])
def test_copies_of_categories_are_told_and_those_of_graphs_are_not(kind: Kind, told: bool) -> None:
    data = small_data((12,), 8, kind=kind)
    assert bool(said_of_copies(data.train.x[:16], data)) == told


def test_of_data_that_repeat_themselves_no_copies_are_told() -> None:
    data = small_data((2,), 4)
    examples = Examples(GivenSamples(data.train.x[:16], 0, ORIGIN), data, seed=0)
    (fid,) = flat(evaluate(examples, {"fid": FID(Pixels(), 16)}))
    assert (fid.status, fid.reason) == (Status.OK, "")


def test_one_failure_stays_alone_and_a_missing_capability_is_skipped() -> None:
    model = new_model("dcgan", small_data((4,), None).spec)
    asked = {"broken": Broken(), "likelihood": LogLikelihood(4), "mean": Mean()}
    estimates = {estimate.info.name: estimate for estimate in flat(evaluate(context(model), asked))}
    assert estimates["broken"].status is Status.FAILED
    assert estimates["broken"].reason == "ZeroDivisionError: no luck"
    assert estimates["log_likelihood"].status is Status.SKIPPED
    assert estimates["log_likelihood"].reason == "the model has no likelihood"
    assert estimates["mean"].status is Status.OK
    assert [e.value for e in estimates.values() if e.status is not Status.OK] == [None, None, None]


class Careless(Broken):
    """Draws from the global generators, as a user's own metric may."""

    def compute(self, examples: Examples) -> list[Estimate]:
        return [Estimate(self.infos(examples)[0], float(torch.rand(())) + random.random() + np.random.rand())]


def test_what_a_metric_draws_globally_comes_from_the_seed_and_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data((4,), None)
    subject = TrainedModel(new_model("vae", data.spec), Progress(), 0, ORIGIN)
    monkeypatch.setattr("bench.evaluation.measure.build_metrics", lambda nodes: {"careless": Careless()})

    def value(seed: int) -> float | None:
        return measure(subject, data, [Measurement("careless", {}, "best")], seed=seed)[0][0].value

    before = torch.get_rng_state()
    assert value(1) == value(1) != value(2)
    assert torch.equal(before, torch.get_rng_state())


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
    estimate = evaluate(context(model), {"mean": Mean()})["mean"][0]
    assert estimate.status is Status.FAILED
    assert "samples" in estimate.reason


@pytest.mark.parametrize("shape", [(16, 1), (), (1, 16)])
def test_log_weights_of_another_shape_fail_the_metric(shape: tuple[int, ...]) -> None:
    model = new_model("vae", small_data((4,), None).spec)
    assert len(small_data((4,), None).test) == 16
    model.log_weight = lambda x, *, generator=None: torch.zeros(shape)
    for estimate in flat(evaluate(context(model), {"likelihood": LogLikelihood(4)})):
        assert estimate.status is Status.FAILED
        assert f"log_weight returned shape {shape} for 16 examples" in estimate.reason
        assert estimate.reason.endswith("shape (16,)")


def test_pictures_too_small_for_the_classifier_have_no_metric_of_its() -> None:
    data = small_data((1, 4, 4), 256)
    recipe = Unasked()
    metrics = {"fid": FID(recipe, 9), "is": InceptionScore(recipe, 9), "accuracy": ExtractorAccuracy(recipe)}
    estimates = flat(evaluate(context(new_model("vae", data.spec), data), metrics))
    assert [estimate.status for estimate in estimates] == [Status.SKIPPED] * 3
    assert all("8 x 8" in estimate.reason for estimate in estimates)


def test_validation_can_train_the_classifier_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation runs without gradients; on a fresh machine its first call trains the classifier."""

    class Pixels:
        def features(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.flatten(1).float()

    seen: list[Tensor] = []
    trained: list[bool] = []

    def load_or_train(*_: Any) -> Pixels:
        trained.append(torch.is_grad_enabled())
        return Pixels()

    monkeypatch.setattr("bench.features.classifier.load_or_train", load_or_train)
    data = small_data((1, 8, 8), 256)
    score = validation_score(data, 0)
    with torch.no_grad():
        values = [score(new_model("dcgan", data.spec)) for _ in range(2)]
    assert values[0] == values[1] > 0
    assert trained == [True], "once, with gradients"
    assert len(seen) == 3, "of the real examples once, of every model's samples"


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


def failed(model: str, data: Data, reason: str = "diverged at example 3") -> Examples:
    return Examples(FailedModel(new_model(model, data.spec), reason, ORIGIN), data, seed=0)


def test_a_failed_run_has_a_row_for_every_metric() -> None:
    metrics = {"mean": Mean(), "likelihood": LogLikelihood(4)}
    rows = flat(evaluate(failed("vae", small_data((4,), 256)), metrics))
    assert [row.info.name for row in rows] == ["mean", "log_likelihood", "bits_per_dim"]
    assert all(row.status is Status.FAILED and row.reason == "diverged at example 3" for row in rows)


APPLIED: dict[str, Metric] = {
    "fid": FID(Unasked(), 20), "is": InceptionScore(Unasked(), 20), "accuracy": ExtractorAccuracy(Unasked()),
    "likelihood": LogLikelihood(4), "modes": ModeCounts(Unasked(), 20), "cost": Cost(20),
}  # fmt: skip


@pytest.mark.parametrize("model", ["dcgan", "realnvp"])
def test_a_failed_run_has_failed_in_what_a_successful_one_would_have(model: str) -> None:
    data = two_moons(n_train=10, n_val=10, n_test=10)
    rows = flat(evaluate(failed(model, data, "diverged"), APPLIED))
    assert {row.reason for row in rows if row.status is Status.FAILED} == {"diverged"}
    measured = flat(evaluate(context(new_model(model, data.spec), data), APPLIED))
    assert len(measured) == (14 if model == "dcgan" else 13)  # its discriminator's parameters
    lacking = [(row.info.name, row.reason) for row in measured if row.status is Status.SKIPPED]
    assert len(lacking) == (8 if model == "dcgan" else 7)
    assert [(row.info.name, row.reason) for row in rows if row.status is Status.SKIPPED] == lacking


def test_a_failed_run_trains_no_classifier_for_its_samples() -> None:
    data = small_data((1, 8, 8), 256)
    for metric in (FID(Unasked(), 20), InceptionScore(Unasked(), 20)):
        (row,) = evaluate(failed("dcgan", data), {"it": metric})["it"]
        assert row.status is Status.FAILED


def test_the_oracle_is_a_likelihood_like_any_other() -> None:
    normal = torch.distributions.Normal(torch.zeros(4, dtype=torch.float64), 1.0)
    density = KnownDensity(lambda x: normal.log_prob(x.double()).sum(1), ORIGIN)
    oracle = Examples(density, small_data((4,), None), seed=0)
    estimate = evaluate(oracle, {"likelihood": LogLikelihood(4)})["likelihood"][0]
    assert estimate.value == pytest.approx(float(normal.log_prob(oracle.real.double()).sum(1).mean()), abs=1e-12)
    assert estimate.relation == "exact"
    with pytest.raises(UnavailableError, match="not a sampler"):
        density.samples(3)


def test_samples_of_others_have_what_samples_have_and_say_what_they_lack() -> None:
    data = small_data((4,), None)
    given = Examples(GivenSamples(data.train.x, 0, ORIGIN), data, seed=0)
    rows = {row.info.name: row for row in flat(evaluate(given, {**APPLIED, "fid": FID(Pixels(), 50)}))}
    assert rows["fid[pixels]"].status is Status.OK
    assert rows["fid[pixels]"].n_fake == 50
    assert rows["log_likelihood"].reason == "only samples are given: they have no likelihood"
    assert rows["parameters"].reason == "only samples are given: what they cost is not known"


def test_given_samples_come_in_random_order_and_are_all_there() -> None:
    x = torch.arange(400.0)[:, None]
    made = GivenSamples(x, 0, ORIGIN)
    assert torch.equal(made.samples(1000).sort(0).values, x)
    assert not torch.equal(made.samples(400), x)
    assert 0 < made.samples(100).mean() - 100 < 150, "the first hundred are no beginning"
    assert torch.equal(made.samples(100), GivenSamples(x, 0, ORIGIN).samples(400)[:100])


def test_codes_are_those_of_the_model() -> None:
    data = small_data((4,), None)
    model = new_model("realnvp", data.spec).eval()
    subject = TrainedModel(model, Progress(), 0, ORIGIN)
    with torch.no_grad():
        assert torch.equal(subject.codes(data.test.x), model.encode(data.test.x))
    with pytest.raises(UnavailableError, match="no latent codes"):
        TrainedModel(new_model("dcgan", data.spec), Progress(), 0, ORIGIN).codes(data.test.x)


def test_features_are_computed_once_for_two_metrics_of_one_recipe() -> None:
    counted: list[int] = []

    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            counted.append(len(x))
            return x.flatten(1)

    data = small_data((1, 8, 8), 256)
    recipe = OwnModule("net", Net())
    examples = context(new_model("dcgan", data.spec), data)
    metrics = {"a": FID(recipe, 100), "b": FID(recipe, 100)}
    first, second = flat(evaluate(examples, metrics))
    assert first == second
    assert first.info.name == "fid[net]"
    assert len(first.extractor_hash) == 16
    assert counted == [16, 100], "the test split, then the samples"


def test_an_extractor_without_probabilities_has_no_inception_score() -> None:
    data = small_data((1, 8, 8), 256)
    (row,) = evaluate(context(new_model("dcgan", data.spec), data), {"is": InceptionScore(Pixels(), 9)})["is"]
    assert (row.status, row.reason) == (Status.SKIPPED, "pixels gives features but no class probabilities")


@pytest.mark.parametrize("made", [torch.zeros(16), torch.zeros(3, 2), torch.zeros(16, 2, dtype=torch.int64)])
def test_features_of_another_shape_fail_in_words(made: Tensor) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return made

    data = small_data((4,), None)
    (row,) = evaluate(context(new_model("vae", data.spec), data), {"fid": FID(OwnModule("net", Net()), 16)})["fid"]
    assert row.status is Status.FAILED
    assert "features 'net' of 16 examples" in row.reason


def test_a_module_of_the_users_sees_pictures_from_0_to_1_and_is_known_by_its_weights() -> None:
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    spec = small_data((1, 2, 2), 256).spec
    data = small_data((1, 2, 2), 256)
    extractor = OwnModule("mine", linear).extractor(data)
    x = data.test.x
    with torch.no_grad():
        assert torch.equal(extractor.features(x), linear(x.float() / 255))
    before = extractor.hash
    with torch.no_grad():
        linear[1].bias += 1
    assert OwnModule("mine", linear).extractor(data).hash != before
    with pytest.raises(UserError, match="may hold only"):
        OwnModule("a]b", linear)
    assert OwnModule("mine", linear).name(spec) == "mine"


def test_rows_carry_the_key_of_their_measurement_and_the_parts_of_their_error() -> None:
    data = small_data((4,), 256)
    node = {"_target_": "bench.metrics.likelihood.LogLikelihood", "n_draws": 4}
    measurement = Measurement("likelihood", node, "best")
    made = evaluate(context(new_model("vae", data.spec), data), {"likelihood": LogLikelihood(4)})
    rows = rows_of(made, [measurement], ORIGIN, data.spec)
    assert {row.measuring_key for row in rows} == {measurement.key}
    for row in rows:
        assert row.stderr_test is not None
        assert row.stderr_draws is not None
        assert row.stderr == pytest.approx((row.stderr_test**2 + row.stderr_draws**2) ** 0.5)
    assert Measurement("other", {**node, "version": 1, "_convert_": "all"}, "best").key == measurement.key
    assert Measurement("likelihood", {**node, "n_draws": 5}, "best").key != measurement.key
    assert Measurement("likelihood", node, "final").key != measurement.key
    assert Measurement("likelihood", {**node, "version": 2}, "best").key != measurement.key


def test_costs_are_measured() -> None:
    model = new_model("vae", small_data((4,), None).spec)
    examples = context(model)
    examples.samples(600)
    costs = examples.subject.costs(examples.real, 600)
    assert costs["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert costs["train_seconds"] == 2.0
    assert costs["train_examples_per_second"] == 5.0
    assert "samples_per_second" in costs  # how many: test_selection.py
