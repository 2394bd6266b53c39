"""Costs as rows: the whole training, the time to the best score, the load under which it was measured, peak memory."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers_metrics import ORIGIN
from helpers_models import new_model, small_data

from bench.checkpoint import Progress, load_checkpoint, save_checkpoint
from bench.cli.main import main
from bench.evaluation.measure import _whole
from bench.memory import forget_peak, peak_memory
from bench.metrics.cost import Cost
from bench.rows.store import read_rows
from bench.subjects import trained
from bench.subjects.examples import Examples
from bench.training import supervisor

SMALL = [
    "run", "model=realnvp_small", "data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64",
    "metric=[likelihood,cost]", "train.examples=1280", "train.validate_every=320", "evaluate.n_samples=64",
    "evaluate.checkpoints=[best,final]",
]  # fmt: skip


def test_train_s_is_the_whole_training_whatever_the_checkpoint(workplace: Path) -> None:
    assert main(SMALL) == 0
    (folder,) = workplace.glob("runs/*/*realnvp*")
    whole = Progress.of(load_checkpoint(folder / "final.ckpt")["progress"])
    best = Progress.of(load_checkpoint(folder / "best.ckpt")["progress"])
    rows = {(row.metric, row.checkpoint): row for row in read_rows(folder / "rows.jsonl")}
    assert 0 < best.train_seconds == best.best_seconds == whole.best_seconds <= whole.train_seconds
    for checkpoint in ("best", "final"):
        assert rows["train_seconds", checkpoint].value == whole.train_seconds
        assert rows["seconds_to_best", checkpoint].value == best.train_seconds
        speed = rows["train_examples_per_second", checkpoint].value
        assert speed == whole.examples_seen / whole.train_seconds
        for metric in ("train_seconds", "seconds_to_best", "train_examples_per_second"):
            assert rows[metric, checkpoint].load == whole.load
        load = rows["samples_per_second", checkpoint].load
        assert load is not None
        assert 0 < load < 1.5
        assert rows["parameters", checkpoint].load is None
    assert '"model.' in rows["train_seconds", "best"].config


def test_the_end_of_another_training_is_not_this_ones(tmp_path: Path) -> None:
    best = Progress(examples_seen=64, best_examples=64, best_score=1.0)
    for score, same in ((1.0, True), (2.0, False)):
        whole = replace(best, examples_seen=128, finished="budget spent", best_score=score)
        save_checkpoint(tmp_path / "final.ckpt", {"progress": asdict(whole)})
        assert _whole(best, tmp_path / "best.ckpt") == (whole if same else None)


def test_the_load_is_cpu_time_over_wall_time_of_all_threads() -> None:
    progress = Progress(train_seconds=10.0, cpu_seconds=12.0, threads=2)
    assert progress.load == pytest.approx(0.6)
    assert Progress(train_seconds=10.0, cpu_seconds=12.0).load is None, "of a GPU"
    assert Progress().load is None
    # A training that an older version began did not count.
    assert Progress.of({"train_seconds": 10.0, "threads": 1}).load is None


def test_peak_memory_is_a_row_where_a_device_counts_it(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"now": 0}

    def forget(_: torch.device) -> None:
        peaks["now"] = 5 << 20

    def peak(_: torch.device) -> int:
        peaks["now"] += 1 << 20
        return peaks["now"]

    for module in (supervisor, trained):
        monkeypatch.setattr(module, "forget_peak", forget)
        monkeypatch.setattr(module, "peak_memory", peak)
    assert main(SMALL) == 0
    (folder,) = workplace.glob("runs/*/*realnvp*")
    rows = {row.metric: row for row in read_rows(folder / "rows.jsonl") if row.checkpoint == "final"}
    assert rows["peak_memory_training"].value == 6, "of the steps between two validations, without these"
    assert rows["peak_memory_evaluation"].value == 6
    assert rows["peak_memory_training"].unit == "MiB"
    assert Progress.of(load_checkpoint(folder / "final.ckpt")["progress"]).peak_memory == 6 << 20


def test_a_cpu_has_no_such_row_and_no_peak() -> None:
    assert peak_memory(torch.device("cpu")) is None
    forget_peak(torch.device("cpu"))
    data = small_data((2,), None)
    subject = trained.TrainedModel(new_model("linear", data.spec), Progress(), 0, ORIGIN)
    assert not [info.name for info in Cost(8).infos(Examples(subject, data, seed=0)) if "memory" in info.name]


def test_the_memory_of_evaluation_is_that_of_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data((2,), None)
    model = new_model("linear", data.spec)
    weights = sum(one.numel() * one.element_size() for one in model.state_dict().values())
    network = 100 << 20  # that another metric has put there
    monkeypatch.setattr(trained, "allocated", lambda _: network + weights, raising=False)
    monkeypatch.setattr(trained, "peak_memory", lambda _: network + (7 << 20))
    subject = trained.TrainedModel(model, None, 0, ORIGIN)
    assert subject.costs(data.test.x, 8)["peak_memory_evaluation"] == 7
