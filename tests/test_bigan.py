"""BiGAN and ALI: the published losses by hand, resumption, two processes, and codes that come back as examples."""

import copy
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import helpers_captured as captured
import pytest
import torch
from helpers_cuda_graphs import TapeGraphs
from helpers_gans import fit as fit_by_lightning
from helpers_models import small_data
from helpers_probes import Kill, KilledError
from torch import Generator, Tensor, nn
from torch.nn import functional

from bench.checkpoint import Progress, load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.data.base import Data
from bench.probe import Probe
from bench.training.fit import fit
from models.base import Batch, GenerativeModel
from models.gans.bigan import BiGAN
from models.nn.bigan import JointDiscriminator, encoder_network

ROOT = Path(__file__).parents[1]
SGD = functools.partial(torch.optim.SGD, lr=0.1)
ADAM = functools.partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))

IMAGES = small_data((1, 8, 8), 256)
VECTORS = small_data((3,), None)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def bigan(data: Data = IMAGES, optimizer: Any = SGD, **kw: Any) -> BiGAN:
    torch.manual_seed(0)
    return BiGAN(data.spec.shape, data.spec.levels, optimizer, optimizer, latent_dim=6, width=4, **kw)


class Watch(Probe):
    """Keeps what the steps returned."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Tensor]] = []

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, Tensor]) -> None:
        self.outputs.append(outputs)


def train(model: BiGAN, folder: Path, steps: int, *probes: Probe, data: Any = IMAGES, **hardware: Any) -> Progress:
    folder.mkdir(exist_ok=True)
    schedule = Schedule(examples=16 * steps, batch_size=16, validate_every=32)
    return fit(model, data, schedule, Hardware(**hardware), seed=3, folder=folder, config={}, probes=probes)


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_step_equals_the_published_losses_by_hand(stochastic: bool, tmp_path: Path) -> None:
    model = bigan(stochastic=stochastic)
    reference = copy.deepcopy(model)
    watch = Watch()
    inputs: list[Tensor] = []
    real_of = model.real

    def watched(batch: Batch) -> Tensor:
        inputs.append(real_of(batch))
        return inputs[-1]

    setattr(model, "real", watched)  # noqa: B010 - mypy minds an assignment
    noise = torch.randn(2, 16, 6, generator=seeded(9))
    give(model, noise)
    train(model, tmp_path, 1, watch)

    g, e, d, z = reference.generator, reference.encoder, reference.discriminator, noise[0]
    x = inputs[0]
    code = _drawn(e(x), noise[1]) if stochastic else e(x)
    fake = g(z)
    one, zero = torch.ones(16), torch.zeros(16)
    entropy = functional.binary_cross_entropy_with_logits
    loss_d = entropy(d(x, code.detach()), one) + entropy(d(fake.detach(), z), zero)
    descend(d, loss_d)
    loss_ge = entropy(d(x, code), zero) + entropy(d(fake, z), one)
    descend(nn.ModuleList([g, e]), loss_ge)
    for name, expected in reference.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(watch.outputs[0]["discriminator_loss"], loss_d.detach())
    torch.testing.assert_close(watch.outputs[0]["generator_loss"], loss_ge.detach())
    assert (int(model.generator_steps), int(model.discriminator_steps)) == (1, 1)


def give(model: BiGAN, noise: Tensor) -> None:
    """Give a model what it would draw, ``(2, B, Z)``: the noise, and that of the encoder."""
    given: dict[str, Any] = {"noise": lambda n: noise[0]}
    if model.stochastic:
        given["_code"] = lambda real, generator: _drawn(model.encoder(real), noise[1])
    for name, function in given.items():
        setattr(model, name, function)


def _drawn(output: Tensor, noise: Tensor) -> Tensor:
    mean, raw = output.chunk(2, dim=1)
    return mean + (functional.softplus(raw + 7) - 7).exp() * noise  # as ``bounded_log_scale``


def descend(network: nn.Module, loss: Tensor) -> None:
    parameters = list(network.parameters())
    with torch.no_grad():
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.sub_(0.1 * gradient)


def test_the_stochastic_encoder_draws_from_its_gaussian() -> None:
    model = bigan(VECTORS, stochastic=True)
    x = torch.zeros(1, 3).expand(20_000, 3)
    mean, raw = model.encoder(x[:1]).chunk(2, dim=1)
    codes = model._code(x, seeded(1)).detach()
    torch.testing.assert_close(codes.mean(0), mean[0].detach(), atol=0.03, rtol=0)
    torch.testing.assert_close(codes.std(0), raw[0].detach().exp(), rtol=0.03, atol=1e-3)
    assert torch.equal(codes, model._code(x, seeded(1)))
    assert torch.equal(model.encode(x[:1]), mean), "a code is the mean, and drawn in training alone"


@pytest.mark.parametrize(("data", "stochastic"), [(IMAGES, False), (VECTORS, True)])
def test_a_resumed_run_gives_the_bits_of_a_whole_one(data: Any, stochastic: bool, tmp_path: Path) -> None:
    make = functools.partial(bigan, data, ADAM, stochastic=stochastic)
    train(make(), tmp_path / "whole", 12, data=data)
    with pytest.raises(KilledError):
        train(make(), tmp_path / "parts", 12, Kill(7), data=data)
    assert load_checkpoint(tmp_path / "parts" / "last.ckpt")["state_dict"]["discriminator_steps"] == 6
    train(make(), tmp_path / "parts", 12, data=data)
    whole, parts = (load_checkpoint(tmp_path / name / "final.ckpt")["state_dict"] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert whole["discriminator_steps"] == whole["generator_steps"] == 12


PROCESS = """
import sys
import torch
from bench.processes import Place, become_worker
from test_bigan import gradients_of
rank, port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
become_worker(Place(rank, 2, port))
torch.save(gradients_of(folder, rank, 2), f"{folder}/{rank}.pt")
"""


def frozen(model: BiGAN) -> BiGAN:
    """Let batch normalization use its running statistics, because each process would use those of its own batch."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            setattr(module, "train", functools.partial(_same, module))  # noqa: B010
    return model


def _same(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def gradients_of(folder: str, rank: int, size: int) -> dict[str, Tensor]:
    """The gradients of one step on this process's part of the batch and of the noise."""
    model = frozen(bigan(stochastic=True))
    noise = torch.randn(2, 16, 6, generator=seeded(4))
    part = slice(16 // size * rank, 16 // size * (rank + 1))
    give(model, noise[:, part])
    two = {"strategy": "ddp", "devices": size} if size > 1 else {}
    train(model, Path(folder) / f"run-{size}", 1, accelerator="cpu", **two)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_two_processes_have_the_gradients_of_one_with_the_joined_batch(tmp_path: Path) -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(store.port), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    expected = gradients_of(str(tmp_path), 0, 1)
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert set(expected) == {name for name, _ in bigan(stochastic=True).named_parameters()}
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_networks_read_both_parts_of_a_pair(stochastic: bool) -> None:
    for shape in ((1, 8, 8), (3,), (1, 5, 7)):
        network = JointDiscriminator(shape, 2, 4).eval()
        x, z = torch.randn(5, *shape, generator=seeded(0)), torch.randn(5, 2, generator=seeded(1))
        logits = network(x, z)
        assert logits.shape == (5,)
        assert not torch.allclose(logits, network(x.flip(0), z))
        assert not torch.allclose(logits, network(x, z.flip(0)))
        assert encoder_network(shape, 2 * (1 + stochastic), 4)(x).shape == (5, 2 * (1 + stochastic))


@pytest.mark.parametrize("name", ["bigan", "ali"])
def test_replayed_steps_give_the_numbers_of_eager_ones(name: str, tmp_path: Path) -> None:
    graphs = TapeGraphs()
    captured.train(captured.model_of(name), tmp_path / "eager", None)
    captured.train(captured.model_of(name), tmp_path / "captured", graphs)
    assert graphs.replays > 15
    assert captured.same(captured.weights(tmp_path / "eager"), captured.weights(tmp_path / "captured"))


def test_training_draws_from_the_train_generator_alone() -> None:
    found = []
    for seed in (0, 1):
        model = bigan(VECTORS, stochastic=True)
        model.train_generator = seeded(0)
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        fit_by_lightning(model, 0, 2)  # type: ignore[arg-type]
        assert torch.equal(torch.get_rng_state(), state)
        found.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*found)


@pytest.mark.parametrize("data", [IMAGES, VECTORS])
def test_reals_may_lie_anywhere_and_integers_in_their_interval(data: Data) -> None:
    made = bigan(data).eval().decoder_mean(1e6 * torch.randn(8, 6, generator=seeded(0)))
    assert (made.abs().max() <= 1) == (data.spec.levels is not None)


def test_clip_norm_bounds_the_step_of_generator_and_encoder_together() -> None:
    model = bigan(optimizer=functools.partial(torch.optim.SGD, lr=1.0))
    before = dict(copy.deepcopy(model).named_parameters())
    model.clip_norm = 1e-3
    fit_by_lightning(model, 0, 1)  # type: ignore[arg-type]
    moves = {name: (parameter - before[name]).detach().flatten() for name, parameter in model.named_parameters()}
    for networks in (("generator.", "encoder."), ("discriminator.",)):
        together = torch.cat([move for name, move in moves.items() if name.startswith(networks)])
        assert together.norm().item() == pytest.approx(1e-3, rel=0.02)


def test_averaging_covers_generator_and_encoder_alone() -> None:
    model = bigan(IMAGES)
    averaged = {id(parameter) for parameter in model.averaged().parameters()}
    names = {name.split(".")[0] for name, parameter in model.named_parameters() if id(parameter) in averaged}
    assert names == {"generator", "encoder"}
    assert "averaged" not in "".join(model.state_dict())


@pytest.mark.parametrize("wrong", [{"latent_dim": 0}, {"width": 0}])
def test_sizes_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sizes of at least 1"):
        BiGAN((1, 8, 8), 256, SGD, SGD, **wrong)


@pytest.mark.slow
def test_trained_codes_come_back_as_the_examples_they_are_of(tmp_path: Path) -> None:
    """On the plane, examples that are encoded and decoded lie near, compared with the distance of any two examples."""
    data = small_data((2,), None, n=2000)
    torch.manual_seed(0)
    adam = functools.partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
    model = BiGAN((2,), None, adam, adam, latent_dim=2, width=16)
    schedule = Schedule(examples=100_000, batch_size=100, validate_every=10**6)
    fit(model, data, schedule, Hardware(), seed=0, folder=tmp_path, config={})
    model.eval()
    with torch.no_grad():
        x = data.train.x[:500]
        back = model.decode(model.encode(x))
    error, spread = (x - back).square().sum(1).mean(), 2 * x.var(0).sum()
    assert error < 0.1 * spread, f"{error} against {spread}"
