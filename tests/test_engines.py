"""The engines past one machine: the same sweep comes to the same rows, and one that is not installed is named."""

import dataclasses
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from helpers_cli import genbench
from helpers_jobs import made_up

from bench.cli.main import main
from bench.config.launching import Launching
from bench.rows.store import read_rows
from bench.runs import engines
from bench.runs.board import Board
from bench.runs.engines import run_elsewhere
from bench.runs.folder import Ended, Outcome

SWEEP = ["run", "-m", "model=realnvp", "model.couplings=1", "seed=0,1", "data=two_moons", "data.n_train=512",
         "data.n_val=64", "data.n_test=64", "metric=[likelihood]", "train.examples=640", "train.validate_every=320",
         "jobs=2"]  # fmt: skip
PATIENCE = 900.0  # an engine starts several Pythons


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every field of every row, but how long the training took."""
    read = read_rows(folder / "results" / "rows" / "two_moons.jsonl")
    return sorted(
        ({**dataclasses.asdict(row), "train_seconds": None} for row in read),
        key=lambda row: (row["run_id"], row["metric"]),
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of the sweep without an engine."""
    folder = tmp_path_factory.mktemp("plain")
    done = genbench(*SWEEP, cwd=folder, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return rows(folder)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["joblib", "submitit_local", "ray"])
def test_an_engine_comes_to_the_same_rows(engine: str, workplace: Path, plain: list[dict[str, Any]]) -> None:
    package = engines.PACKAGES[engine]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    extra = {"RAY_worker_niceness": "0"}  # else its workers come last on a busy machine
    done = genbench(*SWEEP, f"launcher={engine}", cwd=workplace, timeout=PATIENCE, extra=extra)
    assert done.returncode == 0, done.stderr
    assert len(plain) > 2
    assert rows(workplace) == plain


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray"), ("joblib", "joblib")])
def test_an_engine_that_is_not_installed_is_named(
    engine: str, package: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["run", "model=gaussian", "data=two_moons", f"launcher={engine}"]) == 2
    assert f"the package {package} is not installed; pip install 'genbench[{package}]'" in capsys.readouterr().err


def test_a_file_of_somebody_elses_sends_nothing_anywhere(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "experiment").mkdir()
    (workplace / "experiment" / "evil.yaml").write_text("# @package _global_\nlauncher: {engine: slurm}\n")
    assert main(["run", "model=gaussian", "experiment=evil", f"hydra.searchpath=[file://{workplace}]"]) == 2
    assert "launcher='slurm': set by a configuration file, and only you say where runs go" in capsys.readouterr().err


def test_what_an_engine_loses_becomes_a_failure(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Outcome] = []

    def lose(calls: Iterator[engines.Call], *_: Any) -> Iterator[tuple[int, engines.Result | Exception]]:
        given = list(calls)
        assert [call[0]["seed"] for call in given] == [0, 1, 2]
        yield 0, ("ok", "", False)
        yield 2, OSError("its machine is gone")
        raise RuntimeError("the engine is gone")

    monkeypatch.setattr(engines, "_submitit", lose)
    monkeypatch.setattr(engines, "note_ends", lambda ends: noted.extend(outcome for _, outcome in ends))
    specs = [made_up("fine", seed, engine="slurm") for seed in range(3)]
    outcomes = run_elsewhere(specs, None, 1, Board(specs, specs, 3))
    assert [outcomes[spec.run_id].ended for spec in specs] == [Ended.OK, Ended.KILLED, Ended.KILLED]
    assert [outcome.reason.split(" (")[0] for outcome in noted] == [
        "launcher=slurm: RuntimeError: the engine is gone", "launcher=slurm: OSError: its machine is gone",
    ]  # fmt: skip


def test_slurm_gets_its_settings_by_submitits_names() -> None:
    settings = {"partition": "gpu", "minutes": 90, "gpus_per_job": 1, "account": None, "memory_gb": None}
    assert engines._slurm(settings) == {"slurm_partition": "gpu", "timeout_min": 90, "gpus_per_node": 1}


@pytest.mark.parametrize(
    ("engine", "given"),
    [("submitit_local", {"timeout_min": engines.LOCAL_MINUTES}), ("slurm", {"timeout_min": 90})],
)
def test_submitit_is_told_how_long_a_job_may_take(
    engine: str, given: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = mock.MagicMock()
    executor.submit.return_value.result.return_value = ("ok", "", False)
    monkeypatch.setitem(sys.modules, "submitit", mock.MagicMock(AutoExecutor=lambda **_: executor))
    launching = Launching(engine=engine, settings={"minutes": 90})
    assert list(engines._submitit(iter([({}, None, 1)]), 1, None, launching, tmp_path)) == [(0, ("ok", "", False))]
    executor.update_parameters.assert_called_once_with(name="genbench", **given)
