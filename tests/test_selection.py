"""Which examples, which weights and which moments a number is of: the mistakes that no other number would show."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import configuration, new_model, small_data
from torch import Tensor

from bench.checkpoint import Progress, load_checkpoint
from bench.config.spec import Hardware, RunSpec, Schedule
from bench.data.base import Data, Split
from bench.errors import DivergedError
from bench.evaluation.measure import failed_run, measure, trained_model
from bench.metrics.frechet import frechet_distance_from_features
from bench.schema import DataSpec
from bench.seeds import derive_seed
from bench.subjects import trained
from bench.subjects.examples import Examples
from bench.training import supervisor
from bench.training.fit import fit
from bench.training.select import validation_score
from models.base import GenerativeModel, HasLikelihood

DATA = small_data((4,), None, n=100)


def unlike(shape: tuple[int, ...] = (2,), n: int = 40) -> Data:
    """Three splits around 0, 3 and 9: no number of one is near that of another."""
    generator = torch.Generator().manual_seed(3)
    splits = [Split(centre + torch.randn(n, *shape, generator=generator), None) for centre in (0.0, 3.0, 9.0)]
    return Data(DataSpec("unlike", "r0", shape, None, n, n, n), *splits)


def train(model: GenerativeModel, folder: Path, validate: Any = None, **schedule: Any) -> Progress:
    asked = {"examples": 320, "batch_size": 16, "validate_every": 64} | schedule
    return fit(model, DATA, Schedule(**asked), Hardware(), seed=5, folder=folder, config={}, validate=validate)


def fitted_gaussian(data: Data) -> Any:
    model: Any = new_model("gaussian", data.spec)
    model.fit([data.train.x])
    return model


# The examples.


def test_the_validation_score_is_the_mean_over_the_validation_split() -> None:
    data = unlike()
    model = fitted_gaussian(data)
    log_weights = {name: model.log_weight(getattr(data, name).x).double() for name in ("train", "val", "test")}
    score = validation_score(data, seed=1)(model)
    assert score == pytest.approx(-float(log_weights["val"].mean()), rel=1e-6)
    for other in (log_weights["train"].mean(), log_weights["test"].mean(), log_weights["val"].median()):
        assert abs(score + float(other)) > 0.01


def test_without_a_likelihood_the_score_is_a_distance_to_the_validation_split() -> None:
    data = unlike()
    model = new_model("dcgan", data.spec)
    model.eval()
    generator = torch.Generator().manual_seed(derive_seed(1, "validate"))
    with torch.no_grad():
        fake = model.sample(len(data.val), generator=generator)
        score = validation_score(data, seed=1)(model)
    assert score == pytest.approx(frechet_distance_from_features(fake, data.val.x), rel=1e-6)
    assert score < 0.9 * frechet_distance_from_features(fake, data.test.x)


def test_only_the_first_examples_of_validation_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    data = unlike()
    model = fitted_gaussian(data)
    monkeypatch.setattr("bench.training.select.VALIDATION_EXAMPLES", 7)
    assert validation_score(data, seed=1)(model) == pytest.approx(-float(model.log_weight(data.val.x[:7]).mean()))


def test_metrics_are_computed_on_the_test_split() -> None:
    data = unlike()
    spec = RunSpec.parse(configuration("gaussian", "data=two_moons", "metric=[likelihood]"))
    subject = failed_run(spec, data, "best", "never trained")
    examples = Examples(subject, data, seed=0)
    assert examples.real is data.test.x
    assert torch.equal(examples.held_out, torch.cat([data.val.x, data.test.x]))


def test_rows_hold_the_test_splits_likelihood(tmp_path: Path) -> None:
    data = unlike()
    spec = RunSpec.parse(configuration("gaussian", "data=two_moons", "metric=[likelihood]"))
    model = new_model("gaussian", data.spec)
    fit(model, data, spec.schedule, Hardware(), seed=0, folder=tmp_path, config=spec.config)
    subject = trained_model(spec, data, "best", tmp_path / "best.ckpt")
    asked = [measurement for measurement in spec.measurements if measurement.checkpoint == "best"]
    rows, _ = measure(subject, data, asked, seed=0)
    assert isinstance(model, HasLikelihood)
    (row,) = [row for row in rows if row.metric == "log_likelihood"]
    assert (row.split, row.n_real) == ("test", len(data.test))
    assert row.value == pytest.approx(float(model.log_weight(data.test.x).double().mean()), rel=1e-6)


def test_training_sees_the_train_split_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model("vae", DATA.spec)
    seen: list[Tensor] = []
    plain_step = model.training_step

    def watched(batch: Any, batch_idx: int) -> Any:
        seen.append(batch[0].clone())
        return plain_step(batch, batch_idx)

    monkeypatch.setattr(model, "training_step", watched)
    train(model, tmp_path, examples=96)
    rows = {tuple(row) for row in torch.cat(seen).tolist()}
    assert len(rows) == 96
    assert rows <= {tuple(row) for row in DATA.train.x.tolist()}


def test_another_seed_gives_training_another_order_and_other_noise(tmp_path: Path) -> None:
    """With the same initial weights: what a run's seed decides besides them."""

    def seen(seed: int, folder: Path) -> dict[str, Tensor]:
        model = new_model("vae", DATA.spec)
        streams: dict[str, list[Tensor]] = {"examples": [], "global": [], "own": []}
        plain_step = model.training_step

        def watched(batch: Any, batch_idx: int) -> Any:
            streams["examples"].append(batch[0].clone())
            streams["global"].append(torch.rand(1))
            streams["own"].append(torch.rand(1, generator=model.train_generator))
            return plain_step(batch, batch_idx)

        model.training_step = watched  # type: ignore[method-assign]
        folder.mkdir()
        fit(model, DATA, Schedule(examples=64, batch_size=32), Hardware(), seed=seed, folder=folder, config={})
        return {name: torch.cat(parts) for name, parts in streams.items()}

    first, again, other = (seen(seed, tmp_path / str(k)) for k, seed in enumerate((1, 1, 2)))
    for name, stream in first.items():
        assert torch.equal(stream, again[name]), name
        assert not torch.equal(stream, other[name]), name


@pytest.mark.parametrize("n", [1500, 1024, 3])
def test_a_closed_form_is_fitted_to_every_example_once(n: int, tmp_path: Path) -> None:
    data = unlike(n=n)
    gaussian, resampler = (new_model(name, data.spec) for name in ("gaussian", "resampler"))
    for model in (gaussian, resampler):
        progress = fit(model, data, Schedule(examples=1, batch_size=1), Hardware(), seed=0, folder=tmp_path, config={})
        assert progress.examples_seen == n
    assert torch.equal(resampler.state_dict()["examples"], data.train.x)
    torch.testing.assert_close(gaussian.state_dict()["mean"], data.train.x.double().mean(0), rtol=1e-12, atol=1e-12)


def test_a_closed_form_is_scored_in_evaluation_mode(tmp_path: Path) -> None:
    data = unlike()
    model = new_model("gaussian", data.spec)
    progress = fit(
        model, data, Schedule(), Hardware(), seed=0, folder=tmp_path, config={}, validate=lambda it: float(it.training)
    )
    assert progress.best_score == 0


# The weights.


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_weights_that_are_validated_are_those_that_are_kept(ema: float | None, tmp_path: Path) -> None:
    scores, seen = iter([3.0, 1.0, 2.0, 1.5, 4.0]), []

    def validate(model: GenerativeModel) -> float:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scores)

    train(new_model("vae", DATA.spec), tmp_path, validate, ema_decay=ema)
    for name, index in (("best.ckpt", 1), ("final.ckpt", 4)):
        kept = load_checkpoint(tmp_path / name)["state_dict"]
        assert all(torch.equal(kept[key], seen[index][key]) for key in kept)


def test_of_equal_scores_the_first_is_the_best(tmp_path: Path) -> None:
    progress = train(new_model("vae", DATA.spec), tmp_path, lambda _: 2.0)
    assert progress.best_examples == 64
    assert Progress.of(load_checkpoint(tmp_path / "best.ckpt")["progress"]).examples_seen == 64


def test_a_resumed_run_keeps_its_best_score(tmp_path: Path) -> None:
    scores: list[float | None] = [1.0, 2.0, None]

    def validate(_: GenerativeModel) -> float:
        score = scores.pop(0)
        if score is None:
            raise ZeroDivisionError
        return score

    with pytest.raises(ZeroDivisionError):
        train(new_model("vae", DATA.spec), tmp_path, validate)
    best = (tmp_path / "best.ckpt").read_bytes()
    scores[:] = [1.0, 1.5, 3.0]
    progress = train(new_model("vae", DATA.spec), tmp_path, validate)
    assert (progress.best_score, progress.best_examples) == (1.0, 64)
    assert (tmp_path / "best.ckpt").read_bytes() == best


@pytest.mark.parametrize("step", [1, 3, 5, 6, 12, 20])
def test_a_parameter_that_no_loss_uses_is_checked_at_every_validation(step: int, tmp_path: Path) -> None:
    model = new_model("vae", DATA.spec)
    model.unused = torch.nn.Parameter(torch.zeros(3))
    plain_step = model.training_step

    def poisoned(batch: Any, batch_idx: int) -> Any:
        if batch_idx == step - 1:
            with torch.no_grad():
                model.unused[1] = float("nan")  # type: ignore[index, operator]
        return plain_step(batch, batch_idx)

    model.training_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match="unused") as caught:
        train(model, tmp_path, lambda _: 1.0)
    assert caught.value.examples_seen == -(-step // 4) * 64


def test_the_global_generator_goes_on_where_a_killed_run_left_it(tmp_path: Path) -> None:
    def noisy() -> GenerativeModel:
        model = new_model("vae", DATA.spec)
        plain_step = model.training_step
        model.training_step = lambda *given: plain_step(*given) * (1 + torch.rand(()))  # type: ignore[method-assign]
        return model

    def die_at_192(_: GenerativeModel) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError
        return -float(len(calls))

    calls: list[int] = []
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    train(noisy(), tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(noisy(), tmp_path / "parts", die_at_192)
    torch.rand(11)
    train(noisy(), tmp_path / "parts")
    whole, parts = (load_checkpoint(tmp_path / name / "final.ckpt")["state_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_model_is_measured_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    data = unlike()
    model: Any = new_model("vae", data.spec).train()
    modes: dict[str, list[bool]] = {"sample": [], "log_weight": [], "encode": []}

    def watch(name: str, seen: list[bool]) -> None:
        call = getattr(model, name)

        def watched(*given: Any, **named: Any) -> Any:
            seen.extend(module.training for module in model.modules())
            return call(*given, **named)

        monkeypatch.setattr(model, name, watched)

    for name, seen in modes.items():
        watch(name, seen)
    spec = RunSpec.parse(configuration("vae", "data=two_moons", "metric=[likelihood]"))
    subject = trained.TrainedModel(model, Progress(), 4, failed_run(spec, data, "best", "").origin)
    subject.samples(3)
    subject.log_weights(data.test.x, 2)
    subject.codes(data.test.x)
    assert all(seen and not any(seen) for seen in modes.values())


# The moments.


def a_second_a_step(monkeypatch: pytest.MonkeyPatch) -> tuple[GenerativeModel, list[float]]:
    """A model whose every step takes a second of the supervisor's clock, and that clock."""
    now = [0.0]
    monkeypatch.setattr(supervisor.time, "perf_counter", lambda: now[0])
    model = new_model("vae", DATA.spec)
    plain_step = model.training_step

    def step(*given: Any) -> Any:
        now[0] += 1.0
        return plain_step(*given)

    model.training_step = step  # type: ignore[method-assign]
    return model, now


def test_a_slow_validation_is_no_time_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, now = a_second_a_step(monkeypatch)

    def a_minute(_: GenerativeModel) -> float:
        now[0] += 60.0
        return 1.0

    progress = train(model, tmp_path, a_minute)
    assert progress.steps == 20
    assert progress.train_seconds == 20.0


def test_processor_time_of_a_validation_is_no_load_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, now = a_second_a_step(monkeypatch)
    monkeypatch.setattr(supervisor.time, "process_time", lambda: 0.5 * now[0])

    def a_minute(_: GenerativeModel) -> float:
        now[0] += 60.0
        return 1.0

    assert train(model, tmp_path, a_minute).cpu_seconds == 10.0


def test_the_time_to_the_best_score_ends_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = a_second_a_step(monkeypatch)
    scores = iter([3.0, 1.0, 2.0, 1.5, 4.0])
    assert train(model, tmp_path, lambda _: next(scores)).best_seconds == 8.0
    assert Progress.of(load_checkpoint(tmp_path / "best.ckpt")["progress"]).best_seconds == 8.0


def test_the_largest_peak_of_all_intervals_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([3, 9, 5, 8, 4])
    monkeypatch.setattr(supervisor, "peak_memory", lambda _: next(peaks))
    assert train(new_model("vae", DATA.spec), tmp_path).peak_memory == 9


def test_a_budget_in_seconds_ends_at_the_first_step_that_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = a_second_a_step(monkeypatch)
    progress = train(model, tmp_path, lambda _: 1.0, examples=None, seconds=7.5)
    assert (progress.steps, progress.finished) == (8, "budget spent")


def test_the_rate_of_sampling_is_that_of_the_samples_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    def clock() -> float:
        now[0] += 4.0
        return now[0]

    data = unlike()
    spec = RunSpec.parse(configuration("gaussian", "data=two_moons", "metric=[likelihood]"))
    origin = failed_run(spec, data, "best", "").origin
    subject = trained.TrainedModel(fitted_gaussian(data), Progress(), 0, origin)
    monkeypatch.setattr(trained.time, "perf_counter", clock)
    for n in (600, 30):
        assert len(subject.samples(n)) == n
    for n in (600, 30):  # also where others were drawn later
        assert subject.costs(data.test.x, n)["samples_per_second"] == n / 4.0
    assert subject.costs(data.test.x, 31)["samples_per_second"] == 31 / 4.0  # drawn for this


def test_best_and_final_rows_say_how_much_each_has_seen(tmp_path: Path) -> None:
    data = unlike()
    spec = RunSpec.parse(configuration("nice", "data=two_moons", "metric=[likelihood]"))
    scores = iter([3.0, 1.0, 2.0])
    fit(
        new_model("nice", data.spec, *()), data, Schedule(examples=48, batch_size=16, validate_every=16), Hardware(),
        seed=0, folder=tmp_path, config=spec.config, validate=lambda _: next(scores),
    )  # fmt: skip
    seen = {name: trained_model(spec, data, name, tmp_path / f"{name}.ckpt").origin for name in ("best", "final")}
    assert {name: origin.examples_seen for name, origin in seen.items()} == {"best": 32, "final": 48}
    assert {name: origin.checkpoint for name, origin in seen.items()} == {"best": "best", "final": "final"}


# The critic.


@pytest.mark.parametrize("shape", [(4,), (1, 8, 8)])
def test_every_critic_parameter_is_clipped_after_every_step(shape: tuple[int, ...], tmp_path: Path) -> None:
    data = small_data(shape, None, n=64)
    model: Any = new_model("wgan", data.spec)
    with torch.no_grad():
        for parameter in model.discriminator.parameters():
            parameter.fill_(0.5)  # biases and the parameters of batch normalization too
    fit(model, data, Schedule(examples=16, batch_size=16), Hardware(), seed=0, folder=tmp_path, config={})
    largest = {
        name: float(parameter.detach().abs().max()) for name, parameter in model.discriminator.named_parameters()
    }
    assert any("bias" in name for name in largest)
    assert max(largest.values()) <= model.clip
