"""What is done again, and what is not: finished, interrupted and repeated runs, and data that change in between."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_runs import the_run

from bench.checkpoint import load_checkpoint, save_checkpoint
from bench.cli.main import main
from bench.rows.store import read_rows
from bench.runs.folder import Ended, RunFolder

QUICK = ["metric=[likelihood]", "train.examples=640", "train.batch_size=32", "train.validate_every=320",
         "evaluate.n_samples=16"]  # fmt: skip
TOY = ["run", "model=linear", "data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64", *QUICK]


def table(path: Path, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(200, 3))
    path.write_text("a,b,c\n" + "\n".join(",".join(f"{cell:.6f}" for cell in row) for row in values) + "\n")


def likelihood(folder: Path) -> tuple[float | None, str]:
    (row,) = [
        row for row in read_rows(folder / "rows.jsonl") if row.metric == "log_likelihood" and row.model != "oracle"
    ]
    return row.value, row.data_revision


def test_a_finished_run_is_run_again_when_its_own_data_have_changed(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(workplace / "mine.csv", 0)
    command = ["run", "data=csv", "data.path=mine.csv", "model=gaussian", *QUICK]
    assert main(command) == 0
    before = likelihood(the_run(workplace))
    assert "finished before" not in capsys.readouterr().err
    assert main(command) == 0
    assert "1 of 1 runs were finished before" in capsys.readouterr().err
    assert likelihood(the_run(workplace)) == before
    table(workplace / "mine.csv", 1)
    assert main(command) == 0
    after = likelihood(the_run(workplace))
    assert after[1] != before[1], "the revision is that of the new file"
    assert after[0] != before[0]
    (workplace / "mine.csv").unlink()
    assert main(command) == 0, "what was measured stands"
    assert likelihood(the_run(workplace)) == after


def interrupt(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Ctrl-C right after the first checkpoint."""
    from pytorch_lightning import Trainer

    plain = Trainer.save_checkpoint

    def save_and_stop(self: Trainer, *arguments: object, **named: object) -> None:
        plain(self, *arguments, **named)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", save_and_stop)
        assert main(command) == 130


def test_training_does_not_go_on_with_other_data(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(workplace / "mine.csv", 0)
    command = ["run", "data=csv", "data.path=mine.csv", "model=linear", *QUICK]
    interrupt(monkeypatch, command)
    folder = the_run(workplace)
    stored = load_checkpoint(folder / "last.ckpt")["callbacks"]
    (progress,) = [part["progress"] for part in stored.values() if "progress" in part]
    assert progress["examples_seen"] == 320
    table(workplace / "mine.csv", 1)
    assert main(command) == 0
    assert "training starts again" in (folder / "run.log").read_text()
    value, revision = likelihood(folder)
    final = load_checkpoint(folder / "final.ckpt")["progress"]
    assert final["data_revision"] == revision != progress["data_revision"]
    assert final["history"][0][0] == 320, "the first validation is of the new training"
    assert main([*command, "runs_dir=fresh"]) == 0
    (fresh,) = [path.parent for path in workplace.glob("fresh/*/*/rows.jsonl")]
    assert likelihood(fresh)[0] == value


def test_rerun_keeps_the_rows_until_there_are_others_and_goes_on_after_ctrl_c(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(TOY) == 0
    folder = the_run(workplace)
    rows = (folder / "rows.jsonl").read_bytes()
    interrupt(monkeypatch, [*TOY, "rerun=true"])
    assert (folder / "rows.jsonl").read_bytes() == rows
    assert not (folder / "done.json").exists()
    assert main([*TOY, "rerun=true"]) == 0
    final = load_checkpoint(folder / "final.ckpt")["progress"]
    assert final["examples_seen"] == 640
    assert json.loads((folder / "done.json").read_text())["ended"] == "ok"


def test_rerun_of_an_interrupted_rerun_takes_its_checkpoint(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that only a resumed training can have: its clock is an hour ahead."""
    assert main(TOY) == 0
    interrupt(monkeypatch, [*TOY, "rerun=true"])
    last = the_run(workplace) / "last.ckpt"
    payload = load_checkpoint(last)
    for part in payload["callbacks"].values():
        part["progress"]["train_seconds"] += 3600.0
    save_checkpoint(last, payload)
    assert main([*TOY, "rerun=true"]) == 0
    assert load_checkpoint(last.with_name("final.ckpt"))["progress"]["train_seconds"] > 3600
    assert main([*TOY, "rerun=true"]) == 0, "finished now: begun anew"
    assert load_checkpoint(last.with_name("final.ckpt"))["progress"]["train_seconds"] < 3600


def test_rows_carry_the_commit_that_trained(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.checkpoint.git_state", lambda: ("a" * 40, False))
    monkeypatch.setattr("bench.evaluation.measure.git_state", lambda: ("b" * 40, False))
    assert main([*TOY, "evaluate.checkpoints=[best]"]) == 0
    rows = [row for row in read_rows(the_run(workplace) / "rows.jsonl") if row.model != "oracle"]
    assert {row.git_commit for row in rows} == {"a" * 40}
    assert all("evaluated at commit bbbbbbbbbb" in row.versions for row in rows)
    assert not any(row.dirty for row in rows)


def test_code_that_changed_on_the_way_is_no_commit(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.checkpoint.git_state", lambda: ("a" * 40, False))
    interrupt(monkeypatch, TOY)
    for module in ("bench.checkpoint", "bench.evaluation.measure"):  # clean again, wherever the test runs
        monkeypatch.setattr(f"{module}.git_state", lambda: ("b" * 40, False))
    assert main(TOY) == 0
    rows = [row for row in read_rows(the_run(workplace) / "rows.jsonl") if row.model != "oracle"]
    assert {(row.git_commit, row.dirty) for row in rows} == {("b" * 40, True)}


def test_a_model_in_a_subfolder_has_a_folder_and_a_leaderboard(workplace: Path) -> None:
    configs = workplace / "theirs" / "model" / "big"
    configs.mkdir(parents=True)
    source = Path(__file__).resolve().parent.parent / "conf" / "model" / "linear.yaml"
    (configs / "flow.yaml").write_text(source.read_text())
    command = [f"hydra.searchpath=[file://{workplace}/theirs]" if part == "model=linear" else part for part in TOY]
    assert main([*command, "model=big/flow"]) == 0
    assert the_run(workplace).name.startswith("two_moons-big-flow-s0-")
    assert "big/flow" in (workplace / "results" / "leaderboard" / "two_moons.csv").read_text()


def test_the_picture_shows_each_configuration_under_the_name_of_its_line(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[tuple[str, str], Path]] = []
    monkeypatch.setattr(
        "bench.tables.leaderboard.draw_comparison", lambda samples, path, numbers: drawn.append(samples)
    )
    assert main(TOY) == 0
    assert main([*TOY, "train.examples=320", "seed=-1"]) == 0
    assert list(drawn[0]) == [("linear", "two_moons")]
    assert len(drawn[1]) == 2
    for (label, data), array in drawn[1].items():
        assert data == "two_moons"
        examples = json.loads(array.with_name("config.json").read_text())["train"]["examples"]
        assert label == f"linear examples={examples}"


def test_convolutions_are_held_to_float32(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert main(TOY) == 0
    assert not torch.backends.cudnn.allow_tf32


def test_a_metric_it_was_not_trained_with_can_be_measured_later(workplace: Path) -> None:
    assert main(TOY) == 0
    best = str(the_run(workplace) / "best.ckpt")
    assert main(["evaluate", best, "--metric", "cost", "--samples", "16", "--out", "later.jsonl"]) == 0
    assert "parameters" in {row.metric for row in read_rows(workplace / "later.jsonl")}
    assert main(["evaluate", best, "--metric", "costs"]) == 2
    assert main(["evaluate", best, "--out", "nowhere/later.jsonl"]) == 2


def test_a_killed_run_says_so(tmp_path: Path) -> None:
    outcome = RunFolder(tmp_path).outcome("some-run")
    assert outcome.ended is Ended.KILLED
    assert "ended without a word" in outcome.reason
    assert [ended.exit_code for ended in (Ended.OK, Ended.DIVERGED, Ended.REFUSED, Ended.INTERRUPTED)] == [0, 1, 2, 130]
