"""Probes look on: they see every step and every validation, and change nothing."""

import csv
from pathlib import Path

import pytest
import torch
from helpers_models import new_model, small_data
from helpers_probes import Largest, Watch

from bench.checkpoint import Progress, load_checkpoint
from bench.cli.main import main
from bench.config.spec import Hardware, Schedule
from bench.probe import Probe
from bench.training.fit import fit
from bench.training.probes import GradientNorm

DATA = small_data((3,), None)


def train(folder: Path, *probes: Probe) -> None:
    folder.mkdir(exist_ok=True)
    schedule = Schedule(examples=96, batch_size=16, validate_every=32, clip_norm=0.5)
    scores = iter([3.0, 2.0, 1.0])
    fit(
        new_model("realnvp", DATA.spec), DATA, schedule, Hardware(), seed=0, folder=folder, config={},
        validate=lambda _: next(scores), probes=probes,
    )  # fmt: skip


def test_a_probe_sees_every_step_and_every_validation_and_changes_no_bit(tmp_path: Path) -> None:
    watch = Watch()
    train(tmp_path / "with", watch, GradientNorm())
    assert watch.steps == [16, 32, 48, 64, 80, 96]
    assert watch.validations == [(32, 3.0), (64, 2.0), (96, 1.0)]
    train(tmp_path / "without")
    weights = [load_checkpoint(tmp_path / name / "final.ckpt")["state_dict"] for name in ("with", "without")]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_the_gradient_norm_is_the_largest_since_the_last_validation(tmp_path: Path) -> None:
    watch, largest = Watch(), Largest()
    train(tmp_path, watch, largest)
    by_interval = [max(watch.norms[start : start + 2]) for start in (0, 2, 4)]
    assert largest.told == pytest.approx(by_interval, rel=1e-5)
    assert all(0 < norm <= 0.5 * (1 + 1e-5) for norm in largest.told), "as clipped"
    assert GradientNorm().validated(new_model("realnvp", DATA.spec), Progress(), None) == {}, "nothing was seen"


def test_a_run_asks_for_probes_by_name_and_finds_them_among_its_curves(workplace: Path) -> None:
    command = ["run", "model=dcgan", "data=two_moons", "data.n_train=200", "data.n_val=50", "data.n_test=50",
               "metric=[cost]", "train.examples=640", "train.validate_every=320", "evaluate.n_samples=10",
               "logger=csv", "probe=[gradient_norm]"]  # fmt: skip
    assert main(command) == 0
    (curves,) = workplace.glob("runs/*/*/curves/metrics.csv")
    with curves.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["step"]) for line in lines] == [320, 640]
    assert all(float(line["gradient_norm"]) > 0 for line in lines)
