"""Trackers: nobody imports one that was not asked for, and none that fails ends a run. Stand-ins take their places."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from bench.cli.main import main
from bench.training.trackers import MOST_FAILURES, Forgiving, MLflow, WandB

TINY = ["run", "model=realnvp", "model.couplings=1", "data=two_moons", "data.n_train=512", "data.n_val=64",
        "data.n_test=64", "metric=[cost]", "train.examples=640", "train.validate_every=320"]  # fmt: skip


class Client:
    """Stands for mlflow's client: keeps what it is told, in the place of a database."""

    told: ClassVar[list[Any]] = []

    def __init__(self, tracking_uri: str) -> None:
        self.told.append(tracking_uri)

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name) if name in self.told else None

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        self.told.append(name)
        return name

    def create_run(self, experiment: str, run_name: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id=f"{experiment}/{run_name}"))

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.told.append((run, name, value, step))

    def set_terminated(self, run: str, status: str) -> None:
        self.told.append((run, status))


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """Put a module in the place of a package that is not installed."""
    made = ModuleType(name)
    vars(made).update(content, __spec__=SimpleNamespace(name=name))
    monkeypatch.setitem(sys.modules, name, made)


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(Client, "told", [])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    install(monkeypatch, "mlflow")
    install(monkeypatch, "mlflow.tracking", MlflowClient=Client)
    return Client.told


def test_mlflow_gets_the_curves_in_a_file_beside_the_runs(workplace: Path, mlflow: list[Any]) -> None:
    assert main([*TINY, "logger=mlflow"]) == 0
    (run,) = [path for path in (workplace / "runs" / "two_moons").iterdir() if path.is_dir()]
    assert mlflow[:2] == [f"sqlite:///{workplace}/runs/two_moons/mlflow.db", "two_moons"]
    scores = [entry for entry in mlflow if len(entry) == 4 and entry[1] == "validation_score"]
    assert [(entry[0], entry[3]) for entry in scores] == [
        (f"two_moons/{run.name}", 320),
        (f"two_moons/{run.name}", 640),
    ]
    assert mlflow[-1] == (f"two_moons/{run.name}", "FINISHED")


def test_mlflows_server_is_the_users_to_name(
    tmp_path: Path, mlflow: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://theirs")
    logger = MLflow(str(tmp_path / "a" / "b"))
    assert mlflow == []  # nothing is told before there is a number
    logger.log_metrics({"x": 1.0}, step=3)
    logger.finalize("failed")
    assert mlflow == ["http://theirs", "a", ("a/b", "x", 1.0, 3), ("a/b", "FAILED")]


def test_wandb_is_offline_in_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    run = SimpleNamespace(
        log=lambda values, step: told.append((values, step)), finish=lambda exit_code: told.append(exit_code)
    )
    install(monkeypatch, "wandb", init=lambda **settings: told.append(settings) or run)
    for variable in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    logger = WandB(str(tmp_path / "digits" / "run1"))
    logger.log_metrics({"x": 1.0}, step=3)
    logger.log_metrics({"x": 2.0}, step=4)
    logger.finalize("success")
    settings = {"project": "digits", "name": "run1", "dir": str(tmp_path / "digits" / "run1"), "mode": "offline"}
    assert told == [settings, ({"x": 1.0}, 3), ({"x": 2.0}, 4), 0]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_named(
    name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert main([*TINY, f"logger={name}"]) == 2
    assert f"the package {name} is not installed; pip install 'genbench[{name}]'" in capsys.readouterr().err


def test_a_tracker_that_fails_ends_no_run(
    workplace: Path, mlflow: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("nobody is there")

    for method in ("get_experiment_by_name", "set_terminated"):
        monkeypatch.setattr(Client, method, refuse)
    assert main([*TINY, "logger=mlflow"]) == 0
    assert capsys.readouterr().err.count("the tracker failed (ConnectionError: nobody is there); the run goes on") == 1
    (done,) = workplace.glob("runs/*/*/done.json")
    assert json.loads(done.read_text())["ended"] == "ok"


def test_a_tracker_that_goes_on_failing_is_left_alone() -> None:
    calls: list[str] = []

    class Broken(MLflow):
        def __init__(self) -> None:
            pass

        def log_metrics(self, metrics: object, step: int | None = None) -> None:
            calls.append("log")
            raise OSError("no space")

        def finalize(self, status: str) -> None:
            calls.append(status)

    said: list[str] = []
    logger = Forgiving(Broken(), said.append)
    for step in range(MOST_FAILURES + 5):
        logger.log_metrics({}, step)
    logger.finalize("success")
    assert calls == ["log"] * MOST_FAILURES
    assert len(said) == 1
