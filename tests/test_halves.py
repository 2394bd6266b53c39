"""What a GPU is too small for is tried once more in half batches, and comes to the same."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.checkpoint import load_checkpoint
from bench.cli.main import main
from bench.config.build import build_data, build_model
from bench.config.compose import compose_runs
from bench.config.spec import RunSpec
from bench.rows.store import read_rows
from bench.training.halves import take_halves, why_not_halved
from models.flows.base import Flow

RUN = ["model=realnvp", "model.couplings=1", "model.hidden=8", "data=two_moons", "data.n_train=256", "data.n_val=64",
       "data.n_test=64", "metric=[cost]", "train.examples=512", "train.validate_every=128",
       "evaluate.n_samples=8"]  # fmt: skip


class Gpu:
    """Lets a training step on more than ``room`` examples fail as a GPU would, and a later one be interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self.sizes, self.interrupted_at = room, [], -1
        step = Flow.training_step

        def planted(model, batch, batch_idx):
            self.sizes.append(len(batch[0]))
            if len(batch[0]) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            if len(self.sizes) == self.interrupted_at:
                raise KeyboardInterrupt
            return step(model, batch, batch_idx)

        monkeypatch.setattr(Flow, "training_step", planted)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(next(folder.glob("runs/*/*/final.ckpt")))["state_dict"]


def test_a_run_in_halves_comes_to_the_same(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["run", *RUN, "runs_dir=whole/runs"]) == 0
    gpu = Gpu(monkeypatch, room=32)
    gpu.interrupted_at = 1 + 2 + 2 * 5 + 1  # whole, tried on two examples, two validations and a half
    assert main(["run", *RUN]) == 130
    assert gpu.sizes[:5] == [64, 2, 2, 32, 32]
    gpu.sizes, gpu.interrupted_at = [], -1
    assert main(["run", *RUN]) == 0
    assert set(gpu.sizes) == {32}, "it goes on in halves"
    found, expected = weights(workplace), weights(workplace / "whole")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    rows = read_rows(next(workplace.glob("runs/*/*/rows.jsonl")))
    assert all(row.device.endswith(", batches in two halves for want of memory") for row in rows)


def test_what_does_not_fit_in_halves_either_has_failed(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = Gpu(monkeypatch, room=31)
    assert main(["run", *RUN]) == 1
    assert gpu.sizes == [64, 2, 2, 32]
    said = capsys.readouterr().err
    assert "once more with every batch in two halves" in said
    assert "failed: out of memory" in said


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["model=dcgan", "data=mnist5k"], "steps its optimizers itself"),
        (["model=made_orderings"], "changes the model's steps"),
        (["model=realnvp", "train.batch_size=63"], "an even train.batch_size"),
        (["model=realnvp", "trainer.devices=2"], "one device"),
        (["model=flow_matching"], "meet in its loss"),
        (["model=flow_matching", "model.coupling=independent"], ""),
        (["model=vae"], ""),
        (["model=realnvp"], ""),
    ],
)
def test_models_whose_halves_are_no_whole_are_not_halved(overrides: list[str], why: str) -> None:
    data = [] if "data=mnist5k" in overrides else ["data=two_moons"]
    (config,) = compose_runs([*data, *overrides])
    spec = RunSpec.parse(config)
    made = build_data(spec.data)
    found = why_not_halved(build_model(spec.model, made.spec), made, spec.schedule, spec.hardware)
    assert found == "" if why == "" else why in found, found


def test_halves_have_the_loss_and_the_gradient_of_the_whole_batch_with_its_labels() -> None:
    weight, x, y = torch.ones((), requires_grad=True), torch.arange(6.0), torch.tensor([3.0, 1, 4, 1, 5, 9])
    model: Any = SimpleNamespace(
        training_step=lambda batch, _: (weight * batch[0] * batch[1]).mean(), zero_grad=lambda: None
    )
    strategy = SimpleNamespace(backward=lambda loss, _: loss.backward())
    take_halves(model, SimpleNamespace(strategy=strategy, optimizers=[None]))  # type: ignore[arg-type]
    loss = model.training_step((x, y), 0)["loss"]
    loss.backward()
    assert [float(loss.detach()), float(weight.grad)] == pytest.approx([float((x * y).mean())] * 2)
