"""GANs under a Lightning trainer: who is updated when, by what, and what a checkpoint brings back."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from helpers_gans import ADAM, CRITICS, GANS, dcgan, fit, gan, seeded, wgan, wgan_gp
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn import functional

from models.gans.compact import CompactGAN
from models.gans.objectives import OBJECTIVES

SHAPES: list[tuple[tuple[int, ...], int | None]] = [
    ((1, 28, 28), 256),
    ((3, 32, 32), 32),
    ((2, 12, 8), None),
    ((1, 1, 2), 4),
    ((1, 7, 5), 2),
    ((2,), None),
    ((3,), 8),
]


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
    y = torch.full((1500,), 2)

    def sample(n: int, temperature: float) -> Tensor:
        if model.classes:
            return model.sample_class(y[:n], temperature=temperature, generator=seeded(0))
        return model.sample(n, temperature=temperature, generator=seeded(0))

    assert float(sample(4, 0.0).std(0).max()) < 1e-6
    x = sample(1500, 1.0)  # more than one chunk
    z = torch.randn(1500, model.latent_dim, generator=seeded(0))
    if model.classes:
        z = torch.cat([z, functional.one_hot(y, 3).float()], 1)
    with torch.no_grad():
        torch.testing.assert_close(x, model.generator(z))


@pytest.mark.parametrize("levels", [None, 256])
@pytest.mark.parametrize("name", list(GANS))
def test_reals_may_lie_anywhere_and_integers_in_their_interval(name: str, levels: int | None) -> None:
    model = GANS[name]((1, 8, 8), levels).eval()
    made = model.generator(1e6 * torch.randn(8, model.latent_dim + model.classes, generator=seeded(0)))
    assert (made.abs().max() <= 1) == (levels is not None)


def test_the_penalized_critic_judges_each_example_alone() -> None:
    critic = wgan_gp((1, 16, 16)).train().discriminator
    x = torch.rand(4, 1, 16, 16, generator=seeded(0))
    torch.testing.assert_close(critic(x)[:1], critic(x[:1]))


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("name", ["gan", "dcgan", "sngan"])
def test_the_objective_is_the_one_asked_for(name: str, objective: str) -> None:
    assert GANS[name](objective=objective).objective is OBJECTIVES[objective]


def test_objectives_that_cannot_be_chosen_are_those_of_the_papers() -> None:
    made = {name: GANS[name]().objective for name in GANS}
    made["compact"] = CompactGAN((1, 8, 8), 256, ADAM, ADAM).objective
    logits = dict.fromkeys(("gan", "dcgan", "pacgan", "pacdcgan", "conditional", "compact"), "non_saturating")
    papers = {**logits, "sngan": "hinge", "wgan": "wasserstein", "wgan_gp": "wasserstein"}
    assert made == {name: OBJECTIVES[objective] for name, objective in papers.items()}


def test_a_batch_that_packing_does_not_divide_is_refused_at_the_first_step() -> None:
    model = gan(packing=3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="packing=3: the discriminator sees 3 examples at a time, and a batch of 4"):
        fit(model, 0, 1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


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


def test_losses_are_means_in_float32_under_autocast() -> None:
    model = gan()
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(2, 1, 8, 8)
        assert model.discriminator(x).dtype == torch.bfloat16
        assert model._judged(x, None).dtype == torch.float32
    assert model.double()._judged(x.double(), None).dtype == torch.float64
