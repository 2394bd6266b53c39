"""Diagnostics of training from end to end: no changed bit, curves that a resumed run goes on with, lines and notes."""

import csv
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_diagnostics import IMAGES, POINTS, VECTORS, column, diagnosed, silent, train, width_of
from helpers_models import new_model
from helpers_probes import Kill, KilledError
from torch import Tensor

from bench.checkpoint import Progress, load_checkpoint
from bench.cli.main import main
from bench.data.base import Data
from bench.errors import DivergedError
from bench.probe import Probe
from bench.rows.store import read_rows
from bench.tables.curves import read_curve, write_curve
from bench.training.diagnostics import Diagnostics
from bench.training.probes import (
    ActiveUnits,
    ClippedWeights,
    Collapse,
    Discriminator,
    GeneratorGradient,
    GradientNorm,
    ModesOverTime,
)
from models.base import GenerativeModel, HasDiscriminator


def every_probe() -> dict[str, Probe]:
    return {
        "gradient_norm": GradientNorm(), "generator_gradient": GeneratorGradient(),
        "discriminator": Discriminator(50), "clipped_weights": ClippedWeights(), "modes_over_time": ModesOverTime(50),
        "active_units": ActiveUnits(50), "collapse": Collapse(),
    }  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bigan", IMAGES),
        ("ali", POINTS),
        ("wgan", IMAGES),
        ("dcgan", POINTS),
        ("vae", VECTORS),
        ("residual_flow", VECTORS),
    ],
)
def test_all_probes_together_change_no_bit_of_training(name: str, data: Data, tmp_path: Path) -> None:
    diagnosed(new_model(name, data.spec), data, tmp_path / "with", every_probe())
    train(new_model(name, data.spec), data, tmp_path / "without")
    final, last = (
        [load_checkpoint(tmp_path / place / file) for place in ("with", "without")]
        for file in ("final.ckpt", "last.ckpt")
    )
    assert same(final[0]["state_dict"], final[1]["state_dict"])
    for part in ("state_dict", "optimizer_states"):
        assert same(last[0][part], last[1][part])
    assert same(last[0]["callbacks"]["supervisor"]["rng"], last[1]["callbacks"]["supervisor"]["rng"])
    assert list((tmp_path / "with").glob("probe-*.csv")), "some were asked"


class Careless(Probe):
    """Draws from every global generator, and leaves the model in another mode."""

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        assert not model.training
        model.train()
        if isinstance(model, HasDiscriminator):
            model.verdicts((IMAGES.val.x, None))
        return {"noise": float(torch.rand(())) + random.random() + np.random.rand()}


def test_what_a_careless_probe_changes_is_put_back(tmp_path: Path) -> None:
    train(new_model("bigan", IMAGES.spec), IMAGES, tmp_path / "with", Careless())
    train(new_model("bigan", IMAGES.spec), IMAGES, tmp_path / "without")
    states, last = (
        [load_checkpoint(tmp_path / place / f"{name}.ckpt") for place in ("with", "without")]
        for name in ("final", "last")
    )
    assert same(states[0]["state_dict"], states[1]["state_dict"])
    assert any(key.endswith("running_mean") for key in states[0]["state_dict"]), "there is what a forward changes"
    assert same(last[0]["callbacks"]["supervisor"]["rng"], last[1]["callbacks"]["supervisor"]["rng"])


def test_a_part_that_a_model_keeps_in_evaluation_mode_stays_so(tmp_path: Path) -> None:
    """As a network that was trained elsewhere, whose batch statistics must not move."""
    model, seen = new_model("vae", VECTORS.spec), []
    model.frozen = torch.nn.BatchNorm1d(3).eval()
    plain_step = model.training_step

    def watched(batch: Any, batch_idx: int) -> Any:
        seen.append((model.training, model.frozen.training))
        return plain_step(batch, batch_idx)

    model.training_step = watched  # type: ignore[method-assign]
    train(model, VECTORS, tmp_path, GradientNorm(), scores=iter([3.0, 2.0, 1.0, 0.0]))
    assert seen == [(True, False)] * 8


@pytest.mark.parametrize(
    ("model", "data", "passed_over"),
    [
        ("vae", VECTORS, {"generator_gradient": "no generator", "discriminator": "no discriminator",
                          "clipped_weights": "clips no weights", "modes_over_time": "modes of small are not known"}),
        ("realnvp", POINTS, {"generator_gradient": "no generator", "discriminator": "no discriminator",
                             "clipped_weights": "clips no weights", "active_units": "is a bijection"}),
        ("bigan", POINTS, {"clipped_weights": "clips no weights"}),
        ("gaussian", POINTS, dict.fromkeys(every_probe(), "fitted in one pass")),
    ],
)  # fmt: skip
def test_a_probe_that_does_not_apply_is_passed_over_with_a_line(
    model: str, data: Data, passed_over: dict[str, str], tmp_path: Path
) -> None:
    said: list[str] = []
    diagnostics = Diagnostics(every_probe(), tmp_path, "title")
    diagnostics.start(new_model(model, data.spec), data, said.append, silent)
    assert set(diagnostics.probes) == set(every_probe()) - set(passed_over)
    assert len(said) == len(passed_over)
    for name, reason in passed_over.items():
        (line,) = [text for text in said if text.startswith(f"probe {name} is passed over: ")]
        assert reason in line


def test_a_resumed_run_goes_on_with_the_curves_of_a_killed_one(tmp_path: Path) -> None:
    def run(folder: Path, *others: Probe) -> None:
        scores = iter([5.0, 4.0, 3.0, 2.0])
        diagnosed(new_model("bigan", POINTS.spec), POINTS, folder, every_probe(), *others, scores=scores)

    run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "parts", Kill(5))
    assert len(column(tmp_path / "parts", "collapse", "examples_seen")) == 2
    assert not list((tmp_path / "parts").glob("*.png"))
    # A point after the checkpoint that the run goes on from: it was killed between the two.
    torn = tmp_path / "parts" / "probe-discriminator.csv"
    write_curve(torn, [*read_curve(torn), {"examples_seen": 96.0, "discriminator_gap": 7.0}])
    scores = iter([3.0, 2.0])
    diagnosed(new_model("bigan", POINTS.spec), POINTS, tmp_path / "parts", every_probe(), scores=scores)
    names = sorted(file.name for file in (tmp_path / "whole").glob("probe-*"))
    assert names == sorted(file.name for file in (tmp_path / "parts").glob("probe-*"))
    assert len([name for name in names if name.endswith(".csv")]) == 6
    for name in names:
        if name.endswith(".csv"):
            assert (tmp_path / "whole" / name).read_text() == (tmp_path / "parts" / name).read_text(), name


def test_a_training_that_diverges_leaves_its_pictures(tmp_path: Path) -> None:
    scores = iter([1.0, 2.0, math.nan])
    with pytest.raises(DivergedError):
        diagnosed(new_model("vae", VECTORS.spec), VECTORS, tmp_path, {"g": GradientNorm()}, scores=scores)
    assert len(column(tmp_path, "g", "gradient_norm")) == 2
    assert width_of(tmp_path / "probe-g.png") == 700


# From the command line


TOY = ["run", "model=bigan", "model.width=4", "model.latent_dim=2", "data=ring8", "data.n_train=400", "data.n_val=100",
       "data.n_test=100", "train.examples=640", "train.validate_every=128", "evaluate.n_samples=20"]  # fmt: skip


def test_a_run_keeps_the_curves_of_its_probes_and_both_checkpoints_have_lines(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = "probe=[discriminator,modes_over_time,clipped_weights,collapse]"
    assert main([*TOY, probes, "metric=[modes,collapse]", "evaluate.checkpoints=[best,final]", "logger=csv"]) == 0
    said = capsys.readouterr()
    assert "probe clipped_weights is passed over: the model clips no weights" in said.err
    assert "bigan (best)" in said.out
    assert "bigan (final)" in said.out
    (run,) = workplace.glob("runs/*/*")
    found = {file.name for file in run.glob("probe-*")}
    assert found == {f"probe-{name}.{kind}" for name in ("discriminator", "modes_over_time", "collapse")
                     for kind in ("csv", "png")}  # fmt: skip
    with (run / "curves" / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["modes_hit"]) for line in lines] == column(run, "modes_over_time", "modes_hit")
    rows = read_rows(run / "rows.jsonl")
    trained = [row for row in rows if row.model == "bigan"]
    assert {row.checkpoint for row in trained if row.metric == "modes"} == {"best", "final"}
    collapsed = {row.checkpoint: row.value for row in trained if row.metric == "collapsed"}
    assert collapsed.keys() == {"best", "final"}
    assert set(collapsed.values()) in ({0.0}, {1.0}), "one training, one answer"
    assert {(run / f"samples-{name}.png").exists() for name in ("best", "final")} == {True}


def test_a_collapsed_run_says_so_and_its_cell_has_a_note(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([1.2, 1.0, 1.0, 1.0, 9.0])
    monkeypatch.setattr("bench.runs.run.validation_score", lambda *_: lambda model: next(scores))
    assert main([*TOY, "metric=[collapse]"]) == 0
    said = capsys.readouterr()
    assert "the final validation score is 9, the best was 1, at 256 examples" in said.err
    assert "the final checkpoint is much worse than the best one" in " ".join(said.out.split())
    (row,) = [row for row in read_rows(next(workplace.glob("runs/*/*/rows.jsonl"))) if row.metric == "collapsed"]
    assert row.value == 1
