"""Convolutional networks of autoencoders, the autoencoder itself, and how both train and resume."""

import functools
from pathlib import Path

import pytest
import torch
from helpers_models import new_model, small_data
from torch import Generator, Tensor, nn

from bench.checkpoint import load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.training.fit import fit
from models.base import GenerativeModel, HasLikelihood, HasPosterior
from models.nn.autoencoder import conv_decoder, conv_encoder
from models.transforms.planar import planar_layers
from models.vaes.autoencoder import Autoencoder
from models.vaes.vae import VAE

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
SMALL = {"width": 4, "hidden": 16}


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 8, 12), (3, 64, 64)])
def test_convolutional_networks_fit_the_pictures(shape: tuple[int, int, int]) -> None:
    x, z = torch.randn(2, *shape, generator=seeded(0)), torch.randn(2, 6, generator=seeded(1))
    assert conv_encoder(shape, 5, **SMALL)(x.flatten(1)).shape == (2, 5)
    assert conv_decoder(shape, 6, 3, **SMALL)(z).unflatten(1, (3, *shape)).shape == (2, 3, *shape)


def test_the_pictures_are_halved_as_documented() -> None:
    convolutions = [m for m in conv_encoder((1, 32, 32), 5, width=4, hidden=16) if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [4, 8, 16]
    decoder = conv_decoder((1, 28, 28), 5, 2, width=4, hidden=16)
    assert [m.unflattened_size for m in decoder if isinstance(m, nn.Unflatten)] == [(8, 7, 7)]


def test_a_pixel_depends_on_what_lies_near_it_and_outputs_keep_their_channel() -> None:
    decoder = conv_decoder((3, 8, 8), 4, 2, **SMALL)
    last = decoder[-2]
    assert isinstance(last, nn.Conv2d)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(6.0))
    made = decoder(torch.zeros(1, 4)).unflatten(1, (2, 3, 8, 8))
    assert torch.equal(made[0, :, :, 0, 0], torch.arange(6.0).view(2, 3))
    encoder = conv_encoder((1, 8, 8), 4, **SMALL)
    x = torch.zeros(1, 64, requires_grad=True)
    first = encoder[:2](x)  # one strided convolution
    reached = torch.autograd.grad(first[0, 0, 0, 0], x)[0].view(8, 8) != 0
    assert reached[:3, :3].all()
    assert int(reached.sum()) == 9


@pytest.mark.parametrize("shape", [(1, 6, 6), (1, 5, 7), (3, 9, 8), (4, 4, 4), (12,)])
@pytest.mark.parametrize("make", [conv_encoder, functools.partial(conv_decoder, per_entry=2)])
def test_small_images_and_vectors_are_refused(shape: tuple[int, ...], make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="shape: convolutional networks take images"):
        make(shape, 3)
    with pytest.raises(ValueError, match="width and hidden must be at least 1, not 0 and 4"):
        make((1, 8, 8), 3, width=0, hidden=4)


@pytest.mark.parametrize(("shape", "levels", "output"), [((1, 8, 8), 2, None), ((3, 8, 8), 256, "mixture")])
def test_a_convolutional_vae_can_have_a_flow_posterior(shape: tuple[int, ...], levels: int, output: str | None) -> None:
    encoder, decoder = functools.partial(conv_encoder, **SMALL), functools.partial(conv_decoder, **SMALL)
    flow = functools.partial(planar_layers, layers=2)
    sizes = {"latent_dim": 3, "features": 5, "components": 2}
    model = VAE(shape, levels, ADAM, **sizes, flow=flow, output=output, encoder=encoder, decoder=decoder)
    x = model.sample(6, generator=seeded(0))
    assert x.shape == (6, *shape)
    assert int(x.max()) < levels
    model.training_step((x, None), 0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.log_weight(x, generator=seeded(1)).isfinite().all()


def test_it_has_no_likelihood_and_no_posterior() -> None:
    model = Autoencoder((4,), None, ADAM)
    assert not isinstance(model, HasLikelihood | HasPosterior)
    assert model.family == "autoencoder"


def test_the_moments_of_the_codes_are_weighted_as_the_formula_says() -> None:
    """Against the mean and the covariance of all codes at once, each with the weight of its batch."""
    model = Autoencoder((3,), None, functools.partial(torch.optim.SGD, lr=0.0), latent_dim=2, depth=0, decay=0.8)
    batches = 2 + torch.randn(12, 5, 3, generator=seeded(0))
    batches[:6] += 3
    for batch in batches:
        model.training_step((batch, None), 0)
    rates = [max(0.2, 1 / t) for t in range(1, 13)]
    weights = []
    for t, rate in enumerate(rates):
        later = torch.tensor([1 - r for r in rates[t + 1 :]]).prod()
        weights.append(rate * later)
    share = (torch.stack(weights)[:, None] / 5).expand(12, 5).flatten()  # each code's
    assert float(share.sum()) == pytest.approx(1)
    codes = model.encode(batches.flatten(0, 1)).detach()
    mean = share @ codes
    torch.testing.assert_close(model.code_mean, mean)
    torch.testing.assert_close(model.code_covariance, (share[:, None] * (codes - mean)).T @ (codes - mean))


@pytest.mark.parametrize(("levels", "expected"), [(None, (1 + 9 + 25) / 3), (5, (1 + 0.25 + 1) / 3)])
def test_the_loss_is_the_mean_square_of_what_is_missed(levels: int | None, expected: float) -> None:
    model = Autoencoder((3,), levels, ADAM, latent_dim=2, depth=0)
    for parameter in model.decoder.parameters():
        nn.init.zeros_(parameter)
    x = torch.tensor([[1.0, -3.0, 5.0]]) if levels is None else torch.tensor([[0, 3, 4]], dtype=torch.uint8)
    assert model.training_step((x, None), 0).item() == pytest.approx(expected)


def test_samples_are_decoded_from_the_gaussian_of_the_codes() -> None:
    model = Autoencoder((2,), None, ADAM, latent_dim=2, depth=0)
    covariance = torch.tensor([[2.0, -0.9], [-0.9, 0.5]])
    with torch.no_grad():
        model.decoder[0].weight.copy_(torch.eye(2))
        model.code_mean.copy_(torch.tensor([1.0, -3.0]))
        model.code_covariance.copy_(covariance)
    for temperature in (0.0, 1.0, 2.0):
        x = model.sample(40_000, temperature=temperature, generator=seeded(0))
        torch.testing.assert_close(x.mean(0), model.code_mean, atol=0.05, rtol=0)
        torch.testing.assert_close(x.T.cov(), temperature**2 * covariance, atol=0.05 * (1 + temperature**2), rtol=0)


def test_an_unused_direction_of_the_codes_does_no_harm() -> None:
    model = Autoencoder((2,), None, ADAM, latent_dim=3)
    model.code_covariance.copy_(torch.ones(3, 3))  # of rank 1: a Cholesky factor would not exist
    assert model.sample(4, generator=seeded(0)).isfinite().all()
    assert model.sample(0).shape == (0, 2)


@pytest.mark.parametrize(("shape", "levels"), [((1, 6, 6), 2), ((8,), 256), ((4,), None)])
def test_training_reconstructs(shape: tuple[int, ...], levels: int | None) -> None:
    data = small_data(shape, levels)
    torch.manual_seed(0)
    model = Autoencoder(shape, levels, ADAM, latent_dim=4, hidden=32)
    optimizer = model.configure_optimizers()
    losses = []
    for step in range(150):
        optimizer.zero_grad()
        loss = model.training_step((data.train.x, None), step)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    decoded = model.decode(model.encode(data.train.x))
    assert decoded.dtype == data.train.x.dtype
    assert model.sample(5, generator=seeded(0)).shape == (5, *shape)


@pytest.mark.parametrize("wrong", [{"latent_dim": 0}, {"decay": 1.0}, {"decay": -0.1}])
def test_sizes_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="latent_dim must be at least 1 and decay in"):
        Autoencoder((2,), None, ADAM, **wrong)
    with pytest.raises(ValueError, match="hidden must be at least 1"):
        Autoencoder((2,), None, ADAM, hidden=0)


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(path)["state_dict"]
    return state


@pytest.mark.parametrize("name", ["autoencoder", "autoencoder_conv", "vae_conv", "vae_small", "beta_vae", "iwae"])
def test_a_resumed_run_ends_with_the_same_weights(name: str, tmp_path: Path) -> None:
    """20 steps are 8 and, after the run died at step 12, 12 more: bit for bit, buffers included."""
    data = small_data((1, 8, 8), 256)
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    class KilledError(Exception):
        pass

    def run(folder: Path, seed: int, last: int) -> None:
        calls: list[int] = []

        def validate(model: GenerativeModel) -> float:
            calls.append(1)
            if len(calls) == last:
                raise KilledError
            return -float(len(calls))

        folder.mkdir(exist_ok=True)
        schedule = Schedule(examples=320, batch_size=16, validate_every=64)
        model = new_model(name, data.spec, seed=seed)
        fit(model, data, schedule, Hardware(), seed=5, folder=folder, config={}, validate=validate)

    run(whole, 0, 99)
    with pytest.raises(KilledError):
        run(parts, 0, 3)  # the checkpoint after 128 examples stands; 64 more are lost
    torch.randn(7)
    run(parts, 9, 99)
    first, second = weights(whole / "final.ckpt"), weights(parts / "final.ckpt")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
