"""Times as rows: the whole training, the time to the best score, and the load they were measured under."""

from pathlib import Path

import pytest

from bench.checkpoint import Progress, load_checkpoint
from bench.cli.main import main
from bench.rows.store import read_rows

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


def test_the_load_is_cpu_time_over_wall_time_of_all_threads() -> None:
    progress = Progress(train_seconds=10.0, cpu_seconds=12.0, threads=2)
    assert progress.load == pytest.approx(0.6)
    assert Progress(train_seconds=10.0, cpu_seconds=12.0).load is None, "of a GPU"
    assert Progress().load is None
    # A training that an older version began did not count.
    assert Progress.of({"train_seconds": 10.0, "threads": 1}).load is None
