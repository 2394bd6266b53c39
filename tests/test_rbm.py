"""The RBM against enumeration: its normalizer, its masses, its gradients, its chains."""

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_density import all_examples, randomize, resumed_to_the_same_bits
from helpers_metrics import ORIGIN
from helpers_models import small_data
from torch import Generator, Tensor

from bench.chunks import CHUNK, draw_log_weights
from bench.evaluation.evaluate import evaluate
from bench.metrics.likelihood import LogLikelihood
from bench.subjects.examples import Examples
from bench.subjects.trained import TrainedModel
from models.energy.rbm import RBM

SGD = functools.partial(torch.optim.SGD, lr=0.05)
D = 6


def random_rbm(std: float = 1.0, **options: Any) -> RBM:
    model = RBM((D,), 2, SGD, **{"hidden": 5, "sample_steps": 50} | options)
    randomize(model, std)
    return model.double().eval()


def every() -> Tensor:
    return all_examples((D,), 2).double()


def log_z(model: RBM) -> float:
    """By summing over all v and h, from the energy."""
    total = []
    for h in itertools.product([0.0, 1.0], repeat=len(model.hidden_bias)):
        hidden = torch.tensor(h, dtype=torch.float64)
        total.append(every() @ (model.visible_bias + hidden @ model.weight) + hidden @ model.hidden_bias)
    return float(torch.cat(total).detach().logsumexp(0))


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_ais_finds_the_normalizer_of_an_enumerable_machine(std: float) -> None:
    model = random_rbm(std, ais_chains=500, ais_temperatures=500)
    model.ones += torch.tensor([5.0, 1, 9, 3, 7, 2], dtype=torch.float64)
    model.seen += 10
    found = float(model.log_normalizer(generator=Generator().manual_seed(0)))
    assert found == pytest.approx(log_z(model), abs=0.05)


@pytest.mark.parametrize("temperatures", [1, 3])
def test_weights_of_chains_are_unbiased_with_few_temperatures_and_their_logarithm_is_too_low(temperatures: int) -> None:
    model = random_rbm(1.0, ais_chains=40_000, ais_temperatures=temperatures)
    log_w = model.ais(Generator().manual_seed(0)) - log_z(model)
    w = log_w.exp()
    assert abs(float(w.mean()) - 1) < 4 * float(w.std()) / math.sqrt(len(w))
    assert float(log_w.mean()) < -0.05


def test_free_energy_sums_out_the_hidden_units_and_the_masses_sum_to_one() -> None:
    model = random_rbm()
    with torch.no_grad():
        masses = (model.log_unnormalized(all_examples((D,), 2)) - log_z(model)).exp()
    assert float(masses.sum()) == pytest.approx(1, abs=1e-9)


def test_gradient_of_the_free_energy_is_that_of_autograd() -> None:
    model = random_rbm()
    v = every()[:7]
    model.free_energy(v).sum().backward()
    h = torch.sigmoid(v @ model.weight.T + model.hidden_bias)
    torch.testing.assert_close(model.weight.grad, -(h.T @ v))
    torch.testing.assert_close(model.hidden_bias.grad, -h.sum(0))
    torch.testing.assert_close(model.visible_bias.grad, -v.sum(0))


@pytest.mark.parametrize("persistent", [False, True])
def test_long_chains_give_the_gradient_of_the_likelihood(persistent: bool) -> None:
    """With many Gibbs steps both estimators have the exact gradient as their expectation."""
    model = random_rbm(0.5, cd_steps=40, persistent=persistent, chains=4000)
    model.train_generator = Generator().manual_seed(1)
    data = all_examples((D,), 2)[[3, 17, 40, 41]].repeat(1000, 1)
    p = (-model.free_energy(every()) - log_z(model)).exp()
    exact = model.free_energy(data.double()).mean() - (p.detach() * model.free_energy(every())).sum()
    wanted = torch.autograd.grad(exact, list(model.parameters()))
    found = torch.autograd.grad(model.training_step((data, None), 0), list(model.parameters()))
    assert max(float(a.abs().max()) for a in wanted) > 0.1, "a gradient of zero would show nothing"
    for name, a, b in zip(["weight", "visible", "hidden"], wanted, found, strict=True):
        assert float((a - b).abs().max()) < 5 * 0.5 / math.sqrt(4000), name


def test_samples_have_the_masses() -> None:
    model = random_rbm(0.5)
    samples = model.sample(20_000, generator=Generator().manual_seed(0)).long()
    counts = torch.bincount((samples * 2 ** torch.arange(D - 1, -1, -1)).sum(1), minlength=2**D)
    masses = (model.log_unnormalized(all_examples((D,), 2)) - log_z(model)).exp().detach()
    error = (masses * (1 - masses) / 20_000).sqrt()
    assert float(((counts / 20_000 - masses) / error).abs().max()) < 5


@pytest.mark.parametrize("persistent", [False, True])
def test_the_base_rate_is_that_of_the_data_seen_in_training(persistent: bool) -> None:
    model = random_rbm(persistent=persistent, chains=5)
    model.train_generator = Generator().manual_seed(0)
    x = all_examples((D,), 2)[40:]
    for batch in (x[:3], x[3:]):
        model.training_step((batch, None), 0)
    assert torch.equal(model.ones, x.double().sum(0))
    assert model.seen == len(x)
    expected = (x.double().sum(0) + 1) / (len(x) + 2)
    torch.testing.assert_close(model._base_rate().sigmoid(), expected)


def test_samples_start_at_the_base_rate() -> None:
    """In a machine whose hidden units copy the visible ones and hold them for ever."""
    model = RBM((D,), 2, SGD, hidden=D, sample_steps=3).double().eval()
    with torch.no_grad():
        model.weight.copy_(80 * torch.eye(D))
        model.visible_bias.fill_(-40)
        model.hidden_bias.fill_(-40)
    model.ones += torch.tensor([0.0, 1, 9, 3, 7, 10], dtype=torch.float64)
    model.seen += 10
    found = model.sample(20_000, generator=Generator().manual_seed(0)).double().mean(0)
    assert (found - (model.ones + 1) / 12).abs().max() < 4 * 0.5 / math.sqrt(20_000)


def test_persistent_chains_are_taken_in_turn_and_move() -> None:
    model = random_rbm(persistent=True, chains=5)
    model.train_generator = Generator().manual_seed(0)
    x = all_examples((D,), 2)
    model.training_step((x[:3], None), 0)
    assert int(model.turn) == 3
    assert (model.chains[:3] != 0).any()
    assert (model.chains[3:] == 0).all()
    model.training_step((x[:3], None), 0)
    assert (model.chains[3:] != 0).any()
    model.training_step((x, None), 0)  # a batch larger than the chains takes each once
    assert int(model.turn) == 11


@pytest.mark.parametrize("persistent", [False, True])
def test_resumed_training_gives_the_same_bits(persistent: bool, tmp_path: Path) -> None:
    def new(seed: int) -> RBM:
        torch.manual_seed(seed)
        return RBM((1, 3, 3), 2, SGD, hidden=4, persistent=persistent, chains=16, ais_chains=4, ais_temperatures=5)

    assert resumed_to_the_same_bits(new, small_data((1, 3, 3), 2), tmp_path)


def test_the_normalizer_is_estimated_once_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_rbm(ais_chains=5, ais_temperatures=5)
    calls: list[int] = []
    whole = model.ais
    monkeypatch.setattr(model, "ais", lambda generator: calls.append(1) or whole(generator))
    x = torch.zeros(2 * CHUNK + 1, D, dtype=torch.uint8)
    log_w = draw_log_weights(model, x, torch.device("cpu"), Generator().manual_seed(0))
    assert len(calls) == 1
    assert len(log_w.unique()) == 1
    assert len(log_w) == len(x)


def test_rows_say_that_the_likelihood_is_biased() -> None:
    data = small_data((D,), 2)
    subject = TrainedModel(random_rbm(ais_chains=5, ais_temperatures=5), None, 0, ORIGIN)
    found = evaluate(Examples(subject, data, seed=0), {"likelihood": LogLikelihood(4)})["likelihood"]
    assert [estimate.relation for estimate in found[:2]] == ["estimate", "estimate"]
    assert all("biased upwards" in estimate.reason for estimate in found[:2])


@pytest.mark.parametrize("levels", [None, 3, 256])
def test_data_that_are_not_binary_are_refused(levels: int | None) -> None:
    with pytest.raises(ValueError, match="levels"):
        RBM((D,), levels, SGD)


@pytest.mark.parametrize("name", ["hidden", "cd_steps", "chains", "sample_steps", "ais_chains", "ais_temperatures"])
def test_sizes_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RBM((D,), 2, SGD, **{name: 0})


def test_half_precision_changes_no_draw_and_no_loss() -> None:
    x = (torch.rand(16, D, generator=Generator().manual_seed(1)) < 0.3).to(torch.uint8)
    losses = []
    for enabled in (False, True):
        model = random_rbm(2.0, chains=16).float()
        model.train_generator = Generator().manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append((model.training_step((x, None), 0), model.chains.clone()))
    assert losses[1][0].dtype == torch.float32
    assert torch.equal(losses[0][0], losses[1][0])
    assert torch.equal(losses[0][1], losses[1][1])
