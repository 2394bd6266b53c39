"""What surrounds a command changes nothing: variables of other launchers, Hydra's folders, the home in a path."""

from pathlib import Path

import pytest
from helpers_cli import genbench

from bench.cli.main import main
from bench.config.compose import compose_runs

TINY = ["data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64", "metric=[likelihood]",
        "evaluate.n_samples=32"]  # fmt: skip
LAUNCHERS = {
    "accelerate": {"LOCAL_RANK": "1"},
    "torchrun": {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2", "GROUP_RANK": "1", "NODE_RANK": "1",
                 "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "none"},
    "slurm": {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
              "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost"},
    "mpi": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "JSM_NAMESPACE_RANK": "1"},
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_process_is_the_only_one(launcher: str, workplace: Path) -> None:
    done = genbench("run", "model=gaussian", *TINY, cwd=workplace, extra=LAUNCHERS[launcher])
    assert done.returncode == 0, done.stderr
    assert "gaussian" in done.stdout
    assert list(workplace.glob("runs/*/*/rows.jsonl"))


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_two_processes_are_those_that_the_command_starts(launcher: str, workplace: Path) -> None:
    command = ["run", "model=realnvp", "model.couplings=1", "trainer=ddp", "trainer.accelerator=cpu",
               "train.examples=640", *TINY]  # fmt: skip
    done = genbench(*command, cwd=workplace, extra=LAUNCHERS[launcher])
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in next(workplace.glob("runs/*/*/rows.jsonl")).read_text()


@pytest.mark.parametrize("hydra", ["hydra.job.chdir=true", "hydra.run.dir=elsewhere"])
def test_no_folder_of_hydras_moves_a_path(hydra: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.csv").write_text("a,b\n" + "".join(f"{i * 0.37 % 1:.4f},{i * 0.61 % 1:.4f}\n" for i in range(200)))
    command = ["run", "model=gaussian", "data=csv", "data.path=table.csv", "metric=[likelihood]"]
    assert main([*command, hydra, "hydra.job.chdir=true"]) == 0
    assert len(list(workplace.glob("runs/table/*/rows.jsonl"))) == 1
    assert (workplace / "results" / "leaderboard" / "table.csv").exists()
    assert main(command) == 0
    assert "1 of 1 runs were finished before" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["my runs", "a=b", "'a,b'"])
def test_the_home_is_meant_in_every_path(name: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = workplace / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    plain = name.strip("'")
    runs, results = (f"{key}='~/{plain}/{key}'" for key in ("runs_dir", "results_dir"))
    assert main(["run", "model=gaussian", *TINY, runs, results]) == 0
    assert len(list(home.glob(f"{plain}/runs_dir/two_moons/*/rows.jsonl"))) == 1
    assert (home / plain / "results_dir" / "leaderboard" / "two_moons.csv").exists()
    assert [path.name for path in workplace.iterdir()] == ["home"]


def test_paths_are_no_part_of_a_key(workplace: Path) -> None:
    config = compose_runs(["model=gaussian", *TINY])[0]
    assert (config["runs_dir"], config["results_dir"]) == ("runs", "results")
