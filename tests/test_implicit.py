"""Implicit models: sampling from a generator, and one checked step of an optimizer."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Generator, Tensor, nn

from models.base import Batch
from models.gans import implicit
from models.gans.implicit import ImplicitModel


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


class Toy(ImplicitModel):
    """Trains the generator on a loss that the test gives."""

    def __init__(self, shape: tuple[int, ...] = (3,), levels: int | None = None) -> None:
        torch.manual_seed(0)
        layers = [nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3), nn.Unflatten(1, shape)]
        super().__init__(shape, levels, nn.Sequential(*layers), latent_dim=2)
        self.other = nn.Linear(2, 1)
        self.loss: Callable[[], Tensor] = lambda: self.generator(self.noise(4)).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.take_step(optimizer, self.generator, self.loss())
        self.generator_steps += 1


class OneBatch:
    def __iter__(self) -> Iterator[Batch]:
        yield torch.zeros(4, 3), None

    def __len__(self) -> int:
        return 1


def one_step(model: Toy) -> None:
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, OneBatch())


def moves(model: Toy, before: Toy) -> Tensor:
    pairs = zip(model.generator.parameters(), before.generator.parameters(), strict=True)
    return torch.cat([(new - old).detach().flatten() for new, old in pairs])


@pytest.mark.parametrize(("shape", "levels"), [((3,), None), ((3, 1, 1), 5)])
def test_chunked_sampling_equals_one_pass(
    shape: tuple[int, ...], levels: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Toy(shape, levels)
    whole = model.sample(11, generator=seeded(1), temperature=2.0)
    z = 2.0 * torch.randn(11, 2, generator=seeded(1))
    with torch.no_grad():
        y = copy.deepcopy(model.generator).eval()(z)
    expected = y if levels is None else ((y + 1) / 2 * 4).round().clamp(0, 4).to(torch.uint8)
    torch.testing.assert_close(whole, expected)
    monkeypatch.setattr(implicit, "CHUNK", 4)
    torch.testing.assert_close(model.sample(11, generator=seeded(1), temperature=2.0), whole)
    assert model.sample(0).shape == (0, *shape)


def test_memory_is_that_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit, "CHUNK", 4)
    model, sizes = Toy(), []
    model.generator.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    model.sample(11)
    assert sizes == [4, 4, 3]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_also_after_an_error(training: bool) -> None:
    model = Toy().train(training)
    before = copy.deepcopy(model.state_dict())
    model.sample(4)
    assert [module.training for module in model.modules()] == [training] * len(list(model.modules()))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    model.generator.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.sample(4)
    assert [module.training for module in model.modules()] == [training] * len(list(model.modules()))


def test_noise_comes_from_the_train_generator_in_the_dtype_of_the_network() -> None:
    model = Toy().double()
    model.train_generator = seeded(3)
    state = torch.get_rng_state()
    noise = model.noise(5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(noise, torch.randn(5, 2, generator=seeded(3), dtype=torch.float64))


def test_real_examples_are_on_the_scale_of_the_networks() -> None:
    levels = torch.tensor([[0, 2, 4]], dtype=torch.uint8)
    assert torch.equal(Toy((3, 1, 1), 5).real((levels, None)), torch.tensor([[-1.0, 0.0, 1.0]]))
    reals = torch.tensor([[0.3, -7.0, 2.0]])
    assert torch.equal(Toy().real((reals, None)), reals)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("clip_norm", [None, 0.25])
def test_a_step_is_the_gradient_clipped_to_the_norm(factor: float, clip_norm: float | None) -> None:
    model = Toy()
    before = copy.deepcopy(model)
    model.clip_norm = clip_norm

    def loss(of: Toy) -> Tensor:
        # The other network's gradient is large, and must not count.
        return factor * sum(p.square().sum() for p in of.generator.parameters()) + 1e6 * of.other.weight.sum()

    model.loss = lambda: loss(model)
    parameters = list(before.generator.parameters())
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss(before), parameters)])
    if clip_norm is not None:
        gradient = gradient * min(1.0, clip_norm / (gradient.norm().item() + 1e-6))
    one_step(model)
    torch.testing.assert_close(moves(model, before), -gradient, rtol=1e-4, atol=1e-6)
    assert int(model.generator_steps) == 1


def test_gradients_of_earlier_steps_do_not_count() -> None:
    model, fresh = Toy(), Toy()
    for m in (model, fresh):
        m.loss = lambda m=m: sum(p.square().sum() for p in m.generator.parameters())
    for parameter in model.generator.parameters():
        parameter.grad = torch.ones_like(parameter)
    one_step(model)
    one_step(fresh)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


def test_a_loss_that_is_not_one_number_is_refused() -> None:
    model = Toy()
    model.loss = lambda: model.generator(model.noise(4)).mean(1)
    with pytest.raises(ValueError, match=r"one number, not a tensor of shape \(4,\)"):
        one_step(model)


def test_a_loss_that_does_not_reach_the_network_is_refused() -> None:
    model = Toy()
    before = copy.deepcopy(model)
    model.loss = lambda: model.other(model.noise(4)).mean()
    with pytest.raises(ValueError, match="does not depend on the network"):
        one_step(model)
    assert moves(model, before).abs().max() == 0


def test_the_generator_is_what_is_averaged() -> None:
    model = Toy()
    assert model.averaged() is model.generator
