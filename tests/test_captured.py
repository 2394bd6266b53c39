"""Captured training steps: the same numbers as eager ones, or eager ones and a line that says why.

A stand-in replays recorded operations on the CPU (tests/helpers_cuda_graphs.py); tests/gpu/ has the same on a CUDA
device.
"""

import itertools
import logging
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_captured import model_of, same, train, weights
from helpers_cuda_graphs import TapeGraphs
from helpers_models import configuration
from helpers_probes import Largest, Watch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor

from bench.checkpoint import Progress
from bench.config.spec import Hardware, RunSpec, typed
from bench.cuda_graphs import why_not
from bench.data.base import Split
from bench.data.loader import Batches
from bench.errors import DivergedError, UserError
from bench.training import captured as captured_module
from bench.training import fit as fit_module
from models.base import Batch, GenerativeModel
from models.gans.wgan import WGAN
from models.vaes.vae import VAE


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The lines about captured steps."""
    monkeypatch.setattr(logging.getLogger("genbench"), "propagate", True)
    caplog.set_level(logging.INFO, "genbench")
    return lambda: [record.getMessage() for record in caplog.records if "training steps" in record.getMessage()]


GANS = ["gan", "dcgan", "dcgan_conditional", "pacgan", "sngan", "wgan", "wgan_gp"]
CRITICS = ("wgan", "wgan_gp")  # whose generators step after some of their steps only


@pytest.mark.parametrize("name", ["realnvp", "maf", "nsf", "glow", "vae", *GANS])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_replayed_steps_give_the_numbers_of_eager_ones(name: str, clip: float | None, tmp_path: Path) -> None:
    graphs = TapeGraphs()
    eager = train(model_of(name), tmp_path / "eager", None, clip_norm=clip)
    captured = train(model_of(name), tmp_path / "captured", graphs, clip_norm=clip)
    assert graphs.recorded == (2 if name in CRITICS else 1)
    taken_eagerly = 2 if name in CRITICS else 1  # the first of each kind; three of each are compared
    assert graphs.replays == 20 - taken_eagerly + 3 * graphs.recorded
    assert (captured.steps, captured.examples_seen) == (eager.steps, eager.examples_seen) == (20, 320)
    assert same(weights(tmp_path / "eager"), weights(tmp_path / "captured"))


def test_averaged_weights_are_those_of_eager_steps(tmp_path: Path) -> None:
    graphs = TapeGraphs()
    train(model_of("vae"), tmp_path / "eager", None, ema_decay=0.9)
    train(model_of("vae"), tmp_path / "captured", graphs, ema_decay=0.9)
    assert graphs.replays > 15
    eager, captured = weights(tmp_path / "eager"), weights(tmp_path / "captured")
    for key, value in eager.items():
        torch.testing.assert_close(captured[key], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["realnvp", "glow", "vae", "dcgan", "wgan"])
@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("died_at", [1, 3])
def test_a_resumed_run_gives_the_bits_of_a_whole_one(
    name: str, ema: float | None, died_at: int, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def die(model: GenerativeModel) -> float:
        calls.append(1)
        if len(calls) > died_at:
            raise KilledError
        return -float(len(calls))

    calls: list[int] = []
    train(model_of(name), tmp_path / "whole", TapeGraphs(), ema_decay=ema)
    with pytest.raises(KilledError):
        train(model_of(name), tmp_path / "parts", TapeGraphs(), ema_decay=ema, validate=die)
    torch.randn(7)
    graphs = TapeGraphs()
    progress = train(model_of(name, seed=9), tmp_path / "parts", graphs, ema_decay=ema)
    assert progress.steps == 20
    left = 20 - 4 * died_at  # every one of them is replayed, but a kind's first
    kinds = 2 if name == "wgan" else 1
    assert graphs.replays == left + 3 * kinds - (name == "wgan" and died_at == 1)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_budget_selection_patience_and_history_are_those_of_eager_steps(tmp_path: Path) -> None:
    def run(folder: Path, graphs: TapeGraphs | None) -> tuple[Any, ...]:
        scores = iter([3.0, 2.0, 2.5, 2.7, 1.0])
        progress = train(model_of("vae"), folder, graphs, validate=lambda _: next(scores), patience=2)
        return progress.steps, progress.best_examples, progress.best_score, progress.history, progress.finished

    eager, captured = run(tmp_path / "eager", None), run(tmp_path / "captured", TapeGraphs())
    assert eager == captured
    assert eager[:3] == (16, 128, 2.0)
    assert same(weights(tmp_path / "eager", "best"), weights(tmp_path / "captured", "best"))


def test_a_budget_of_seconds_ends_captured_training(tmp_path: Path) -> None:
    graphs = TapeGraphs()
    progress = train(model_of("vae"), tmp_path, graphs, examples=None, seconds=0.3, validate_every=10**6)
    assert progress.finished == "budget spent"
    assert 0.3 <= progress.train_seconds < 3
    assert graphs.replays > progress.steps


@pytest.mark.parametrize("name", ["realnvp", "wgan"])
def test_probes_see_every_replayed_step_and_its_gradients(name: str, tmp_path: Path) -> None:
    def run(folder: Path, graphs: TapeGraphs | None) -> tuple[Watch, Largest]:
        watch, largest = Watch(), Largest()
        train(model_of(name), folder, graphs, probes=[watch, largest])
        return watch, largest

    watch, largest = run(tmp_path / "eager", None)
    seen, noted = run(tmp_path / "captured", TapeGraphs())
    assert len(seen.steps) == 20
    assert (seen.steps, seen.norms, seen.validations) == (watch.steps, watch.norms, watch.validations)
    assert noted.told == largest.told


class Kept(Watch):
    """Keeps the outputs themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, Tensor]) -> None:
        self.losses.append(outputs["loss"])


def test_outputs_that_a_probe_keeps_are_not_overwritten(tmp_path: Path) -> None:
    kept, again = Kept(), Kept()
    train(model_of("vae"), tmp_path / "eager", None, probes=[kept])
    train(model_of("vae"), tmp_path / "captured", TapeGraphs(), probes=[again])
    assert [float(loss) for loss in again.losses] == [float(loss) for loss in kept.losses]
    assert len({float(loss) for loss in again.losses}) == 20


def test_a_loss_that_becomes_nan_in_a_replay_ends_training(tmp_path: Path) -> None:
    class Diverging(VAE):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss / (self.examples_trained < 100).to(torch.float32) * 1.0

    model = model_of("vae")
    model.__class__ = Diverging
    graphs = TapeGraphs()
    with pytest.raises(DivergedError, match="the loss"):
        train(model, tmp_path, graphs)
    assert graphs.recorded == 1


# What cannot be captured

CASES: dict[str, tuple[Callable[[VAE, Batch, Any], float | Tensor], str]] = {
    "a value is read": (lambda model, batch, idx: batch[0].sum().item() * 0, "synchronizing operation"),
    "a shape depends on values": (lambda model, batch, idx: batch[0][batch[0] > 0].sum() * 0, "synchronizing"),
    "the number of the batch": (lambda model, batch, idx: 0.1 * (idx % 3), "reads batch_idx"),
    "Python's random numbers": (lambda model, batch, idx: 0 * random.random(), "random numbers"),
    "torch's global random numbers, read": (lambda model, batch, idx: torch.rand(1).item(), "synchronizing"),
    "a count on the host": (lambda model, batch, idx: next(COUNT) * 0.1, "replayed step . has loss"),
    "Lightning's count": (lambda model, batch, idx: model.global_step * 0.1, "replayed step . has loss"),
}  # fmt: skip
COUNT = itertools.count()


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_captured_runs_eagerly_with_the_same_bits_and_the_log_says_why(
    case: str, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    extra, expected = CASES[case]

    class Peculiar(VAE):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + extra(self, batch, batch_idx)

    def run(folder: Path, graphs: TapeGraphs | None) -> dict[str, Tensor]:
        model = model_of("vae")
        model.__class__ = Peculiar
        progress = train(model, folder, graphs)
        assert progress.steps == 20
        return weights(folder)

    eager = run(tmp_path / "eager", None)
    captured = run(tmp_path / "captured", TapeGraphs())
    assert len(said()) == 1
    assert re.search(expected, said()[0]), said()
    assert same(eager, captured)


def test_a_baked_in_correction_of_adam_is_noticed(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=1e-3, fused=False)  # which counts its steps on the host

    train(model_of("realnvp", adam), tmp_path / "eager", None)
    train(model_of("realnvp", adam), tmp_path / "captured", TapeGraphs(lenient=True))
    (line,) = said()
    assert "replayed step" in line
    assert same(weights(tmp_path / "eager"), weights(tmp_path / "captured"))


def test_the_line_of_the_log_names_the_line_of_the_model() -> None:
    def model() -> Tensor:
        return torch.zeros(2) @ torch.zeros(3)  # fails here

    with pytest.raises(RuntimeError) as failed:
        model()
    assert re.match(r"test_captured\.py, line \d+, `return torch\.zeros\(2\) @ .*`: \S", why_not(failed.value))


def test_a_kind_of_step_that_cannot_be_recorded_runs_eagerly_among_recorded_ones(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    class Half(WGAN):
        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            made = super().training_step(batch, batch_idx)
            if self.train_step is not None and self.kind_of_step(self.train_step):
                made["loss"].item()
            return made

    def run(folder: Path, graphs: TapeGraphs | None) -> dict[str, Tensor]:
        model = model_of("wgan")
        model.__class__ = Half
        assert train(model, folder, graphs).steps == 20
        return weights(folder)

    graphs = TapeGraphs()
    eager, captured = run(tmp_path / "eager", None), run(tmp_path / "captured", graphs)
    assert [line.split(":")[0] for line in said()] == [
        "training steps are replayed from a CUDA graph", "training steps of kind 1 are not captured",
    ]  # fmt: skip
    assert graphs.recorded == 2, "the other kind, once more"
    assert same(eager, captured)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
def test_a_hook_of_the_model_at_every_step_keeps_its_steps_eager(
    hook: str, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    called: list[int] = []
    kind = type("Hooked", (VAE,), {hook: lambda self, *_: called.append(1)})
    model = model_of("vae")
    model.__class__ = kind
    train(model, tmp_path, TapeGraphs())
    assert len(called) == 20
    assert hook in said()[0]


def test_an_optimizer_that_counts_on_the_host_keeps_steps_eager(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            made = super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["count"] = self.state[parameter].get("count", 0) + 1
            return made

    train(model_of("vae", lambda parameters: Counting(parameters, lr=0.01)), tmp_path, TapeGraphs())
    assert "Counting keeps 'count' on the CPU" in said()[0]


def test_a_scaled_loss_keeps_steps_eager(
    tmp_path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaled(*given: Any) -> Trainer:
        trainer = make_trainer(*given)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)  # Lightning makes one on a GPU alone
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)
        return trainer

    make_trainer = fit_module._trainer
    monkeypatch.setattr(fit_module, "_trainer", scaled)
    train(model_of("vae"), tmp_path / "eager", None)
    assert train(model_of("vae"), tmp_path / "captured", TapeGraphs()).steps == 20
    assert same(weights(tmp_path / "eager"), weights(tmp_path / "captured"))
    assert "16-mixed" in said()[0]


def test_capture_can_be_required_or_switched_off(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    graphs = TapeGraphs()
    train(model_of("vae"), tmp_path / "off", graphs, capture="off")
    assert (graphs.recorded, said()) == (0, [])
    with pytest.raises(UserError, match=r"trainer.capture=on needs one CUDA device"):
        train(model_of("vae"), tmp_path / "cpu", None, capture="on")
    train(model_of("vae"), tmp_path / "on", graphs, capture="on")
    assert graphs.recorded == 1

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=1e-3, fused=False)  # which counts its steps on the host

    with pytest.raises(UserError, match=r"trainer.capture=on: .*synchronizing"):
        train(model_of("vae", adam), tmp_path / "refused", TapeGraphs(), capture="on")


@pytest.mark.parametrize(("given", "meant"), [("on", "on"), ("off", "off"), (True, "on"), (False, "off")])
def test_yaml_may_read_on_and_off_as_truth(given: object, meant: str) -> None:
    assert typed(Hardware, {"capture": given}, "trainer").capture == meant


def test_the_default_of_capture_leaves_training_keys_alone() -> None:
    key = RunSpec.parse(configuration("vae")).training_key
    assert RunSpec.parse(configuration("vae", "trainer.capture=off")).training_key != key
    without = configuration("vae")
    del without["trainer"]["capture"]  # as in checkpoints of before
    assert RunSpec.parse(without).training_key == key


@pytest.mark.parametrize("frequency", [1, 3])
def test_a_schedule_of_the_learning_rate_goes_on(frequency: int, tmp_path: Path) -> None:
    class Plain(torch.optim.Optimizer):
        """Gradient descent that takes its learning rate as a tensor."""

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter -= group["lr"] * parameter.grad
            return loss

    class Scheduled(VAE):
        def configure_optimizers(self) -> Any:
            optimizer = Plain(self.parameters(), {"lr": 0.01})
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
            every = {"scheduler": schedule, "interval": "step", "frequency": frequency}
            return {"optimizer": optimizer, "lr_scheduler": every}

    def run(folder: Path, graphs: TapeGraphs | None) -> dict[str, Tensor]:
        model = model_of("vae")
        model.__class__ = Scheduled
        train(model, folder, graphs)
        return weights(folder)

    graphs = TapeGraphs()
    eager, captured = run(tmp_path / "eager", None), run(tmp_path / "captured", graphs)
    assert graphs.replays > 15
    for key, value in eager.items():
        torch.testing.assert_close(captured[key], value, rtol=1e-5, atol=1e-7)


def split(resident: bool, redraw: bool) -> Split:
    x = torch.arange(50, dtype=torch.uint8).unsqueeze(1)

    def drawn(index: Tensor, generator: torch.Generator) -> Tensor:
        return x[index] + torch.randint(0, 100, (len(index), 1), generator=generator, dtype=torch.uint8)

    return Split(x, torch.arange(50), drawn if redraw else None)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("redraw", [True, False])
def test_buffers_are_filled_with_the_batches_of_the_loader(resident: bool, redraw: bool) -> None:
    data, limit = split(resident, redraw), None if resident else 0
    batches = Batches(data, 8, seed=1, last_step=20, resident_bytes=limit)
    buffers = batches.buffers()
    places = [None if part is None else part.data_ptr() for part in buffers]
    wanted = list(Batches(data, 8, seed=1, last_step=20, resident_bytes=limit))
    steps = batches.into(buffers, 3)
    for step, (x, y) in zip(steps, wanted[3:], strict=False):
        assert torch.equal(buffers[0], x)
        assert buffers[1] is None or (y is not None and torch.equal(buffers[1], y))
        assert [None if part is None else part.data_ptr() for part in buffers] == places
        assert step >= 3
    steps.close()


def test_copies_made_for_the_comparison_are_no_memory_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter of bytes stands for the device's: 100 at first, 60 for a copy of the state, 500 at most in a step."""
    held, forgotten = iter([100, 160]), []
    monkeypatch.setattr(captured_module, "allocated", lambda _: next(held))
    monkeypatch.setattr(captured_module, "peak_memory", lambda _: 500)
    monkeypatch.setattr(captured_module, "forget_peak", lambda _: forgotten.append(1))
    progress = train(model_of("vae"), tmp_path / "run", TapeGraphs())
    assert progress.peak_memory == 440
    assert len(forgotten) == 2  # before the step that is counted, and after the comparison
