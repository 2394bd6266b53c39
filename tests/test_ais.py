"""AIS of decoder models against a linear-Gaussian model, whose likelihood is known; and the Parzen window beside it."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data
from helpers_rows import make_row
from torch import Generator, Tensor

from bench.data.base import Data, Split
from bench.errors import UnavailableError
from bench.evaluation.evaluate import evaluate
from bench.metrics.ais import DecoderAIS
from bench.metrics.annealing import ais_log_weights, gaussian_log_likelihood, on_unit_scale, sigmoid_schedule
from bench.metrics.likelihood import k_draw_bound
from bench.metrics.parzen import MISLEADS, Parzen, parzen_log_densities
from bench.schema import Estimate, Status
from bench.subjects.base import Decoder, Subject
from bench.subjects.examples import Examples
from bench.subjects.trained import FailedModel, TrainedModel
from bench.tables.aggregate import make_table
from bench.tables.notes import notes_of


class Linear(Subject):
    """x = A z + b + noise."""

    origin = ORIGIN

    def __init__(self, dim: int, latent_dim: int, scale: float, seed: int = 0) -> None:
        generator = Generator().manual_seed(seed)
        self.a = scale * torch.randn(dim, latent_dim, generator=generator)
        self.b = torch.randn(dim, generator=generator)

    def decoder(self) -> Decoder:
        return Decoder(self.a.shape[1], lambda z: z @ self.a.T + self.b)

    def draw(self, n: int, sigma: float, seed: int = 1) -> tuple[Tensor, Tensor]:
        """Examples and the codes that they were made of."""
        generator = Generator().manual_seed(seed)
        z = torch.randn(n, self.a.shape[1], generator=generator)
        noise = sigma * torch.randn(n, len(self.b), generator=generator)
        return z @ self.a.T + self.b + noise, z

    def log_prob(self, x: Tensor, sigma: float) -> Tensor:
        covariance = self.a.double() @ self.a.double().T + sigma**2 * torch.eye(len(self.b), dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.b.double(), covariance).log_prob(x.double())


def data_of(x: Tensor) -> Data:
    data = small_data(tuple(x.shape[1:]), None)
    return replace(data, test=Split(x, None))


def run(subject: Subject, data: Data, **options: Any) -> list[Estimate]:
    settings: dict[str, Any] = {
        "sigma": 0.3, "n_examples": 8, "chains": 8, "temperatures": 50, "most_temperatures": 400, "tolerance": 0.1,
    } | options  # fmt: skip
    return evaluate(Examples(subject, data, seed=0), {"ais": DecoderAIS(**settings)})["ais"]


def test_linear_gaussian_likelihood_is_found_and_the_doubling_ends() -> None:
    model = Linear(20, 3, 0.5)
    x, _ = model.draw(8, 0.3)
    value, temperatures, change = run(model, data_of(x))
    assert value.info.name == "ais[sigma=0.3]"
    assert value.value == pytest.approx(float(model.log_prob(x, 0.3).mean()), abs=0.15)
    assert value.stderr is not None
    assert value.stderr > 0
    assert change.value is not None
    assert change.value < 0.1
    assert value.reason == ""
    assert temperatures.value in (100, 200, 400)
    assert (value.n_real, value.n_draws) == (8, 8)


def test_what_has_not_converged_says_so() -> None:
    model = Linear(20, 3, 0.5)
    value, temperatures, _ = run(
        model, data_of(model.draw(4, 0.3)[0]), temperatures=2, most_temperatures=5, tolerance=1e-4
    )
    assert temperatures.value == 4
    assert "not converged" in value.reason


def test_weights_are_unbiased_with_few_temperatures() -> None:
    model = Linear(3, 2, 0.5)
    x, _ = model.draw(1, 0.5)
    likelihood = gaussian_log_likelihood(model.decoder(), x, 0.5, None)
    z = torch.randn(20_000, 1, 2, generator=Generator().manual_seed(0))
    log_w, _, accepted = ais_log_weights(likelihood, z, sigmoid_schedule(5), Generator().manual_seed(1))
    w = (log_w[:, 0] - model.log_prob(x, 0.5)).exp()
    assert abs(float(w.mean()) - 1) < 4 * float(w.std()) / math.sqrt(len(w))
    assert 0.5 < accepted <= 1


def test_chains_from_the_posterior_bound_from_above() -> None:
    """The bidirectional check of Grosse et al. 2015: on simulated data the code is a draw of the posterior."""
    model = Linear(20, 3, 0.5)
    x, z = model.draw(16, 0.3)
    likelihood = gaussian_log_likelihood(model.decoder(), x, 0.3, None)
    betas, generator = sigmoid_schedule(400), Generator().manual_seed(0)
    forward = ais_log_weights(likelihood, torch.randn(8, 16, 3, generator=generator), betas, generator)[0]
    backward = ais_log_weights(likelihood, z[None], betas[::-1], generator)[0]
    exact = float(model.log_prob(x, 0.3).mean())
    assert float(k_draw_bound(forward).mean()) < exact + 0.1
    assert float(-backward.mean()) > exact - 0.1
    assert float(-backward.mean() - k_draw_bound(forward).mean()) < 1


@pytest.mark.slow
def test_linear_gaussian_of_784_dimensions_and_10_codes_within_3_nats() -> None:
    model = Linear(784, 10, 0.4)
    x, _ = model.draw(20, 0.1)
    exact = float(model.log_prob(x, 0.1).mean())
    likelihood = gaussian_log_likelihood(model.decoder(), x, 0.1, None)
    generator = Generator().manual_seed(0)
    z = torch.randn(16, 20, 10, generator=generator)
    found = k_draw_bound(ais_log_weights(likelihood, z, sigmoid_schedule(2000), generator)[0])
    assert exact - 3 < float(found.mean()) < exact + 0.5


@pytest.mark.parametrize("name", ["vae", "dcgan", "wgan"])
@pytest.mark.parametrize("levels", [2, 256])
def test_models_with_a_decoder_have_a_value_on_the_unit_scale(name: str, levels: int) -> None:
    data = small_data((1, 8, 8), levels)
    model = new_model(name, data.spec)
    subject = TrainedModel(model, None, 0, ORIGIN)
    decoder = subject.decoder()
    with torch.no_grad():
        mean = decoder.mean(torch.randn(5, decoder.latent_dim, generator=Generator().manual_seed(0)))
    assert mean.shape == (5, 1, 8, 8)
    assert on_unit_scale(data.test.x, levels).max() <= 1
    value, *_ = run(subject, data, sigma=0.5, temperatures=2, most_temperatures=4, n_examples=2, chains=2)
    assert value.status is Status.OK


def test_the_mean_of_a_vae_rounds_to_what_it_decodes() -> None:
    for levels in (2, 16):
        data = small_data((4,), levels)
        model: Any = new_model("vae", data.spec).eval()
        z = torch.randn(50, model.latent_dim, generator=Generator().manual_seed(0))
        levels_of_mean = ((model.decoder_mean(z) + 1) / 2 * (levels - 1)).round().clamp(0, levels - 1)
        assert torch.equal(levels_of_mean.to(torch.uint8), model.decode(z))


def test_models_without_a_decoder_are_refused_with_a_reason() -> None:
    data = small_data((4,), None)
    subject = TrainedModel(new_model("maf", data.spec), None, 0, ORIGIN)
    found = run(subject, data)
    assert [one.status for one in found] == [Status.SKIPPED] * 3
    assert all("no decoder" in one.reason for one in found)
    with pytest.raises(UnavailableError, match="no decoder"):
        FailedModel(new_model("maf", data.spec), "diverged", ORIGIN).decoder()
    [one, *_] = run(FailedModel(new_model("vae", data.spec), "diverged", ORIGIN), data)
    assert (one.status, one.reason) == (Status.FAILED, "diverged")


@pytest.mark.parametrize(
    "options", [{"sigma": 0}, {"tolerance": 0}, {"chains": 1}, {"n_examples": 1}, {"most_temperatures": 60}]
)
def test_bad_settings_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        run(Linear(3, 2, 0.5), small_data((3,), None), **options)


def test_parzen_is_the_mean_of_normal_windows_and_its_row_says_why_it_misleads() -> None:
    x, samples = torch.randn(2, 3), torch.randn(5, 3)
    windows = torch.distributions.Normal(samples[None], 0.7).log_prob(x[:, None]).sum(2).double()
    found = parzen_log_densities(x, samples, 0.7)
    torch.testing.assert_close(found, windows.logsumexp(1) - math.log(5), atol=1e-4, rtol=1e-5)
    data = small_data((4,), None)
    subject = TrainedModel(new_model("maf", data.spec), None, 0, ORIGIN)
    [one] = evaluate(Examples(subject, data, seed=0), {"parzen": Parzen(0.2, 50)})["parzen"]
    assert one.value is not None
    assert one.reason == MISLEADS
    assert one.info.higher_is_better is None, "it is never ranked"
    assert one.info.name == "parzen[sigma=0.2]"


def test_a_table_shows_what_a_reader_must_know_and_ranks_no_such_value() -> None:
    said = {"metric": "log_likelihood", "metric_title": "log-likelihood", "higher_is_better": True, "unit": "nats"}
    rows = [
        make_row(run_id="a", model="rbm", group="a", value=-80.0, reason="log Z is low", relation="estimate", **said),
        make_row(run_id="b", model="x", group="b", value=-90.0, relation="estimate", **said),
        make_row(run_id="c", model="y", group="c", value=-95.0, relation="estimate", **said),
        make_row(run_id="d", model="x", group="b", metric="parzen[sigma=0.2]", metric_title="Parzen",
                 higher_is_better=None, reason=MISLEADS),
    ]  # fmt: skip
    [section] = make_table(rows).sections
    notes = notes_of(section)
    best = {(section.lines[line].label, cell.best) for (line, _), cell in section.cells.items() if cell.caveat == ""}
    of_caveats = sorted(note for key, cell in section.cells.items() if cell.caveat for note in notes[key])
    assert "not ranked: log Z is low" in of_caveats
    assert MISLEADS in of_caveats
    assert ("x", True) in best
    assert not any(cell.best for cell in section.cells.values() if cell.caveat)


def test_the_error_has_its_part_from_chains_and_its_part_from_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Linear(3, 2, 0.5)
    data = data_of(model.draw(6, 0.3)[0])
    alike = torch.arange(6.0, dtype=torch.float64).expand(8, 6)
    monkeypatch.setattr(DecoderAIS, "_run", lambda *_: alike)
    value, *_ = run(model, data)
    assert value.stderr_draws == pytest.approx(0, abs=1e-9)
    assert value.stderr_test == value.stderr == pytest.approx(math.sqrt(3.5 / 6))
