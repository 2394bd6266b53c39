"""GANs under a Lightning trainer: who is updated when, by what, and what a checkpoint brings back."""

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Generator, Tensor, nn
from torch.nn import functional

from bench.config.compose import compose_runs
from models.base import Batch
from models.gans.adversarial import Adversarial, pack
from models.gans.dcgan import DCGAN
from models.gans.gan import GAN
from models.gans.objectives import OBJECTIVES
from models.gans.sngan import SNGAN
from models.gans.wgan import WGAN
from models.gans.wgan_gp import WGANGP
from models.nn.dcgan import discriminator_network, generator_network
from models.nn.dense_gan import Maxout

# Lightning's own loader code, with torch 2.13.
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")

ADAM = functools.partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))
RMSPROP = functools.partial(torch.optim.RMSprop, lr=5e-5)
SGD = functools.partial(torch.optim.SGD, lr=0.1)

CONF = Path(__file__).parents[1] / "conf" / "model"

SHAPES: list[tuple[tuple[int, ...], int | None]] = [
    ((1, 28, 28), 256),
    ((3, 32, 32), 32),
    ((2, 12, 8), None),
    ((1, 1, 2), 4),
    ((1, 7, 5), 2),
    ((2,), None),
    ((3,), 8),
]


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


Shape = tuple[int, ...]


def dcgan(shape: Shape = (1, 8, 8), levels: int | None = 256, optimizer: Any = ADAM, **kw: Any) -> DCGAN:
    torch.manual_seed(0)
    return DCGAN(shape, levels, optimizer, optimizer, **{"latent_dim": 6, "width": 4} | kw)


def wgan(shape: Shape = (1, 8, 8), levels: int | None = 256, optimizer: Any = RMSPROP, **kw: Any) -> WGAN:
    torch.manual_seed(0)
    return WGAN(shape, levels, optimizer, optimizer, **{"latent_dim": 6, "width": 4} | kw)


def wgan_gp(shape: Shape = (1, 8, 8), levels: int | None = 256, optimizer: Any = ADAM, **kw: Any) -> WGANGP:
    torch.manual_seed(0)
    return WGANGP(shape, levels, optimizer, optimizer, **{"latent_dim": 6, "width": 4} | kw)


def sngan(shape: Shape = (1, 8, 8), levels: int | None = 256, optimizer: Any = ADAM, **kw: Any) -> SNGAN:
    torch.manual_seed(0)
    return SNGAN(shape, levels, optimizer, optimizer, **{"latent_dim": 6, "width": 4} | kw)


def gan(shape: Shape = (1, 8, 8), levels: int | None = 256, optimizer: Any = ADAM, **kw: Any) -> GAN:
    torch.manual_seed(0)
    sizes = {"latent_dim": 6, "generator_hidden": 8, "discriminator_hidden": 8}
    return GAN(shape, levels, optimizer, optimizer, **sizes | kw)


GANS: dict[str, Callable[..., Adversarial]] = {
    "gan": gan,
    "dcgan": dcgan,
    "wgan": wgan,
    "wgan_gp": wgan_gp,
    "sngan": sngan,
    "pacgan": functools.partial(gan, packing=2, pieces=3),
    "pacdcgan": functools.partial(dcgan, packing=2),
    "conditional": functools.partial(dcgan, classes=3, conditional=True, packing=2),
}
CRITICS = ("wgan", "wgan_gp")  # which take n_critic


class Batches:
    """A loader of fixed batches."""

    def __init__(self, model: Adversarial, start: int, stop: int, size: int = 4) -> None:
        self.model, self.start, self.stop, self.size = model, start, stop, size

    def __iter__(self) -> Iterator[Batch]:
        for i in range(self.start, self.stop):
            shape = (self.size, *self.model.shape)
            y = (torch.arange(self.size) + i) % 3 if self.model.classes else None
            if self.model.levels is None:
                yield torch.randn(shape, generator=seeded(i)), y
            else:
                yield torch.randint(0, self.model.levels, shape, generator=seeded(i), dtype=torch.uint8), y

    def __len__(self) -> int:
        return self.stop - self.start


class Recorder(Callback):
    """Copies of both networks before and after every batch, and what the steps returned."""

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.outputs: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, model: LightningModule, batch: Any, batch_idx: int) -> None:
        self.before.append(copy.deepcopy(dict(model.named_parameters())))

    def on_train_batch_end(
        self, trainer: Trainer, model: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.after.append(copy.deepcopy(dict(model.named_parameters())))
        self.outputs.append(outputs)

    def moved(self, step: int, network: str) -> bool:
        pairs = [(self.before[step][k], v) for k, v in self.after[step].items() if k.startswith(f"{network}.")]
        return any(not torch.equal(old, new) for old, new in pairs)


def fit(
    model: Adversarial, start: int, stop: int, *, epochs: int = 1, resume: Path | None = None
) -> tuple[Trainer, Recorder]:
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder],
    )
    trainer.fit(model, Batches(model, start, stop), ckpt_path=resume)
    return trainer, recorder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_dcgan_steps_both_networks_on_every_batch() -> None:
    model = dcgan()
    trainer, recorder = fit(model, 0, 3)
    assert (int(model.generator_steps), int(model.discriminator_steps)) == (3, 3)
    assert trainer.global_step == 6  # which is why the model keeps its own counters
    assert all(recorder.moved(i, "generator") and recorder.moved(i, "discriminator") for i in range(3))


def test_wgan_steps_the_generator_on_every_third_batch() -> None:
    model = wgan(n_critic=3)
    _, recorder = fit(model, 0, 8)
    assert (int(model.generator_steps), int(model.discriminator_steps)) == (2, 8)
    assert [recorder.moved(i, "generator") for i in range(8)] == [False, False, True, False, False, True, False, False]
    assert all(recorder.moved(i, "discriminator") for i in range(8))


def test_wgan_clips_every_critic_parameter_after_each_step_and_no_other() -> None:
    model = wgan((1, 16, 16), clip=0.01, n_critic=2)
    largest = max(float(p.detach().abs().max()) for p in model.discriminator.parameters())
    assert largest > 0.5  # batch normalization starts at 1: without clipping the test below would fail
    _, recorder = fit(model, 0, 3)
    for after in recorder.after:
        assert max(float(p.detach().abs().max()) for k, p in after.items() if k.startswith("discriminator.")) <= 0.01
        assert max(float(p.detach().abs().max()) for k, p in after.items() if k.startswith("generator.")) > 0.5


def test_wgan_clips_biases_too() -> None:
    model = wgan((1, 16, 16), clip=0.01)
    with torch.no_grad():
        for parameter in model.discriminator.parameters():
            parameter.fill_(0.5)
    fit(model, 0, 1)
    assert any(name.endswith("bias") for name, _ in model.discriminator.named_parameters())
    assert max(float(p.detach().abs().max()) for p in model.discriminator.parameters()) <= 0.01


def replay_noise(model: Adversarial, seed: int, draws: int, size: int = 4) -> list[Tensor]:
    generator = seeded(seed)
    return [torch.randn(size, model.latent_dim, generator=generator) for _ in range(draws)]


def test_dcgan_step_equals_the_published_losses_by_hand() -> None:
    model = dcgan(optimizer=SGD)
    reference = copy.deepcopy(model)
    model.train_generator = seeded(9)
    _, recorder = fit(model, 0, 1)

    real = next(iter(Batches(model, 0, 1)))[0].float() / 127.5 - 1
    (z,) = replay_noise(model, 9, 1)
    g, d = reference.generator, reference.discriminator
    fake = g(z)
    loss_d = functional.binary_cross_entropy_with_logits(d(real), torch.ones(4))
    loss_d = loss_d + functional.binary_cross_entropy_with_logits(d(fake.detach()), torch.zeros(4))
    d_parameters = list(d.parameters())
    with torch.no_grad():
        for p, gradient in zip(d_parameters, torch.autograd.grad(loss_d, d_parameters), strict=True):
            p.sub_(0.1 * gradient)
    loss_g = functional.binary_cross_entropy_with_logits(d(fake), torch.ones(4))
    g_parameters = list(g.parameters())
    with torch.no_grad():
        for p, gradient in zip(g_parameters, torch.autograd.grad(loss_g, g_parameters), strict=True):
            p.sub_(0.1 * gradient)
    for k, expected in reference.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[k], expected, rtol=1e-5, atol=1e-6)
    output = recorder.outputs[0]
    torch.testing.assert_close(output["discriminator_loss"], loss_d.detach())
    torch.testing.assert_close(output["generator_loss"], loss_g.detach())
    assert torch.equal(output["loss"], output["discriminator_loss"])


def test_wgan_steps_equal_algorithm_1_by_hand() -> None:
    model = wgan(optimizer=SGD, clip=0.05, n_critic=2)
    reference = copy.deepcopy(model)
    model.train_generator = seeded(9)
    _, recorder = fit(model, 0, 2)

    noise = replay_noise(model, 9, 3)
    g, f = reference.generator, reference.discriminator
    f_parameters, g_parameters = list(f.parameters()), list(g.parameters())
    for step, (x, _) in enumerate(Batches(model, 0, 2)):
        wasserstein = f(x.float() / 127.5 - 1).mean() - f(g(noise[step]).detach()).mean()
        torch.testing.assert_close(recorder.outputs[step]["loss"], -wasserstein.detach(), rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            for p, gradient in zip(f_parameters, torch.autograd.grad(wasserstein, f_parameters), strict=True):
                p.add_(0.1 * gradient)
                p.clamp_(-0.05, 0.05)
    loss_g = -f(g(noise[2])).mean()
    torch.testing.assert_close(recorder.outputs[1]["generator_loss"], loss_g.detach(), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        for p, gradient in zip(g_parameters, torch.autograd.grad(loss_g, g_parameters), strict=True):
            p.sub_(0.1 * gradient)
    for k, expected in reference.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[k], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(GANS))
def test_generator_step_leaves_no_gradient_in_the_adversary(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GANS[name](**({"n_critic": 1} if name in CRITICS else {}))
    backward = LightningModule.manual_backward
    changes: list[tuple[bool, bool]] = []

    def spy(self: LightningModule, loss: Tensor) -> None:
        networks = [model.generator, model.discriminator]
        before = [[None if p.grad is None else p.grad.clone() for p in network.parameters()] for network in networks]
        backward(self, loss)
        touched = []
        for network, old in zip(networks, before, strict=True):
            pairs = zip(old, [p.grad for p in network.parameters()], strict=True)
            touched.append(any(b is not None and (a is None or not torch.equal(a, b)) for a, b in pairs))
        changes.append((touched[0], touched[1]))

    monkeypatch.setattr(LightningModule, "manual_backward", spy)
    fit(model, 0, 2)
    assert changes == [(False, True), (True, False)] * 2
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(("shape", "levels"), SHAPES)
@pytest.mark.parametrize("name", list(GANS))
def test_contract(name: str, shape: tuple[int, ...], levels: int | None) -> None:
    model = GANS[name](shape, levels, **({"n_critic": 2} if name in CRITICS else {}))
    model.train_generator = seeded(0)
    assert model.family == "gan"
    _, recorder = fit(model, 0, 2)
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
    for network in (model.generator, model.discriminator):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    for output in recorder.outputs:
        assert set(output) - {"gradient_penalty"} == {"loss", "generator_loss", "discriminator_loss"}
        assert ("gradient_penalty" in output) == (name == "wgan_gp")
        assert all(v.dim() == 0 and torch.isfinite(v) and not v.requires_grad for v in output.values())

    model.eval()
    state = torch.get_rng_state()
    x = model.sample(50, generator=seeded(1))
    assert torch.equal(x, model.sample(50, generator=seeded(1)))
    assert not torch.equal(x, model.sample(50, generator=seeded(2)))
    assert torch.equal(torch.get_rng_state(), state)
    assert x.shape == (50, *shape)
    assert x.dtype == model.data_dtype
    assert levels is None or int(x.max()) < levels
    assert model.sample(0).shape == (0, *shape)
    assert model.averaged() is model.generator


@pytest.mark.parametrize("name", list(GANS))
def test_training_noise_comes_from_the_train_generator(name: str) -> None:
    states = []
    for seed in (0, 0, 1):
        model = GANS[name]()
        model.train_generator = seeded(seed)
        state = torch.get_rng_state()
        fit(model, 0, 1)
        assert torch.equal(torch.get_rng_state(), state)
        states.append(torch.cat([p.detach().flatten() for p in model.discriminator.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", list(GANS))
def test_resuming_is_bit_exact_and_keeps_the_phase(name: str, tmp_path: Path) -> None:
    kw = {"n_critic": 3} if name in CRITICS else {}
    whole = GANS[name](**kw)
    whole.train_generator = seeded(3)
    fit(whole, 0, 10)

    first = GANS[name](**kw)
    first.train_generator = seeded(3)
    trainer, _ = fit(first, 0, 4)  # in the middle of the second round of critic steps
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = GANS[name](**kw)
    second.train_generator = first.train_generator
    fit(second, 4, 10, epochs=2, resume=tmp_path / "half.ckpt")

    assert int(second.generator_steps) == (3 if name in CRITICS else 10)
    expected = whole.state_dict()
    assert set(second.state_dict()) == set(expected)
    for k, v in second.state_dict().items():
        assert torch.equal(v, expected[k]), k


@pytest.mark.parametrize("name", list(GANS))
def test_clip_norm_bounds_each_step(name: str) -> None:
    model = GANS[name](
        optimizer=functools.partial(torch.optim.SGD, lr=1.0), **({"clip": 100.0} if name == "wgan" else {})
    )
    model.clip_norm = 1e-3
    _, recorder = fit(model, 0, 5)
    for network in ("generator", "discriminator"):
        for before, after in zip(recorder.before, recorder.after, strict=True):
            move = torch.cat([(after[k] - before[k]).detach().flatten() for k in after if k.startswith(f"{network}.")])
            assert float(move.norm()) <= 1.01e-3
        assert any(recorder.moved(i, network) for i in range(5))


@pytest.mark.parametrize("name", list(GANS))
def test_sampling_uses_running_statistics_in_either_mode_and_changes_nothing(name: str) -> None:
    model = GANS[name]()
    fit(model, 0, 2)
    model.eval()
    expected = model.sample(6, generator=seeded(0))
    model.train()
    before = copy.deepcopy(model.state_dict())
    assert torch.equal(model.sample(6, generator=seeded(0)), expected)
    assert model.generator.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", list(GANS))
def test_temperature_zero_gives_one_sample_and_chunks_do_not_show(name: str) -> None:
    model = GANS[name]((1, 8, 8), None).eval()
    if model.classes:
        return  # test_classes_are_drawn_as_often_as_they_were_met
    assert float(model.sample(4, temperature=0.0).std(0).max()) < 1e-6
    x = model.sample(1500, generator=seeded(0))  # more than one chunk
    z = torch.randn(1500, model.latent_dim, generator=seeded(0))
    with torch.no_grad():
        torch.testing.assert_close(x, model.generator(z))


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


def test_a_batch_that_packing_does_not_divide_is_refused_at_the_first_step() -> None:
    model = gan(packing=3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="packing=3: the discriminator sees 3 examples at a time, and a batch of 4"):
        fit(model, 0, 1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_packed_conditional_step_equals_the_losses_by_hand() -> None:
    model = dcgan(optimizer=SGD, packing=2, classes=3, conditional=True)
    reference = copy.deepcopy(model)
    model.train_generator = seeded(9)
    _, recorder = fit(model, 0, 1)

    batch, y = next(iter(Batches(model, 0, 1)))
    assert y is not None
    assert y.tolist() == [0, 1, 2, 0]
    (z,) = replay_noise(model, 9, 1)
    hot = functional.one_hot(y, 3).float()
    maps = hot[:, :, None, None].expand(4, 3, 8, 8)

    def pairs(x: Tensor) -> Tensor:
        first, second = torch.cat([x[0::2], x[1::2]], 1), torch.cat([maps[0::2], maps[1::2]], 1)
        return torch.cat([first, second], 1)

    fake = reference.generator(torch.cat([z, hot], 1))
    on_real, on_fake = (reference.discriminator(pairs(x)) for x in (batch.float() / 127.5 - 1, fake))
    expected = functional.softplus(-on_real).mean() + functional.softplus(on_fake).mean()
    torch.testing.assert_close(recorder.outputs[0]["discriminator_loss"], expected.detach())
    assert model.class_counts.tolist() == [2, 1, 1]


def test_classes_are_drawn_as_often_as_they_were_met() -> None:
    model = gan((2,), None, classes=3, conditional=True).eval()
    drawn = model._draw_classes(3000, seeded(0))
    assert drawn is not None
    assert drawn.bincount(minlength=3).min() > 900, "before training all are alike"
    model.class_counts.copy_(torch.tensor([300, 0, 100]))
    drawn = model._draw_classes(4000, seeded(0))
    assert drawn is not None
    counts = drawn.bincount(minlength=3).tolist()
    assert counts[1] == 0
    assert abs(counts[0] - 3000) < 4 * (4000 * 0.75 * 0.25) ** 0.5
    z = 0.5 * torch.randn(2, model.latent_dim, generator=seeded(1))
    with torch.no_grad():
        expected = model.generator(torch.cat([z, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])], 1))
    asked = model.sample_class(torch.tensor([2, 0]), temperature=0.5, generator=seeded(1))
    torch.testing.assert_close(asked, expected)
    assert model.sample(0).shape == (0, 2)


def test_a_conditional_model_refuses_a_batch_without_labels() -> None:
    model = gan((2,), None, classes=3, conditional=True)
    with pytest.raises(ValueError, match="needs a batch with class labels"):
        model.one_hot((torch.zeros(4, 2), None))


@pytest.mark.parametrize("objective", ["saturating", "non_saturating", "least_squares", "hinge", "wasserstein"])
def test_the_objective_is_what_both_networks_minimize(objective: Any) -> None:
    model = gan(objective=objective, optimizer=SGD)
    reference = copy.deepcopy(model)
    model.train_generator = seeded(9)
    _, recorder = fit(model, 0, 1)
    real, z = next(iter(Batches(model, 0, 1)))[0].float() / 127.5 - 1, replay_noise(model, 9, 2)
    pair, f, g = OBJECTIVES[objective], reference.discriminator, reference.generator
    loss = pair.discriminator(f(real), f(g(z[0]).detach()))
    torch.testing.assert_close(recorder.outputs[0]["loss"], loss.detach())
    with torch.no_grad():
        for p, gradient in zip(f.parameters(), torch.autograd.grad(loss, list(f.parameters())), strict=True):
            p.sub_(0.1 * gradient)
    torch.testing.assert_close(recorder.outputs[0]["generator_loss"], pair.generator(f(g(z[1]))).detach())


def test_penalized_steps_equal_algorithm_1_by_hand() -> None:
    model = wgan_gp(optimizer=SGD, n_critic=1, penalty=7.0)
    reference = copy.deepcopy(model)
    model.train_generator = seeded(9)
    _, recorder = fit(model, 0, 1)
    g, f, stream = reference.generator, reference.discriminator, seeded(9)
    x = next(iter(Batches(model, 0, 1)))[0].float() / 127.5 - 1
    fake = g(torch.randn(4, 6, generator=stream)).detach()
    mix = torch.rand(4, generator=stream)
    slopes = []
    for i in range(4):  # one example at a time: the norm is over all its entries
        between = (mix[i] * x[i] + (1 - mix[i]) * fake[i])[None].requires_grad_()
        slopes.append(torch.autograd.grad(f(between).sum(), between, create_graph=True)[0].flatten().norm())
    loss = f(fake).mean() - f(x).mean() + 7 * (torch.stack(slopes) - 1).square().mean()
    torch.testing.assert_close(recorder.outputs[0]["loss"], loss.detach())
    # The last bias is in no slope, and its gradient from real and generated examples cancels.
    parameters = list(f.parameters())
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.detach().sub_(0.1 * gradient)
    for key, expected in f.named_parameters():
        torch.testing.assert_close(dict(model.discriminator.named_parameters())[key], expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        expected = -f(g(torch.randn(4, 6, generator=stream))).mean()
    torch.testing.assert_close(recorder.outputs[0]["generator_loss"], expected, rtol=1e-4, atol=1e-6)


def test_losses_are_means_in_float32_under_autocast() -> None:
    model = gan()
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(2, 1, 8, 8)
        assert model.discriminator(x).dtype == torch.bfloat16
        assert model._judged(x, None).dtype == torch.float32
    assert model.double()._judged(x.double(), None).dtype == torch.float64
