"""Experiments of strangers that attack: refused in one line, and nothing runs, hangs or is written."""

import time
from pathlib import Path

import pytest
from helpers_runs import TINY
from helpers_strangers import audited

from bench.cli.main import main
from bench.config.compose import compose_runs


def experiment(folder: Path, content: str, name: str = "evil") -> list[str]:
    """Write an experiment file to a folder of a stranger's; return the arguments that choose it."""
    file = folder / "own" / "experiment" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if content.startswith("#") else f"# @package _global_\n{content}\n")
    return [f"hydra.searchpath=[file://{folder}/own]", "model=gaussian", *TINY, f"experiment={name}"]


HYDRAS = [
    "hydra: {job_logging: {version: 1, handlers: {x: {'()': pandas.read_pickle, filepath_or_buffer: x.pkl}}}}",
    "hydra: {hydra_logging: {version: 1, handlers: {x: {'()': torch.hub.load, repo_or_dir: x/y, model: z}}}}",
    "hydra: {job_logging: {handlers: {x: {class: logging.FileHandler, filename: victim, mode: w}}}}",
    "hydra: {run: {dir: victim}}",
    "hydra: {sweep: {dir: victim}, mode: MULTIRUN}",
    "hydra: {output_subdir: victim}",
    "hydra: {job: {chdir: true}}",
    "hydra: {job: {env_set: {PATH: /stranger}}}",
    "hydra: {job: {env_copy: [SECRET]}}",
    "hydra: {callbacks: {x: {_target_: hydra.experimental.callbacks.PickleJobInfoCallback}}}",
    "hydra: {launcher: {_target_: stranger.Launcher}}",
    "hydra: {sweeper: {_target_: stranger.Sweeper}}",
    "hydra: {sweeper: {params: {hydra.run.dir: victim}}}",
    "hydra: {sweeper: {params: {+hydra.job_logging.x: victim}}}",
    "hydra: {sweeper: {params: {hydra/job_logging: default}}}",
    "hydra: {sweeper: {params: {name: '${b}'}}}",
    "hydra: null",
    "hydra: '${oc.create:{run: {dir: victim}}}'",
    "defaults: [{override /hydra/job_logging: default}]",
    "defaults: [{override /hydra/hydra_logging: hydra_debug}]",
    "defaults: [/hydra/job_logging/default]",
    "defaults: [{/model@hydra.run: vae}]",
    "defaults: [{/model@_global_.hydra.run: vae}]",
    "defaults: [../../../secret]",
    "# @package hydra\nrun: {dir: victim}\n",
    "# @package hydra.run\ndir: victim\n",
]
OUTSIDE = [
    "name: '${oc.env:SECRET}'",
    "name: 'x-${oc.env:SECRET}'",
    "name: '${oc.${e}:SECRET}'\ne: env",
    "name: '${oc.decode:\"${x}\"}'\nx: secret",
    "name: '${oc.create:{x: 1}}'",
    "name: '${hydra:runtime.cwd}'",
    "name: '${hydra.runtime.cwd}'",
    "name: '${${h}.runtime.cwd}'\nh: hydra",
    "train: {batch_size: '${oc.env:SECRET}'}",
    "defaults: [{override /model: '${oc.env:SECRET}'}]",
]
PLACES = [
    "runs_dir: ../elsewhere",
    "results_dir: /nowhere/x",
    "runs_dir: '${name}'",
    "name: ../../x",
    'name: "a\\eb"',
    "logger: {_target_: pytorch_lightning.loggers.CSVLogger, name: ../../x}",
    "logger: {_target_: pytorch_lightning.loggers.CSVLogger, version: /x}",
    "logger: {_target_: pytorch_lightning.loggers.CSVLogger, save_dir: /x}",
    "logger: {_target_: pytorch_lightning.loggers.csv_logs.CSVLogger, name: ..}",
    "logger: {_target_: pytorch_lightning.loggers.TensorBoardLogger, version: $SECRET}",
    "logger: {_target_: pytorch_lightning.loggers.TensorBoardLogger, sub_dir: ~}\nname: x/y",
    "logger: {_target_: pytorch_lightning.loggers.MLFlowLogger, tracking_uri: 'http://127.0.0.1:9'}",
    "logger: {_target_: pytorch_lightning.loggers.WandbLogger, project: x}",
    "trust: [stranger]",
    "hydra: {mode: MULTIRUN, sweeper: {params: {runs_dir: 'x,y'}}}",
]
BOMBS = [
    "".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9) if n else 1}]\n" for n in range(12)),
    "a: &a [*a]",
    "a: " + "[" * 200 + "]" * 200,
    "a: [",
    "model: {couplings: 1000000000}",
    "hydra: {mode: MULTIRUN, sweeper: {params: {seed: 'range(0,1000000000)'}}}",
    "hydra: {mode: MULTIRUN, sweeper: {params: {seed: 'range(0,100000)', train.batch_size: 'range(1,100000)'}}}",
    "name: " + "n" * 2_000_000,
]


@pytest.mark.parametrize("content", [*HYDRAS, *OUTSIDE, *PLACES, *BOMBS], ids=lambda content: content[:60])
def test_an_experiment_of_a_strangers_is_refused_in_one_line(
    content: str, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    arguments = experiment(workplace, content)
    begun = time.monotonic()
    assert main(["run", *arguments]) == 2
    assert time.monotonic() - begun < 60
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said[:-1].isprintable()
    assert len(said) < 2500
    assert "hunter2" not in said
    assert {path.name for path in workplace.iterdir()} <= {"own", "runs", "results"}
    assert not [path for folder in ("runs", "results") for path in (workplace / folder).rglob("*")]


@pytest.mark.parametrize("content", [HYDRAS[0], HYDRAS[2], HYDRAS[12], HYDRAS[24], OUTSIDE[0], PLACES[5], PLACES[11]])
def test_a_refused_experiment_has_no_side_effect(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "victim").write_text("kept")
    code, said, noted = audited(folder, "run", *experiment(folder, content))
    assert code == 2, said
    made = {f"os.mkdir {name}" for name in ("runs", "results")}  # the user's own folders
    assert set(noted) <= made, noted
    assert (folder / "victim").read_text() == "kept"


def test_the_hook_notes_what_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    rows = Path(__file__).resolve().parent.parent / "results" / "rows" / "toys.jsonl"
    code, said, noted = audited(folder, "table", str(rows), "--out", "made.txt")
    assert code == 0, said
    assert any(line.startswith("open ") for line in noted)
    assert any(line.startswith("os.rename ") for line in noted)


def test_what_a_file_may_say_works(workplace: Path) -> None:
    content = "name: 'n${train.batch_size}'\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1', model: gaussian}}}"
    runs = compose_runs(experiment(workplace, content))
    assert [(run["name"], run["seed"]) for run in runs] == [("n64", 0), ("n64", 1)]


def test_the_user_may_say_on_the_command_line_what_a_file_may_not(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    arguments = [*experiment(workplace, "runs_dir: theirs"), "runs_dir=mine", "name=${oc.env:SECRET}"]
    (run,) = compose_runs([*arguments, "hydra.run.dir=x", "hydra/job_logging=default", "+hydra.job.env_set.A=b"])
    assert (run["runs_dir"], run["name"]) == ("mine", "hunter2")
