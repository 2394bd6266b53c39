"""Networks of GANs: sizes and initial weights of the papers, maxout, packing, and settings that are refused."""

from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from helpers_gans import CRITICS, dcgan, gan, seeded, sngan, wgan, wgan_gp
from omegaconf import OmegaConf
from torch import nn

from bench.config.compose import compose_runs
from models.gans.adversarial import pack
from models.nn.dcgan import discriminator_network, generator_network
from models.nn.dense_gan import Maxout

CONF = Path(__file__).parents[1] / "conf" / "model"


@pytest.mark.parametrize(("shape", "smallest"), [((1, 28, 28), 7), ((3, 32, 32), 4), ((3, 64, 64), 4), ((1, 6, 6), 3)])
def test_networks_start_from_the_smallest_picture(shape: tuple[int, ...], smallest: int) -> None:
    generator, discriminator = generator_network(shape, 5, 2, bounded=True), discriminator_network(shape, 2)
    assert [m.unflattened_size[1:] for m in generator if isinstance(m, nn.Unflatten)] == [(smallest, smallest)]
    x = generator(torch.randn(3, 5, generator=seeded(0)))
    assert x.shape == (3, *shape)
    assert x.abs().max() <= 1
    assert discriminator(x).shape == (3,)


def test_initial_weights_are_the_paper_ones() -> None:
    network = generator_network((3, 32, 32), 100, 32, bounded=True)
    convolutions = [m.weight.detach() for m in network if isinstance(m, nn.ConvTranspose2d)]
    assert len(convolutions) == 3
    assert all(abs(float(w.std()) - 0.02) < 0.002 and abs(float(w.mean())) < 0.002 for w in convolutions)


@pytest.mark.parametrize("shape", [(4, 4), (), (0, 8, 8)])
def test_shapes_that_are_no_image_and_no_vector_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a shape"):
        dcgan(shape)


@pytest.mark.parametrize(
    ("make", "wrong", "said"),
    [
        (wgan, {"clip": 0.0}, "clip must be above 0, not 0.0"),
        (wgan, {"clip": float("nan")}, "clip must be above 0"),
        (wgan, {"n_critic": 0}, "n_critic must be at least 1, not 0"),
        (wgan_gp, {"n_critic": 0}, "n_critic must be at least 1, not 0"),
        (wgan_gp, {"penalty": 0.0}, "penalty must be above 0, not 0.0"),
        (dcgan, {"n_discriminator": 0}, "n_discriminator must be at least 1, not 0"),
        (sngan, {"n_discriminator": -1}, "n_discriminator must be at least 1, not -1"),
        (dcgan, {"width": 0}, "width must be at least 1, not 0"),
        (gan, {"latent_dim": 0}, "latent_dim must be at least 1, not 0"),
        (gan, {"generator_hidden": 0}, "generator_hidden must be at least 1, not 0"),
        (gan, {"discriminator_depth": -1}, "discriminator_depth must be at least 0, not -1"),
        (gan, {"pieces": 0}, "pieces must be at least 1, not 0"),
        (gan, {"packing": 0}, "packing must be at least 1, not 0"),
        (gan, {"objective": "logistic"}, "objective 'logistic': there are saturating"),
        (gan, {"schedule": "slow"}, "schedule 'slow': there are fixed"),
        (gan, {"schedule": "best_response"}, "n_discriminator must be at least 20 with schedule=best_response"),
        (gan, {"conditional": True}, "needs data with class labels"),
        (dcgan, {"network": "deep"}, "network 'deep': there are auto"),
        (dcgan, {"network": "convolutional", "shape": (1, 4, 4)}, "network=convolutional needs images whose height"),
        (wgan, {"network": "convolutional", "shape": (1, 5, 7)}, "network=convolutional needs images whose height"),
        (sngan, {"network": "convolutional", "shape": (3,)}, "network=convolutional needs images whose height"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make: Any, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(**wrong)


PAPERS: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "dcgan": (torch.optim.Adam, {"lr": 2e-4, "betas": [0.5, 0.999]}, {"latent_dim": 100, "clip": None}),
    "wgan": (torch.optim.RMSprop, {"lr": 5e-5}, {"latent_dim": 100, "clip": 0.01}),
    "wgan_gp": (torch.optim.Adam, {"lr": 1e-4, "betas": [0.5, 0.9]}, {"penalty": 10.0, "clip": None}),
    "sngan": (torch.optim.Adam, {"lr": 2e-4, "betas": [0.5, 0.999]}, {"latent_dim": 128}),
    "pacgan": (torch.optim.Adam, {"lr": 1e-4, "betas": [0.8, 0.999]}, {"latent_dim": 2, "packing": 4}),
    "pacdcgan": (torch.optim.Adam, {"lr": 2e-4, "betas": [0.5, 0.999]}, {"latent_dim": 100, "packing": 2}),
}


@pytest.mark.parametrize("name", list(PAPERS))
def test_yaml_builds_the_paper_model(name: str) -> None:
    optimizer, settings, attributes = PAPERS[name]
    model: Any = hydra.utils.instantiate(compose_runs([f"model={name}"])[0]["model"], shape=(1, 28, 28), levels=256)
    optimizers = model.configure_optimizers()
    assert [type(o) for o in optimizers] == [optimizer, optimizer]
    owned = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    for made in optimizers:
        defaults = {key: made.defaults[key] for key in settings}
        assert {key: list(value) if key == "betas" else value for key, value in defaults.items()} == settings
    assert {key: getattr(model, key) for key in attributes} == attributes
    assert [model.kind_of_step(t) for t in range(5)] == ([0, 0, 0, 0, 1] if name in CRITICS else [1] * 5)


def test_pacgan_has_the_sizes_of_the_paper() -> None:
    torch.manual_seed(0)
    yaml = OmegaConf.to_container(OmegaConf.load(CONF / "pacgan.yaml"))
    assert isinstance(yaml, dict)
    names = ("generator_hidden", "generator_depth", "discriminator_hidden", "discriminator_depth", "pieces", "packing")
    assert [yaml[key] for key in names] == [400, 4, 200, 3, 5, 4]
    model = gan((2,), None, **{key: yaml[key] for key in (*names, "latent_dim")})
    assert [tuple(m.weight.shape) for m in model.generator if isinstance(m, nn.Linear)] == [
        (400, 2), (400, 400), (400, 400), (400, 400), (2, 400),
    ]  # fmt: skip
    assert sum(isinstance(m, nn.BatchNorm1d) for m in model.generator) == 4
    maxouts = [m.linear.weight for m in model.discriminator if isinstance(m, Maxout)]
    assert [tuple(weight.shape) for weight in maxouts] == [(1000, 8), (1000, 200), (1000, 200)]
    assert all(abs(float(weight.detach().std()) - 0.02) < 0.001 for weight in maxouts)


def test_a_maxout_unit_is_the_largest_of_its_maps() -> None:
    torch.manual_seed(0)
    layer, x = Maxout(3, 4, pieces=5), torch.randn(6, 3)
    weight, bias = layer.linear.weight.view(4, 5, 3), layer.linear.bias.view(4, 5)
    expected = torch.stack([(x @ weight[:, i].T + bias[:, i]) for i in range(5)]).max(0).values
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("shape", [(5,), (3, 2, 2)])
def test_packing_joins_examples_along_their_first_dimension(shape: tuple[int, ...]) -> None:
    x = torch.randn(6, *shape)
    packed = pack(x, 3)
    assert torch.equal(packed, torch.stack([torch.cat(list(x[:3])), torch.cat(list(x[3:]))]))
    assert pack(x, 1).shape == x.shape
