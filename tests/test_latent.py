"""Rows about latent codes, against numbers that are known: terms of the ELBO, active units, reconstruction errors."""

import math

import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data
from helpers_vae import linear_gaussian
from torch import Generator, Tensor

from bench.data.base import Data
from bench.evaluation.evaluate import evaluate
from bench.metrics.latent import (
    LatentCodes,
    ReconstructionError,
    active_units,
    activity,
    mean_errors,
    squared_errors,
)
from bench.schema import Estimate, Relation, Status
from bench.subjects.base import Subject
from bench.subjects.density import KnownDensity
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples
from bench.subjects.trained import FailedModel, TrainedModel
from models.flows.base import Flow
from models.transforms.wrapped import Wrapped

REALS, INTEGERS = small_data((4,), None), small_data((3,), 16)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def rows(subject: Subject, data: Data, n_draws: int = 4) -> dict[str, Estimate]:
    metrics = {"latent": LatentCodes(n_draws), "reconstruction": ReconstructionError()}
    made = evaluate(Examples(subject, data, seed=0), metrics)
    return {estimate.info.name: estimate for estimates in made.values() for estimate in estimates}


def trained(name: str, data: Data = REALS) -> TrainedModel:
    return TrainedModel(new_model(name, data.spec), None, 0, ORIGIN)


class OneWay(torch.nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(len(x))


def without_inverse() -> TrainedModel:
    return TrainedModel(Flow((4,), None, Wrapped(OneWay()), torch.optim.Adam), None, 0, ORIGIN)


def test_errors_of_a_mean_of_draws_are_those_of_repeated_experiments() -> None:
    def experiment(seed: int) -> Tensor:
        noise = torch.randn(4, 60, generator=seeded(seed), dtype=torch.float64)
        examples = torch.randn(60, generator=seeded(10_000 + seed), dtype=torch.float64)
        return 2 * examples + 3 * noise

    made = [experiment(seed) for seed in range(800)]
    total, of_draws = (torch.tensor([mean_errors(one)[part] for one in made]) for part in (0, 1))
    assert float(total.square().mean().sqrt()) == pytest.approx(math.sqrt((4 + 9 / 4) / 60), rel=0.03)
    assert float(of_draws.square().mean().sqrt()) == pytest.approx(math.sqrt(9 / 4 / 60), rel=0.03)
    assert float(torch.tensor([one.mean() for one in made]).std()) == pytest.approx(math.sqrt(6.25 / 60), rel=0.1)
    assert mean_errors(made[0][:1])[1] is None


def codes(draws: int, n: int, seed: int) -> Tensor:
    """Posteriors of three units whose means have the variances 1, 0.04 and 0, drawn with a variance of 0.5."""
    generator = seeded(seed)
    means = torch.randn(n, 3, generator=generator) * torch.tensor([1.0, 0.2, 0.0]) + 100
    return means + math.sqrt(0.5) * torch.randn(draws, n, 3, generator=generator)


@pytest.mark.parametrize("draws", [2, 16])
def test_activity_is_unbiased_for_draws_of_the_means(draws: int) -> None:
    found = torch.stack([activity(codes(draws, 200, seed)) for seed in range(400)])
    truth = torch.tensor([1.0, 0.04, 0.0], dtype=torch.float64)
    assert ((found.mean(0) - truth).abs() < 4 * found.std(0) / math.sqrt(400)).all()


def test_activity_of_known_means_is_their_variance() -> None:
    means = torch.randn(50, 4, generator=seeded(0), dtype=torch.float64)
    expected = means.var(0)
    torch.testing.assert_close(activity(means[None]), expected)
    torch.testing.assert_close(activity(means.expand(3, -1, -1)), expected)
    counts = torch.zeros(1, 50)
    counts[0, :25] = 2
    resampled = means[:25].repeat(2, 1)
    torch.testing.assert_close(activity(means[None], counts)[0], resampled.var(0))


def test_active_units_are_counted_with_the_spread_over_other_examples() -> None:
    number, error = active_units(codes(16, 2000, 0), 0.01, seeded(0))
    assert (number, error) == (2, 0.0)
    # Means whose variance is the threshold itself are active in half of the experiments.
    edge = 0.1 * torch.randn(1, 500, 40, generator=seeded(1))
    spread = [active_units(0.1 * torch.randn(1, 500, 40, generator=seeded(s)), 0.01, seeded(0))[0] for s in range(60)]
    assert float(torch.tensor(spread).double().std()) == pytest.approx(math.sqrt(40 / 4), rel=0.35)
    assert 1 < active_units(edge, 0.01, seeded(0))[1] < 2 * math.sqrt(40 / 4)
    assert active_units(edge, 0.01, seeded(3)) == active_units(edge, 0.01, seeded(3))


def test_squared_errors_are_means_over_entries_on_the_unit_interval() -> None:
    x = torch.tensor([[0, 15], [15, 15]], dtype=torch.uint8)
    made = torch.tensor([[15, 15], [15, 12]], dtype=torch.uint8)
    torch.testing.assert_close(squared_errors(x, made, 16), torch.tensor([0.5, 0.02], dtype=torch.float64))
    reals = squared_errors(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [2.0]]]), None)
    torch.testing.assert_close(reals, torch.tensor([2.0], dtype=torch.float64))


def test_rows_of_a_linear_gaussian_model_hold_what_is_known() -> None:
    """With the exact posterior the ELBO is log p(x), and the code's variance is known."""
    model, exact = linear_gaussian(0.0, 1.0)
    x = model.sample(400, generator=seeded(3))
    data = small_data((3,), None, held_out=400)
    data = Data(data.spec, data.train, data.val, type(data.test)(x, None))
    found = rows(TrainedModel(model, None, 0, ORIGIN), data, n_draws=8)
    elbo, kl, reconstruction = (found[name] for name in ("elbo", "kl", "reconstruction"))
    assert elbo.value is not None
    assert kl.value is not None
    assert reconstruction.value is not None
    assert elbo.value == pytest.approx(reconstruction.value - kl.value, abs=1e-9)
    assert elbo.stderr_draws is not None
    assert abs(elbo.value - float(exact.log_prob(x).mean())) < 4.5 * elbo.stderr_draws
    with torch.no_grad():
        posterior = model._posterior(x)[0]
    assert kl.value == pytest.approx(float(posterior.kl_to_standard().mean()), abs=1e-9)
    assert kl.stderr_draws == pytest.approx(0, abs=1e-9)
    assert (elbo.relation, kl.relation, elbo.n_real, elbo.n_draws) == (Relation.LOWER_BOUND, Relation.ESTIMATE, 400, 8)
    assert (found["active_units"].value, found["active_units"].ci_high) == (2, 2)
    with torch.no_grad():
        expected = (model.decode(model.encode(x)) - x).square().mean()
    assert found["reconstruction_error"].value == pytest.approx(float(expected))


def test_a_collapsed_posterior_has_no_kl_and_no_active_units() -> None:
    model = new_model("vae", REALS.spec)
    with torch.no_grad():
        for parameter in model.encoder.network[-1].parameters():  # type: ignore[union-attr,index]
            parameter.zero_()
    # The scale of the posterior is 1 where the raw output is 0, up to the soft bound.
    found = rows(TrainedModel(model, None, 0, ORIGIN), REALS)
    assert found["kl"].value == pytest.approx(0, abs=1e-3)
    assert found["active_units"].value == 0
    assert found["active_units"].stderr == 0


@pytest.mark.parametrize("name", ["vae", "vae_planar", "iwae", "vae_conv"])
def test_rows_of_vaes_have_errors_and_the_same_question_the_same_answer(name: str) -> None:
    data = small_data((1, 8, 8), 4)
    found = rows(trained(name, data), data)
    assert all(row.status is Status.OK and row.stderr is not None for row in found.values())
    assert {row.info.name: row.value for row in rows(trained(name, data), data).values()} == {
        row.info.name: row.value for row in found.values()
    }


@pytest.mark.parametrize(("name", "data"), [("realnvp", REALS), ("realnvp", INTEGERS), ("autoencoder", INTEGERS)])
def test_models_without_a_posterior_have_a_reconstruction_only(name: str, data: Data) -> None:
    found = rows(trained(name, data), data)
    terms = [found.pop(term) for term in ("elbo", "reconstruction", "kl", "active_units")]
    assert all((row.status, row.reason) == (Status.SKIPPED, "the model has no approximate posterior") for row in terms)
    (error,) = found.values()
    assert error.value is not None
    if name == "realnvp":
        assert error.value < 1e-8, "a flow's codes are exact"
    else:
        assert error.value > 1e-4


@pytest.mark.parametrize(
    ("subject", "data", "said"),
    [
        (lambda: trained("dcgan"), REALS, "the model has no latent codes"),
        (
            lambda: TrainedModel(Flow((4,), None, Wrapped(OneWay()), torch.optim.Adam), None, 0, ORIGIN),
            REALS,
            "the model cannot decode: its transform has no inverse",
        ),
        (lambda: KnownDensity(lambda x: x.sum(1), ORIGIN), REALS, "the model has no latent codes"),
        (lambda: GivenSamples(REALS.test.x, 0, ORIGIN), REALS, "only samples are given: they have no latent codes"),
        (lambda: FailedModel(new_model("gaussian", REALS.spec), "diverged", ORIGIN), REALS, "no latent codes"),
    ],
)
def test_what_has_no_codes_is_skipped_with_the_reason(subject: object, data: Data, said: str) -> None:
    assert callable(subject)
    found = rows(subject(), data)
    assert len(found) == 5
    assert all(row.status is Status.SKIPPED for row in found.values())
    assert said in found["reconstruction_error"].reason


def test_a_failed_run_has_failed_rows_where_a_good_one_has_values() -> None:
    found = rows(FailedModel(new_model("vae", REALS.spec), "diverged", ORIGIN), REALS)
    assert all((row.status, row.reason) == (Status.FAILED, "diverged") for row in found.values())


def test_numbers_that_are_not_finite_fail() -> None:
    model = new_model("vae", REALS.spec)
    with torch.no_grad():
        next(model.decoder.parameters()).fill_(math.inf)  # type: ignore[operator,union-attr]
    found = rows(TrainedModel(model, None, 0, ORIGIN), REALS)
    assert "are not finite" in found["elbo"].reason
    assert found["kl"].status is Status.OK
    assert found["reconstruction_error"].status is Status.FAILED
