"""A damaged last.ckpt costs the training before it, never the run."""

import errno
import io
import os
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers_models import new_model, small_data
from torch import Generator, Tensor

from bench.checkpoint import Progress, load_checkpoint, save_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.errors import UserError
from bench.rng import rng_state, seeded, set_rng_state
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.training.fit import fit
from bench.training.supervisor import Supervisor
from models.base import Batch
from models.vaes.vae import VAE

DATA = small_data((4,), None, n=100)


class StoppedError(Exception):
    """The run is interrupted."""


def train(
    folder: Path, name: str = "vae", stop: int | None = None, ema: float | None = 0.9, precision: str = "32-true"
) -> list[str]:
    """Train to the end, or to an interruption after ``stop`` validations; return the lines said."""
    said: list[str] = []
    left = iter(range(100 if stop is None else stop))

    def validate(model: object) -> float:
        if next(left, None) is None:
            raise StoppedError
        return 1.0

    schedule = Schedule(examples=320, batch_size=16, validate_every=64, ema_decay=ema)
    fit(
        new_model(name, DATA.spec), DATA, schedule, Hardware(precision=precision), seed=5, folder=folder,
        config={"a": 1}, validate=validate, say=said.append,
    )  # fmt: skip
    return said


def interrupted(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    with pytest.raises(StoppedError):
        train(folder, stop=2, **changes)
    return folder / "last.ckpt"


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("peace")
    assert train(folder) == []
    weights: dict[str, Any] = load_checkpoint(folder / "final.ckpt")["state_dict"]
    return weights


def flip(content: bytes) -> bytes:
    """Other weights: one byte in the middle of a tensor's."""
    stored = torch.load(io.BytesIO(content), weights_only=True)["state_dict"]
    tensor = max(stored.values(), key=torch.Tensor.numel).numpy().tobytes()
    place = content.index(tensor) + len(tensor) // 2
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "all but one byte": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"not a checkpoint",
    "another byte": flip,
}


@pytest.mark.parametrize("how", BYTES)
def test_a_damaged_checkpoint_starts_training_again(how: str, tmp_path: Path, peace: dict[str, Any]) -> None:
    last = interrupted(tmp_path / "run")
    last.write_bytes(BYTES[how](last.read_bytes()))
    (line,) = train(tmp_path / "run")
    assert line.startswith(f"{last} cannot be gone on from (")
    assert line.endswith("): training starts again")
    assert "\n" not in line
    assert same(load_checkpoint(tmp_path / "run" / "final.ckpt")["state_dict"], peace)


def of_supervisor(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def changed(payload: dict[str, Any]) -> dict[str, Any]:
        state = payload["callbacks"]["supervisor"]
        return payload | {"callbacks": {"supervisor": state | changes}}

    return changed


CONTENTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "nothing": lambda payload: {},
    "no weights": lambda payload: payload | {"state_dict": {}},
    "no optimizers' state": lambda payload: payload | {"optimizer_states": [{}]},
    "no callbacks": lambda payload: payload | {"callbacks": {}},
    "no numbers": of_supervisor(progress=None),
    "no averages": of_supervisor(ema=None),
    "no random numbers": of_supervisor(rng=[{}]),
    "broken random numbers": of_supervisor(rng=[{"global": rng_state() | {"python": [3, [1], None]}, "train": 1}]),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_a_wrong_content_starts_training_again(what: str, tmp_path: Path, peace: dict[str, Any]) -> None:
    last = interrupted(tmp_path / "run")
    save_checkpoint(last, CONTENTS[what](load_checkpoint(last)))
    (line,) = train(tmp_path / "run")
    assert "training starts again" in line
    assert same(load_checkpoint(tmp_path / "run" / "final.ckpt")["state_dict"], peace)


@pytest.mark.parametrize("other", ["best.ckpt of the run", "last.ckpt of another model", "last.ckpt without averages"])
def test_another_checkpoint_in_its_place_starts_training_again(
    other: str, tmp_path: Path, peace: dict[str, Any]
) -> None:
    last = interrupted(tmp_path / "run")
    if other.startswith("best"):
        last.write_bytes((tmp_path / "run" / "best.ckpt").read_bytes())
    else:
        changes: dict[str, Any] = {"name": "wgan"} if "model" in other else {"ema": None}
        last.write_bytes(interrupted(tmp_path / "other", **changes).read_bytes())
    (line,) = train(tmp_path / "run")
    assert "training starts again" in line
    assert same(load_checkpoint(tmp_path / "run" / "final.ckpt")["state_dict"], peace)


def test_a_sound_checkpoint_is_gone_on_from(tmp_path: Path, peace: dict[str, Any]) -> None:
    interrupted(tmp_path / "run")
    with pytest.raises(StoppedError):
        train(tmp_path / "run", stop=2)
    assert train(tmp_path / "run", stop=1) == [], "of five validations four were made before"
    assert same(load_checkpoint(tmp_path / "run" / "final.ckpt")["state_dict"], peace)


def test_weights_of_double_precision_are_gone_on_from_unrounded(tmp_path: Path) -> None:
    (tmp_path / "peace").mkdir()
    train(tmp_path / "peace", precision="64-true")
    interrupted(tmp_path / "run", precision="64-true")
    assert train(tmp_path / "run", precision="64-true") == []
    ended = [load_checkpoint(tmp_path / name / "final.ckpt")["state_dict"] for name in ("run", "peace")]
    assert same(*ended)
    assert all(weight.dtype == torch.float64 for weight in ended[0].values() if weight.is_floating_point())


def test_a_resumed_run_changes_learning_rates_where_a_whole_one_does(tmp_path: Path) -> None:
    rates: list[float] = []

    class Scheduled(VAE):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            every_third = {"scheduler": schedule, "interval": "step", "frequency": 3}
            return {"optimizer": optimizer, "lr_scheduler": every_third}

        def training_step(self, batch: Batch, batch_idx: int) -> Any:
            rates.append(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
            return super().training_step(batch, batch_idx)

    def run(folder: Path, stop: bool) -> None:
        left = iter(range(1 if stop else 100))

        def validate(model: object) -> float:
            if next(left, None) is None:
                raise StoppedError
            return 1.0

        model, schedule = new_model("vae", DATA.spec), Schedule(examples=160, batch_size=16, validate_every=64)
        model.__class__ = Scheduled
        folder.mkdir(exist_ok=True)
        fit(model, DATA, schedule, Hardware(), seed=5, folder=folder, config={}, validate=validate)

    run(tmp_path / "whole", stop=False)
    expected = list(rates)
    assert expected == [0.01 * 0.5 ** (step // 3) for step in range(10)]
    with pytest.raises(StoppedError):
        run(tmp_path / "parts", stop=True)  # after a checkpoint at step 4
    rates.clear()
    run(tmp_path / "parts", stop=False)
    assert rates == expected[4:]
    assert same(*(load_checkpoint(tmp_path / name / "final.ckpt")["state_dict"] for name in ("whole", "parts")))


def test_a_last_checkpoint_that_cannot_be_removed_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    folder = RunFolder(tmp_path)
    folder.last.touch()
    monkeypatch.setattr(Path, "unlink", refused)
    folder.end(Outcome("run", Ended.OK))
    assert (tmp_path / "done.json").exists()


@pytest.mark.parametrize("resumed", [False, True])
def test_every_process_has_random_numbers_of_its_own(resumed: bool, tmp_path: Path) -> None:
    stored = [{"global": state_of(k), "train": Generator().manual_seed(k).get_state()} for k in (5, 6)]

    def draws(rank: int) -> list[Tensor]:
        it = Supervisor(Schedule(), 3, tmp_path, {}, None)
        if resumed:
            it.restore({"progress": asdict(Progress()), "ema": None, "rng": stored})
        trainer: Any = SimpleNamespace(global_rank=rank, optimizers=[], logger=None)
        with seeded(0):
            it.on_train_start(trainer, new_model("vae", DATA.spec))
            return [torch.rand(3, generator=it.generator), torch.rand(3)]

    first, second = draws(0), draws(1)
    assert not torch.equal(first[0], second[0])
    if resumed:
        for k, found in ((5, first), (6, second)):
            generator = Generator().manual_seed(k)
            assert all(torch.equal(one, torch.rand(3, generator=generator.manual_seed(k))) for one in found)


def state_of(seed: int) -> dict[str, Any]:
    with seeded(seed):
        return rng_state()


def test_global_generators_go_on_where_they_were() -> None:
    """Python's and NumPy's make two normal numbers at a time and keep one."""

    def draws() -> tuple[float, float, float]:
        return random.gauss(), np.random.normal(), float(torch.rand(()))

    with seeded(1):
        draws()
        state = rng_state()
        wanted = [draws() for _ in range(3)]
        with seeded(2):
            draws()
        set_rng_state(state)
        assert [draws() for _ in range(3)] == wanted


def test_states_of_gpus_that_are_not_here_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.append)
    set_rng_state({**rng_state(), "cuda": ["first", "second"]})
    assert given == [["first"]]


def test_training_of_another_kind_of_device_is_kept_for_it(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "run")
    payload = load_checkpoint(path)
    state = payload["callbacks"]["supervisor"]
    state["rng"][0]["train"] = torch.zeros(16, dtype=torch.uint8)  # of a generator on CUDA
    state["progress"]["device"] = "NVIDIA H100"
    save_checkpoint(path, payload)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"last.ckpt: was trained on NVIDIA H100, .* cpu cannot go on with.*rerun=true"):
        train(tmp_path / "run")
    assert path.read_bytes() == before
