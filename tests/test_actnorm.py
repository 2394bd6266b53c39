"""Activation normalization: set once from the first training batch, whatever happens around it."""

import copy
import functools
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import small_data
from helpers_transforms import check_bijection, few, normal, prepared
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import LightningModule, Trainer
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from bench.checkpoint import load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.training.ema import EMA
from bench.training.fit import fit
from models.flows.glow import Glow
from models.transforms.actnorm import ActNorm
from models.transforms.base import Chain

SHAPES = [(4,), (3, 4, 5)]


def batch(n: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Channels of different means and scales, entries correlated."""
    scale = torch.linspace(0.1, 30, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (scale * (normal(n, *shape, seed=seed) + normal(n, *[1] * len(shape), seed=seed + 1)) - 2 * scale).float()


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    channels = z.transpose(0, 1).flatten(1)
    return channels.mean(1), channels.var(1, correction=0)


def state_of(norm: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(norm.state_dict())


def unchanged(norm: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@few
@given(shape=st.sampled_from([(1,), (5,), (1, 1, 1), (1, 2, 3), (3, 2, 1)]), set_first=st.booleans())
def test_it_is_a_bijection(shape: tuple[int, ...], set_first: bool) -> None:
    norm = ActNorm(shape[0]).double()
    if set_first:
        norm(3 * normal(20, *shape) - 1)
        assert norm.initialized
    else:
        norm = prepared(norm)
        norm.eval()
    check_bijection(norm, normal(3, *shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_batch_leaves_with_mean_0_and_variance_1(shape: tuple[int, ...]) -> None:
    norm = ActNorm(shape[0])
    x = batch(30, shape)
    z, log_det = norm(x)
    mean, variance = moments(z)
    torch.testing.assert_close(mean, torch.zeros(shape[0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(variance, torch.ones(shape[0]), rtol=1e-5, atol=0)
    # Worked out from the batch alone: each of the positions counts the log-scale of its channel.
    expected = -0.5 * moments(x)[1].log().sum() * math.prod(shape[1:])
    torch.testing.assert_close(log_det, expected.expand(30))
    (z.square().sum() - log_det.sum()).backward()
    assert norm.log_scale.grad.abs().min() > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_later_batches_change_nothing(shape: tuple[int, ...]) -> None:
    norm = ActNorm(shape[0])
    norm(batch(30, shape))
    before = state_of(norm)
    mean, _ = moments(norm(2 * batch(30, shape, seed=5))[0])
    assert mean.abs().min() > 0.1
    norm.eval()(batch(3, shape))
    norm.train()(batch(3, shape, seed=2))
    assert unchanged(norm, before)


def test_neither_evaluation_nor_sampling_nor_passes_without_gradients_set_it() -> None:
    norm = ActNorm(4)
    x = batch(30, (4,))
    norm.eval()(x)
    norm.inverse(x)
    norm.train().inverse(x)
    with torch.no_grad():
        norm(x)
    assert not norm.initialized
    assert torch.equal(norm(x.clone())[0].mean(0).abs() < 1e-5, torch.ones(4, dtype=torch.bool))
    assert norm.initialized


def test_reloaded_weights_are_left_alone() -> None:
    norm, fresh = ActNorm(4), ActNorm(4)
    norm(batch(30, (4,)))
    fresh.load_state_dict(state_of(norm))
    other = batch(30, (4,), seed=9) + 100
    for twin in (fresh, copy.deepcopy(norm), copy.deepcopy(fresh)):
        for got, expected in zip(twin.train()(other), norm(other), strict=True):
            assert torch.equal(got, expected)
        assert unchanged(twin, norm.state_dict())


def test_a_buffer_that_was_set_by_hand_counts() -> None:
    """As when a process gets the buffers of another, without load_state_dict."""
    norm = ActNorm(4)
    norm.initialized.fill_(True)
    before = state_of(norm)
    norm(batch(30, (4,)))
    assert unchanged(norm, before)


def test_weights_from_before_the_first_step_are_set_by_the_next_batch() -> None:
    norm = ActNorm(4)
    untrained = state_of(norm)
    norm(batch(30, (4,)))
    norm.load_state_dict(untrained)
    x = batch(30, (4,), seed=9)
    torch.testing.assert_close(norm(x)[0].mean(0), torch.zeros(4), rtol=0, atol=1e-5)


def test_constant_channels_are_only_shifted() -> None:
    norm = ActNorm(4)
    x = torch.stack([torch.zeros(50), torch.full((50,), 1e4), torch.full((50,), 0.1), torch.arange(50.0)], 1)
    z, _ = norm(x)
    assert torch.equal(norm.log_scale[:3], torch.zeros(3))
    assert norm.log_scale[3] < -2
    torch.testing.assert_close(z.mean(0), torch.zeros(4), rtol=0, atol=1e-3)
    # One example has no spread at all.
    alone = ActNorm(3)
    z, log_det = alone(torch.tensor([[1.0, -2.0, 1e6]]))
    assert torch.equal(z, torch.zeros(1, 3))
    assert log_det.item() == 0
    # A small spread about a small mean is a spread: a pixel that is dark in all examples has the noise of its level.
    dark = ActNorm(1)
    z, _ = dark(torch.rand(1000, 1, generator=Generator().manual_seed(0)) / 256 / 50)
    torch.testing.assert_close(z.var(), torch.tensor(1.0), rtol=0.01, atol=0)


def test_moments_are_accurate_for_a_large_mean_in_float32() -> None:
    x = (1000 + normal(5000, 1)).float()
    norm = ActNorm(1)
    norm(x)
    exact = -0.5 * x.double().var(0, correction=0).log()
    torch.testing.assert_close(norm.log_scale.detach().double(), exact, rtol=0, atol=1e-5)


def test_under_autocast_it_stays_float32() -> None:
    norm = ActNorm(3)
    x = batch(8, (3, 4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, log_det = norm(x)
        back, inverse_log_det = norm.inverse(z)
    assert {t.dtype for t in (z, log_det, back, inverse_log_det)} == {torch.float32}
    assert torch.equal(z, norm(x)[0])
    torch.testing.assert_close(moments(z)[1], torch.ones(3), rtol=1e-5, atol=0)


def test_it_compiles_whole_before_and_after_the_first_batch() -> None:
    chain, plain = Chain(ActNorm(3), ActNorm(3)), Chain(ActNorm(3), ActNorm(3))
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    torch.compiler.reset()  # what other tests compiled counts against a limit
    compiled = torch.compile(chain, fullgraph=True, backend=backend)
    for step in range(4):
        x = batch(16, (3, 4, 4), seed=step) + step
        for got, expected in zip(compiled(x), plain(x), strict=True):
            torch.testing.assert_close(got, expected)
        assert len(graphs) == min(step + 1, 2), "one graph that sets, one that goes on"
    assert chain.state_dict()["parts.1.initialized"]
    assert unchanged(chain, plain.state_dict())


class _Watched(LightningModule):
    """Notes the state of its normalization at the start of training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = ActNorm(4)
        self.at_start: bool | None = None
        self.validated = 0

    def on_train_start(self) -> None:
        self.at_start = bool(self.norm.initialized)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.norm(batch[0])[0].square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.norm(batch[0])
        self.validated += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore:.*(dataloader|num_workers|GPU|TPU|litlogger|LeafSpec).*")
def test_lightnings_sanity_check_does_not_set_it(tmp_path: Path) -> None:
    module = _Watched()
    train, val = batch(16, (4,)), batch(16, (4,), seed=3) + 50
    trainer = Trainer(
        max_epochs=1, num_sanity_val_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=str(tmp_path),
    )  # fmt: skip
    trainer.fit(module, *[DataLoader(TensorDataset(x), batch_size=16) for x in (train, val)])
    assert module.at_start is False
    assert module.validated == 2
    torch.testing.assert_close(module.norm.eval()(train)[0].mean(0), torch.zeros(4), rtol=0, atol=1e-5)


def test_a_moving_average_starts_after_it() -> None:
    norm = ActNorm(4)
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.1)
    average = EMA(norm, [optimizer], decay=0.99)
    for step in range(3):
        optimizer.zero_grad()
        z, log_det = norm(1e4 * batch(30, (4,), seed=step))
        (z.square().sum(1) / 2 - log_det).mean().backward()
        optimizer.step()
        raw = state_of(norm)
        with average.swapped_in():
            averaged = state_of(norm)
        assert averaged["log_scale"].max() < -6, "no share of the zeros from before the first batch"
        assert torch.equal(averaged["bias"], raw["bias"]) == (step == 0)


def test_a_run_with_a_moving_average_evaluates_what_the_first_batch_set(tmp_path: Path) -> None:
    data = small_data((3,), None)
    data.train.x.mul_(1e4)
    flow = Glow((3,), None, functools.partial(torch.optim.Adam, lr=1e-3), steps=1, hidden=8, depth=1)
    schedule = Schedule(examples=16, batch_size=16, validate_every=16, ema_decay=0.999)
    fit(flow, data, schedule, Hardware(), seed=0, folder=tmp_path, config={})
    weights = load_checkpoint(tmp_path / "final.ckpt")["state_dict"]
    log_scales = [value for name, value in weights.items() if name.endswith("log_scale")]
    assert log_scales
    assert all((value < -8).all() for value in log_scales)


class _Loss(nn.Module):
    """Two normalizations with a network in between, so that the second depends on the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([ActNorm(3), nn.Conv2d(3, 5, 1), ActNorm(5)])

    def forward(self, x: Tensor) -> Tensor:
        first, conv, second = self.layers
        z, log_det = first(x)
        y, other = second(conv(z).relu())
        return (y.square().flatten(1).sum(1) - log_det - other).mean()


def _two_steps(module: nn.Module, parts: list[Tensor]) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    for x in parts:
        optimizer.zero_grad()
        module(x).backward()
        optimizer.step()


def _worker(rank: int, folder: Path, parts: list[Tensor]) -> None:
    torch.set_num_threads(1)
    address = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    module = _Loss()
    _two_steps(DistributedDataParallel(module, broadcast_buffers=False), [x[rank::2] for x in parts])
    torch.save(module.state_dict(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_set_it_from_all_their_examples(tmp_path: Path) -> None:
    parts = [batch(16, (3, 4, 4), seed) + 10 * torch.arange(16.0).reshape(-1, 1, 1, 1) % 20 for seed in (0, 7)]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_worker, args=(rank, tmp_path, parts)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    alone = _Loss()
    _two_steps(alone, parts)
    # The halves alone would say something else: every other example is shifted by 10.
    assert (moments(parts[0][::2])[0] - moments(parts[0])[0]).abs().min() > 1
    for worker in workers:
        worker.join(timeout=120)
        assert worker.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, expected in alone.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)
