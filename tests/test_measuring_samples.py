"""Samples of others are measured like a model's own: one number, one line, and a skipped row for what they lack."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_runs import rows_of, the_run
from PIL import Image

from bench.cli.main import main
from bench.rows.store import read_rows
from bench.runs.folder import RunFolder
from bench.schema import Source, Status


def saved(x: torch.Tensor, kind: str, folder: Path) -> Path:
    path = folder / f"fakes{kind}"
    if kind == ".npy":
        np.save(path, x.numpy())
    elif kind == ".npz":
        np.savez(path, x.numpy())
    elif kind == ".pt":
        torch.save(x, path)
    else:
        path.mkdir()
        for index, image in enumerate(x):
            Image.fromarray(image[0].numpy()).save(path / f"{index:04}.png")
    return path


@pytest.mark.parametrize("kind", [".npy", ".npz", ".pt", ""])
def test_samples_of_others_are_measured_like_ones_own(kind: str, workplace: Path) -> None:
    metrics = "metric=[fid,inception_score,birthday]"
    assert main(["run", "model=resampler", "data=mnist5k", metrics, "evaluate.n_samples=300"]) == 0
    own = {row.metric: row for row in rows_of(the_run(workplace), "resampler")}
    with np.load(the_run(workplace) / "samples-best.npz") as stored:
        x = torch.from_numpy(stored["samples"])
    path = saved(x, kind, workplace)
    command = ["evaluate", f"samples={path.name}", "label=theirs", "data=mnist5k", metrics, "evaluate.n_samples=300"]
    assert main(command) == 0
    (folder,) = [path.parent for path in workplace.glob("runs/mnist5k/mnist5k-theirs-*/rows.jsonl")]
    theirs = {row.metric: row for row in rows_of(folder, "theirs")}
    assert set(theirs) == set(own) == {"fid[mnist-cnn]", "is[mnist-cnn]", "support[pixels]"}
    for metric, row in theirs.items():
        assert row.source is Source.EXTERNAL_SAMPLES
        assert row.value == pytest.approx(own[metric].value, rel=1e-8)
        assert row.stderr == pytest.approx(own[metric].stderr, rel=1e-8)
        assert row.protocol == own[metric].protocol
    table = (workplace / "results" / "leaderboard" / "mnist5k.md").read_text()
    assert "| theirs (external samples) |" in table, "samples of others have no checkpoint to tell of"
    assert "| resampler |" in table
    before = (folder / "rows.jsonl").read_bytes()
    assert main(command) == 0, "and measured once"
    assert (folder / "rows.jsonl").read_bytes() == before


def test_what_samples_lack_is_a_skipped_row(workplace: Path) -> None:
    np.save(workplace / "fakes.npy", np.random.default_rng(0).normal(size=(100, 2)))
    command = ["evaluate", "samples=fakes.npy", "data=two_moons", "data.n_train=500", "data.n_test=100"]
    assert main([*command, "evaluate.n_samples=50"]) == 0
    (folder,) = [path.parent for path in workplace.glob("runs/two_moons/two_moons-fakes-*/rows.jsonl")]
    rows = {row.metric: row for row in rows_of(folder, "fakes")}
    assert rows["log_likelihood"].reason == "only samples are given: they have no likelihood"
    assert rows["support[pixels]"].status is Status.OK
    assert rows["support[pixels]"].n_fake == 50
    assert all(row.status is not Status.FAILED for row in rows.values())


def test_a_kill_while_samples_are_measured_loses_no_row(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(workplace / "fakes.npy", np.random.default_rng(0).normal(size=(100, 2)))
    command = ["evaluate", "samples=fakes.npy", "data=two_moons", "data.n_test=100"]
    assert main([*command, "metric=[birthday]"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "end", lambda *_: None)
        assert main([*command, "metric=[fid]", "metric.fid.features=pixels"]) == 0
    assert main([*command, "metric=[modes]"]) == 0
    (folder,) = [path.parent for path in workplace.glob("runs/two_moons/two_moons-fakes-*/rows.jsonl")]
    assert {"support[pixels]", "fid[pixels]", "modes"} <= {row.metric for row in rows_of(folder, "fakes")}


def test_another_seed_is_another_number_in_the_same_line(workplace: Path) -> None:
    np.save(workplace / "fakes.npy", np.random.default_rng(0).normal(size=(200, 2)))
    command = ["evaluate", "samples=fakes.npy", "data=two_moons", "data.n_test=100", "metric=[fid]",
               "metric.fid.features=pixels", "evaluate.n_samples=60"]  # fmt: skip
    for seed in (0, 1):
        assert main([*command, f"seed={seed}"]) == 0
    rows = [row for path in workplace.glob("runs/*/*/rows.jsonl") for row in read_rows(path)]
    assert len({row.value for row in rows}) == len({row.seed for row in rows}) == 2
    assert len({row.group for row in rows}) == 1


def test_changed_samples_are_another_line(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    command = [
        "evaluate",
        "samples=fakes.npy",
        "label=theirs",
        "data=two_moons",
        "data.n_test=100",
        "metric=[birthday]",
    ]
    for _ in range(2):
        np.save(workplace / "fakes.npy", rng.normal(size=(100, 2)))
        assert main(command) == 0
    assert len(list(workplace.glob("runs/two_moons/two_moons-theirs-*"))) == 2
