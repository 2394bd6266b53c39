"""The trainer: order of batches, budgets, selection, averages, divergence, and resume to the same bits."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import new_model, small_data
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from bench.checkpoint import Progress, load_checkpoint, load_weights
from bench.config.spec import Hardware, Schedule
from bench.data.base import Split
from bench.data.loader import Batches
from bench.errors import DivergedError, UserError
from bench.training.ema import EMA
from bench.training.fit import fit
from models.base import GenerativeModel

DATA = small_data((4,), None, n=100)


def train(model: GenerativeModel, folder: Path, validate: Any = None, **schedule: Any) -> Progress:
    asked = {"examples": 320, "batch_size": 16, "validate_every": 64} | schedule
    return fit(model, DATA, Schedule(**asked), Hardware(), seed=5, folder=folder, config={"a": 1}, validate=validate)


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(path)["state_dict"]
    return state


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def numbered(n: int) -> Split:
    return Split(torch.arange(n, dtype=torch.uint8).unsqueeze(1), torch.arange(n))


def test_every_epoch_visits_examples_once_in_an_order_of_its_own() -> None:
    batches = list(Batches(numbered(50), 7, seed=1, last_step=14))
    epochs = [torch.cat([x for x, _ in batches[start : start + 7]]).flatten() for start in (0, 7)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 49
    assert not torch.equal(*epochs)
    assert all(torch.equal(x.flatten().long(), y) for x, y in batches if y is not None)


def test_loader_resumes_at_any_step() -> None:
    whole = [x for x, _ in Batches(numbered(50), 8, seed=1, last_step=20)]
    for start in (0, 3, 6, 7, 19):
        rest = [x for x, _ in Batches(numbered(50), 8, seed=1, first_step=start, last_step=20)]
        assert len(rest) == 20 - start
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_processes_share_each_batch_without_overlap() -> None:
    parts = [list(Batches(numbered(60), 5, seed=1, rank=rank, world_size=3, last_step=4)) for rank in range(3)]
    together = [torch.cat([part[step][0] for part in parts]) for step in range(4)]
    alone = [x for x, _ in Batches(numbered(60), 15, seed=1, last_step=4)]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len(set(torch.cat(together).flatten().tolist())) == 60


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 10 examples"):
        Batches(numbered(10), 4, seed=0, world_size=3)


@pytest.mark.parametrize("name", ["realnvp", "vae", "dcgan", "wgan"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_train_20_equals_train_8_resume_12(name: str, ema: float | None, tmp_path: Path) -> None:
    """The last checkpoint of a run that died at step 8 of 20 carries on to the same weights, bit for bit."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    train(new_model(name, DATA.spec), tmp_path / "whole", ema_decay=ema)

    class KilledError(Exception):
        pass

    def die_at_192(model: GenerativeModel) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KilledError  # the checkpoint after 128 examples stands; 64 more are lost
        return -float(len(calls))

    calls: list[int] = []
    with pytest.raises(KilledError):
        train(new_model(name, DATA.spec), tmp_path / "parts", ema_decay=ema, validate=die_at_192)
    assert load_checkpoint(tmp_path / "parts" / "last.ckpt")["state_dict"]
    torch.randn(7)  # wherever the global generator stands by then
    progress = train(new_model(name, DATA.spec, seed=9), tmp_path / "parts", ema_decay=ema)
    assert progress.steps == 20
    assert same(weights(tmp_path / "whole" / "final.ckpt"), weights(tmp_path / "parts" / "final.ckpt"))


def test_curves_of_a_resumed_run_hold_what_came_before(tmp_path: Path) -> None:
    def curves(folder: Path) -> list[str]:
        lines = (folder / "curves" / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("step")
        return [line.split(",")[column] for line in lines[1:]]

    def run(scores: list[float | None]) -> None:
        def score(model: GenerativeModel) -> float:
            value = scores.pop(0)
            if value is None:
                raise ZeroDivisionError
            return value

        logger = CSVLogger(str(tmp_path), name=None, version="curves")
        schedule = Schedule(examples=256, batch_size=16, validate_every=64)
        model = new_model("vae", DATA.spec)
        fit(model, DATA, schedule, Hardware(), seed=5, folder=tmp_path, config={}, validate=score, logger=logger)

    with pytest.raises(ZeroDivisionError):
        run([3.0, 2.0, None])
    assert curves(tmp_path) == ["64", "128"]
    run([1.0, 0.5])
    assert curves(tmp_path) == ["64", "128", "192", "256"]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = train(new_model("vae", DATA.spec), tmp_path)
    before = (tmp_path / "final.ckpt").read_bytes()
    again = train(new_model("vae", DATA.spec, seed=3), tmp_path)
    assert again == first
    assert (tmp_path / "final.ckpt").read_bytes() == before


def test_budget_in_examples_is_kept_for_every_model(tmp_path: Path) -> None:
    for name in ("vae", "wgan"):
        folder = tmp_path / name
        folder.mkdir()
        progress = train(new_model(name, DATA.spec), folder, examples=100)
        assert progress.examples_seen == 112  # whole batches: the first multiple of 16 that reaches 100
        assert progress.finished == "budget spent"


def test_budget_in_seconds_ends_training(tmp_path: Path) -> None:
    progress = train(new_model("vae", DATA.spec), tmp_path, examples=None, seconds=0.3, validate_every=10**6)
    assert progress.train_seconds >= 0.3
    assert progress.examples_seen == 16 * progress.steps  # at which step it ends: test_selection.py
    assert (tmp_path / "final.ckpt").exists()


def test_the_best_checkpoint_is_the_one_with_the_best_score(tmp_path: Path) -> None:
    scores = iter([3.0, 1.0, 2.0, 1.5, 4.0])
    kept: list[dict[str, Tensor]] = []

    def validate(model: GenerativeModel) -> float:
        assert not model.training
        kept.append(copy.deepcopy(model.state_dict()))
        return next(scores)

    progress = train(new_model("vae", DATA.spec), tmp_path, validate=validate)
    assert (progress.best_score, progress.best_examples) == (1.0, 128)
    assert same(weights(tmp_path / "best.ckpt"), kept[1])
    assert same(weights(tmp_path / "final.ckpt"), kept[-1])
    assert [score for _, score in progress.history] == [3.0, 1.0, 2.0, 1.5, 4.0]


def test_early_stopping_waits_for_its_patience(tmp_path: Path) -> None:
    scores = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    progress = train(new_model("vae", DATA.spec), tmp_path, validate=lambda _: next(scores), patience=2)
    assert progress.examples_seen == 256
    assert progress.finished == "no better score in 2 validations"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient", "score"])
def test_divergence_stops_and_keeps_the_last_good_checkpoint(bad: float, where: str, tmp_path: Path) -> None:
    model = new_model("vae", DATA.spec)
    plain_step = model.training_step

    def poisoned_step(batch: Any, batch_idx: int) -> Tensor:
        loss = plain_step(batch, batch_idx)
        assert isinstance(loss, Tensor)
        if batch_idx == 10 and where == "loss":
            return loss * bad
        if batch_idx == 10 and where == "gradient":
            next(model.parameters()).register_hook(lambda gradient: gradient * bad)
        return loss

    model.training_step = poisoned_step  # type: ignore[method-assign]
    scores = iter([1.0, 0.9, bad if where == "score" else 0.8, 0.7, 0.6])
    with pytest.raises(DivergedError, match=r"diverged at example \d+ \(") as caught:
        train(model, tmp_path, validate=lambda _: next(scores))
    # A bad gradient spoils the weights of step 11, and so the loss of step 12.
    assert caught.value.examples_seen == {"loss": 176, "gradient": 192, "score": 192}[where]
    for name in ("best.ckpt", "last.ckpt"):
        assert all(torch.isfinite(value.float()).all() for value in weights(tmp_path / name).values())
    assert json.loads(load_checkpoint(tmp_path / "best.ckpt")["config"]) == {"a": 1}


def test_gradient_clipping_reaches_both_kinds_of_optimization(tmp_path: Path) -> None:
    for name in ("vae", "dcgan"):
        folder = tmp_path / name
        folder.mkdir()
        model = new_model(name, DATA.spec)
        norms: list[float] = []

        def record(optimizer: torch.optim.Optimizer, *_: Any, norms: list[float] = norms) -> None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))

        make = model.configure_optimizers

        def hooked(make: Any = make, record: Any = record) -> Any:
            made = make()
            for optimizer in made if isinstance(made, list | tuple) else [made]:
                optimizer.register_step_post_hook(record)
            return made

        model.configure_optimizers = hooked  # type: ignore[method-assign]
        train(model, folder, clip_norm=0.01)
        assert norms
        assert max(norms) <= 0.0101


def test_moving_average_follows_its_formula_and_only_its_own_optimizer() -> None:
    module, other = nn.Linear(2, 1, bias=False), nn.Linear(2, 1)
    sgd, foreign = torch.optim.SGD(module.parameters(), lr=0.5), torch.optim.SGD(other.parameters(), lr=0.5)
    ema = EMA(module, [foreign, sgd], decay=0.5)
    expected = torch.zeros(1, 2)  # whatever it was before the first step
    for step in range(1, 6):
        foreign.step()
        module.weight.grad = torch.randn(1, 2, generator=torch.Generator().manual_seed(step))
        sgd.step()
        decay = min(0.5, (step - 1) / (step + 8))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    raw = module.weight.detach().clone()
    with ema.swapped_in():
        torch.testing.assert_close(module.weight.detach(), expected)
    assert torch.equal(module.weight.detach(), raw)
    assert ema.updates == 5


def test_exported_weights_are_the_averaged_ones(tmp_path: Path) -> None:
    train(new_model("vae", DATA.spec), tmp_path, ema_decay=0.9)
    raw, averaged = load_checkpoint(tmp_path / "last.ckpt")["state_dict"], weights(tmp_path / "final.ckpt")
    floats = [key for key, value in raw.items() if value.is_floating_point()]
    assert not any(torch.equal(raw[key], averaged[key]) for key in floats)


def test_compiled_training_takes_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the eager backend: what is tested is that compiling changes neither weights nor their names."""
    compiled: list[str] = []
    plain_compile = nn.Module.compile

    def compile_eagerly(module: nn.Module) -> None:
        compiled.append(type(module).__name__)
        plain_compile(module, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    (tmp_path / "plain").mkdir()
    train(new_model("realnvp", DATA.spec), tmp_path / "plain", examples=64)
    fit(
        new_model("realnvp", DATA.spec), DATA, Schedule(examples=64, batch_size=16, validate_every=64),
        Hardware(compile=True), seed=5, folder=tmp_path, config={},
    )  # fmt: skip
    assert compiled == ["Chain"]
    assert same(weights(tmp_path / "plain" / "final.ckpt"), weights(tmp_path / "final.ckpt"))


@pytest.mark.parametrize(
    ("schedule", "complaint"),
    [
        ({"examples": None}, "both null"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"examples": -5}, "examples=-5"),
        ({"ema_decay": 1.5}, "ema_decay=1.5"),
        ({"batch_size": 4096}, "at most the 100 training examples"),
    ],
)
def test_impossible_schedules_are_refused(schedule: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        train(new_model("vae", DATA.spec), tmp_path, **schedule)


def test_clipping_scaled_gradients_is_refused_where_a_model_optimizes_by_hand(tmp_path: Path) -> None:
    data = small_data((1, 8, 8), 256)
    schedule = Schedule(examples=32, batch_size=16, clip_norm=1.0)
    hardware = Hardware(precision="16-mixed")
    with pytest.raises(UserError, match="bf16-mixed"):
        fit(new_model("dcgan", data.spec), data, schedule, hardware, seed=0, folder=tmp_path, config={})


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    train(new_model("vae", DATA.spec), tmp_path, examples=16)
    with pytest.raises(UserError, match="does not fit this model"):
        load_weights(new_model("realnvp", DATA.spec), tmp_path / "final.ckpt")


def test_a_training_step_without_a_loss_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data((2,), None)
    model = new_model("realnvp", data.spec)
    monkeypatch.setattr(type(model), "training_step", lambda self, batch, batch_idx: None)
    with pytest.raises(ValueError, match="training_step returned no loss"):
        fit(model, data, Schedule(examples=64, batch_size=16), Hardware(), seed=0, folder=tmp_path, config={})
