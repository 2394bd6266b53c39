"""VAE against exact oracles: enumeration, quadrature and a linear-Gaussian model whose likelihood is known."""

import functools
import math
from pathlib import Path

import hydra
import pytest
import torch
from helpers_vae import ADAM, POSTERIORS, linear_gaussian, random_vae, seeded, space, weights
from omegaconf import OmegaConf
from torch import Tensor

from models.base import Autoencodes, HasLikelihood
from models.nn.made import MaskedLinear
from models.transforms.gate import iaf_layers
from models.vaes.vae import VAE


@pytest.mark.parametrize(
    ("shape", "levels", "output"),
    [((1, 1, 2), 4, None), ((1, 2, 2), 2, None), ((3,), 2, None), ((2,), 3, None), ((1, 1, 2), 4, "mixture")],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_masses_sum_to_one(shape: tuple[int, ...], levels: int, output: str | None, seed: int) -> None:
    model = random_vae(shape, levels, seed=seed, output=output)
    totals = weights(model, space(shape, levels), 10_000, seed=7).exp().sum(1)  # (draws,)
    stderr = float(totals.std() / math.sqrt(len(totals)))
    assert stderr < 0.02
    assert abs(float(totals.mean()) - 1) < 4 * stderr


def marginal_by_quadrature(model: VAE, x: Tensor) -> Tensor:
    """log p(x) of a VAE with one latent dimension, from its decoder alone, by the trapezoid rule over z."""
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64).unsqueeze(1)
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z.squeeze(1))
    with torch.no_grad():
        conditional = torch.stack([model.likelihood(z).log_prob(row.expand(len(z), *row.shape)) for row in x])
    return torch.logsumexp(conditional + log_prior + math.log(18 / 2000), 1)


@pytest.mark.parametrize("levels", [2, 4, None])
def test_expected_weight_is_the_marginal_likelihood(levels: int | None) -> None:
    model = random_vae((2,), levels, latent_dim=1, seed=3)
    x = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-0.7, 0.1]], dtype=torch.float64) if levels is None else space((2,), 2)
    w = (weights(model, x, 40_000, seed=5) - marginal_by_quadrature(model, x)).exp()
    stderr = w.std(0) / math.sqrt(len(w))
    assert (stderr < 0.02).all()
    assert ((w.mean(0) - 1).abs() < 4 * stderr).all()


@pytest.mark.parametrize("name", list(POSTERIORS))
def test_a_flow_posterior_leaves_the_marginal_likelihood_alone(name: str) -> None:
    model = random_vae((2,), 4, latent_dim=1, seed=3, flow=POSTERIORS[name])
    if name == "iaf":  # its gates make the posterior narrower: with these scales it is still wider than the prior
        with torch.no_grad():
            model.encoder.network[-1].bias[1] = 2.0
    x = space((2,), 2)
    features = model._posterior(x)[1]
    assert features.shape == (4, 3)
    z0 = torch.zeros(4, 1, dtype=torch.float64)
    moved, log_det = model._through_flow(z0, features)
    assert (moved != z0).all()
    assert log_det.unique().numel() == 4, "each example has its own posterior"
    w = (weights(model, x, 40_000, seed=5) - marginal_by_quadrature(model, x)).exp()
    stderr = w.std(0) / math.sqrt(len(w))
    assert (stderr < 0.03).all()
    assert ((w.mean(0) - 1).abs() < 4 * stderr).all()


def test_masked_weights_of_a_posterior_are_no_parameters() -> None:
    plain, flow = VAE((2,), None, ADAM, latent_dim=3, hidden=8), VAE((2,), None, ADAM, latent_dim=3, hidden=8)
    assert plain.n_parameters == sum(p.numel() for p in flow.parameters())
    model = VAE((2,), None, ADAM, latent_dim=3, hidden=8, flow=functools.partial(iaf_layers, layers=1, hidden=6))
    masked = sum(int((layer.mask == 0).sum()) for layer in model.modules() if isinstance(layer, MaskedLinear))
    assert masked > 0
    assert model.n_parameters == sum(p.numel() for p in model.parameters()) - masked


@pytest.mark.parametrize("name", list(POSTERIORS))
def test_a_flow_posterior_trains_on_its_own_bound(name: str) -> None:
    model = random_vae((2,), 4, latent_dim=1, seed=3, flow=POSTERIORS[name])
    x = space((2,), 4).repeat(200, 1)
    model.train_generator = seeded(0)
    loss = model.training_step((x, None), 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    elbo = model.log_weight(x, generator=seeded(1)).detach()
    nats = -loss.item() * 2 * math.log(2)
    assert nats == pytest.approx(elbo.mean().item(), abs=5 * elbo.std().item() / math.sqrt(len(elbo)))


def test_density_integrates_to_one_in_one_dimension() -> None:
    model = random_vae((1,), None, seed=2)
    x = torch.linspace(-20, 20, 801, dtype=torch.float64).unsqueeze(1)
    totals = torch.trapezoid(weights(model, x, 2000, seed=1).exp(), x.squeeze(1), dim=1)
    stderr = float(totals.std() / math.sqrt(len(totals)))
    assert stderr < 0.01
    assert abs(float(totals.mean()) - 1) < 4 * stderr + 1e-3


def test_density_integrates_to_one_in_two_dimensions() -> None:
    model = random_vae((2,), None, seed=4)
    axis = torch.linspace(-16, 16, 129, dtype=torch.float64)
    totals = weights(model, torch.cartesian_prod(axis, axis), 100, seed=1).exp().sum(1) * 0.25**2
    stderr = float(totals.std() / math.sqrt(len(totals)))
    assert stderr < 0.01
    assert abs(float(totals.mean()) - 1) < 4 * stderr + 1e-3


@pytest.mark.parametrize(("levels", "unit"), [(4, 3 * math.log(2)), (2, 3 * math.log(2)), (None, 1.0)])
def test_training_loss_is_the_expected_negative_log_weight(levels: int | None, unit: float) -> None:
    model = random_vae((3,), levels, seed=1)
    x = torch.tensor([[0, 1, 1], [1, 0, 1]])
    x = x.double() if levels is None else x.to(torch.uint8)
    x = x.repeat(1000, 1)
    differences = []
    for seed in range(50):
        # The same noise in both, so that the reconstruction cancels and only KL against log q - log p is left.
        model.train_generator = seeded(seed)
        with torch.no_grad():
            loss = model.training_step((x, None), 0)
            differences.append(loss + model.log_weight(x, generator=seeded(seed)).mean() / unit)
    difference = torch.stack(differences)
    stderr = float(difference.std() / math.sqrt(len(differences)))
    assert 0 < stderr < 0.02
    assert abs(float(difference.mean())) < 4 * stderr


def test_training_noise_comes_from_the_train_generator() -> None:
    model, x = random_vae((3,), None), torch.zeros(2, 3)
    model.train_generator = seeded(0)
    state = torch.get_rng_state()
    first, second = model.training_step((x, None), 0), model.training_step((x, None), 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first != second
    model.train_generator = seeded(0)
    assert model.training_step((x, None), 0) == first


def test_kl_warm_up_touches_training_only_and_survives_a_checkpoint() -> None:
    x = torch.ones(10, 3)
    model = VAE((3,), None, ADAM, latent_dim=2, hidden=4, kl_warmup=40)
    plain = VAE((3,), None, ADAM, latent_dim=2, hidden=4)
    plain.load_state_dict(model.state_dict())
    kl = model._posterior(x)[0].kl_to_standard().mean().item()

    def losses() -> tuple[float, float]:
        model.train_generator, plain.train_generator = seeded(0), seeded(0)
        return model.training_step((x, None), 0).item(), plain.training_step((x, None), 0).item()

    for weight in (0.0, 0.25, 0.5):
        warm, full = losses()
        assert full - warm == pytest.approx((1 - weight) * kl, abs=1e-4)
    restored = VAE((3,), None, ADAM, latent_dim=2, hidden=4, kl_warmup=40)
    restored.load_state_dict(model.state_dict())
    assert int(restored.examples_trained) == 30
    model = restored
    for weight in (0.75, 1.0, 1.0):
        warm, full = losses()
        assert full - warm == pytest.approx((1 - weight) * kl, abs=1e-4)
    assert torch.equal(model.log_weight(x, generator=seeded(1)), plain.log_weight(x, generator=seeded(1)))


def test_kl_warm_up_counts_the_examples_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = VAE((3,), None, ADAM, latent_dim=2, hidden=4, kl_warmup=40)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    model.training_step((torch.ones(5, 3), None), 0)
    assert int(model.examples_trained) == 20


@pytest.mark.parametrize("levels", [2, 3])
def test_samples_follow_the_model_not_its_means(levels: int) -> None:
    model = random_vae((2,), levels, latent_dim=1, seed=6)
    points = space((2,), levels)
    masses = marginal_by_quadrature(model, points).exp()
    draws = model.sample(20_000, generator=seeded(8))
    cells = draws[:, 0].long() * levels + draws[:, 1].long()
    frequencies = torch.bincount(cells, minlength=len(points)) / len(draws)
    chi_square = float((len(draws) * (frequencies - masses) ** 2 / masses).sum())
    # The 99.9 % point of chi-square with 3 and with 8 degrees of freedom.
    assert chi_square < {2: 16.27, 3: 26.12}[levels]


def test_temperature_scales_the_latent_noise_and_leaves_the_output_noise() -> None:
    model, _ = linear_gaussian(0.0, 1.0)
    for temperature in (0.0, 0.5, 1.0):
        covariance = torch.cov(model.sample(40_000, temperature=temperature, generator=seeded(1)).T)
        w = dict(model.decoder.named_parameters())["0.weight"].detach()[:3]  # (3, 2)
        expected = temperature**2 * w @ w.T + 0.25 * torch.eye(3)
        torch.testing.assert_close(covariance, expected, rtol=0, atol=0.04)


@pytest.mark.parametrize(("shape", "levels"), [((1, 28, 28), 256), ((3, 5, 4), 32), ((1, 1, 2), 2), ((4,), None)])
def test_contract(shape: tuple[int, ...], levels: int | None) -> None:
    model = VAE(shape, levels, ADAM, latent_dim=3, hidden=16)
    assert isinstance(model, HasLikelihood)
    assert isinstance(model, Autoencodes)
    assert model.family == "vae"
    assert model.relation == "lower_bound"
    state = torch.get_rng_state()
    x = model.sample(1100, generator=seeded(0))  # more than one chunk
    assert torch.equal(x, model.sample(1100, generator=seeded(0)))
    assert not torch.equal(x, model.sample(1100, generator=seeded(1)))
    assert x.shape == (1100, *shape)
    assert x.dtype == model.data_dtype
    assert levels is None or int(x.max()) < levels
    z = model.encode(x[:5], generator=seeded(2))
    assert torch.equal(z, model.encode(x[:5]))
    assert z.shape == (5, 3)
    decoded = model.decode(z)
    assert decoded.shape == (5, *shape)
    assert decoded.dtype == model.data_dtype
    log_w = model.log_weight(x[:5], generator=seeded(3))
    assert log_w.shape == (5,)
    assert torch.isfinite(log_w).all()
    assert torch.equal(torch.get_rng_state(), state)
    model.training_step((x[:5], None), 0).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.sample(0).shape == (0, *shape)


def test_training_learns_a_binary_pattern() -> None:
    torch.manual_seed(0)
    patterns = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]], dtype=torch.uint8)
    model = VAE((8,), 2, functools.partial(torch.optim.Adam, lr=1e-2), latent_dim=1, hidden=16)
    model.train_generator = seeded(0)
    optimizer = model.configure_optimizers()
    x = patterns.repeat(32, 1)
    for step in range(300):
        optimizer.zero_grad()
        loss = model.training_step((x, None), step)
        loss.backward()
        optimizer.step()
    bits = -float((torch.logsumexp(weights(model, patterns, 500, seed=1), 0) - math.log(500)).mean()) / math.log(2)
    # The entropy of the data is 1 bit, and no code is shorter; without a latent variable 8 bits are the least.
    assert 1 - 0.01 < bits < 1.5


@pytest.mark.parametrize("wrong", [{"latent_dim": 0}, {"hidden": 0}, {"depth": -1}, {"kl_warmup": -1}])
def test_sizes_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="latent_dim, hidden and features must be at least 1"):
        VAE((2,), None, ADAM, **wrong)


def test_yaml_builds_the_paper_model() -> None:
    path = Path(__file__).parents[1] / "conf" / "model" / "vae.yaml"
    assert path.read_text().startswith("# ")
    model = hydra.utils.instantiate(OmegaConf.load(path), shape=(1, 28, 28), levels=2)
    sizes = [tuple(p.shape) for p in model.encoder.parameters() if p.dim() == 2]
    assert sizes == [(200, 784), (200, 200), (100, 200)]
    group = model.configure_optimizers().param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.9, 0.999), 1e-8)
