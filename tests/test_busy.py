"""Two equal commands at once: the second passes over what the first is at, says who that is, and does the rest."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_cli import genbench

from bench.cli.main import main
from bench.config.compose import compose_runs
from bench.config.spec import RunSpec
from bench.errors import BusyError
from bench.runs.folder import RunFolder

TINY = ["data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64", "metric=[likelihood,cost]",
        "train.examples=640", "train.validate_every=320", "evaluate.n_samples=32"]  # fmt: skip


@contextmanager
def at_work(*overrides: str) -> Iterator[RunFolder]:
    """The run's folder, held as a process that is at work there holds it."""
    folder = RunFolder(RunSpec.parse(compose_runs([*overrides])[0]).folder)
    with folder.locked():
        yield folder


def test_a_run_at_work_is_named_with_its_process(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with at_work("model=gaussian", *TINY):
        assert main(["run", "model=gaussian", *TINY]) == 75
    said = capsys.readouterr().err
    assert f"is being run by process {os.getpid()} on host {socket.gethostname()}" in said
    assert "failed" not in said
    assert not list(workplace.glob("runs/*/*/rows.jsonl"))


def test_several_processes_never_share_a_folder_either(workplace: Path) -> None:
    command = ["model=vae", "trainer=ddp", "trainer.accelerator=cpu", *TINY]
    with at_work(*command):
        done = genbench("run", *command, cwd=workplace)
    assert done.returncode == 75
    assert done.stderr.count(f"is being run by process {os.getpid()}") == 1, done.stderr


def test_the_rest_of_a_sweep_is_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with at_work("model=gaussian", "seed=0", *TINY):
        assert main(["run", "-m", "model=gaussian", "seed=0,1", *TINY]) == 75
    assert "two_moons-gaussian-s0" in capsys.readouterr().err
    assert len(list(workplace.glob("runs/*/*-s1-*/done.json"))) == 1
    assert not list(workplace.glob("runs/*/*-s0-*/done.json"))


def test_what_fails_besides_counts_more(workplace: Path) -> None:
    model = ["model=realnvp", "model.couplings=1"]
    with at_work(*model, "model.optimizer.lr=1e-3", *TINY):
        assert main(["run", "-m", *model, "model.optimizer.lr=1e-3,1e30", *TINY]) == 1


def test_evaluate_says_it_too(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model=gaussian", *TINY]) == 0
    with at_work("model=gaussian", *TINY) as folder:
        assert main(["evaluate", str(folder.path), "rerun=true"]) == 75
    assert f"is being run by process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "left",
    ["", "{}", "[1]", '{"pid": "x", "host": 1}', "\0" * 5000, "[" * 900, '{"pid":1,"host":"\\u001b[2J","start":""}'],
)
def test_whatever_lies_in_a_lock_it_is_one_plain_line(left: str, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(left)
        held.flush()
        with (
            pytest.raises(BusyError, match=r"is being run by (another )?process") as caught,
            RunFolder(tmp_path).locked(),
        ):
            pass
    assert str(caught.value).isprintable()


def test_the_lock_tells_the_latest_owner(tmp_path: Path) -> None:
    for owner in (123456789, 5):
        with RunFolder(tmp_path).locked(owner=owner):
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == owner
