"""The command line: what a user types, what comes back, and what a mistake costs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_cli import genbench
from helpers_models import names
from helpers_runs import TINY

from bench.checkpoint import save_checkpoint
from bench.cli.main import main
from bench.config.compose import compose_runs
from bench.rows.store import read_rows
from bench.schema import Status


def one_run(folder: Path, name: str = "two_moons") -> Path:
    (run,) = [path for path in (folder / "runs" / name).iterdir() if path.is_dir()]
    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=relnvp"], r"model 'relnvp': no such model; nearest: realnvp.*`genbench list models`"),
        (["data=minst"], r"data 'minst': no such data; nearest: mnist.*`genbench list data`"),
        (["metric=[likelihod]"], r"metric 'likelihod': no such metric; nearest: likelihood.*`genbench list metrics`"),
        (["experiment=quickstrat"], r"experiment 'quickstrat': .*nearest: quickstart"),
        (["trainer=tpu"], r"trainer 'tpu': no such trainer"),
        (["modle=vae"], r"modle: no such key; nearest: model"),
        (["train.batchsize=3"], r"train\.batchsize: no such key; nearest: train\.batch_size"),
        (["model=vae", "model.latent_dims=3"], r"model\.latent_dims: no such key; nearest: model\.latent_dim"),
        (["+typo=1"], r"typo: no such key.*the keys are"),
        (["+train.epochs=3"], r"train\.epochs: no such key"),
        (["model=vae", "+model.width=3"], r"model\.width: .* takes no such argument"),
        (["train.batch_size=many"], r"train\.batch_size: .*'many'"),
        (["train.examples=null"], r"train\.examples and train\.seconds are both null"),
        (["seed=abc"], r"seed='abc'"),
        (["model=vae,dcgan"], r"add -m"),
        (["model"], r"cannot read 'model'"),
        (["train.seed=[1"], r"cannot read"),
        (["~data"], r"data: is missing"),
        (["model._target_=os.system"], r"_target_ 'os\.system' is not in the packages allowed.*trust=\[os\]"),
        (["-m", "model=vae,dcgna"], r"model 'dcgna': no such model; nearest: dcgan"),
        (["-m", "model=vae", "train.batch_size=8,none"], r"train\.batch_size"),
        (["-m", "data=two_moons,grid25", "data.n_train=30"], r"data\.n_train: .*write \+\+data\.n_train=VALUE"),
        (["model=null"], r"a group cannot be null"),
        (["train=null"], r"train=None: keys and values"),
        (["+metric.own=3"], r"metric\.own=3: .*_target_"),
        (["name=a/b"], r"name='a/b': the name of a folder"),
        (["name=[1,2]"], r"name=\[1, 2\]"),
        (["name='\\${seed}'"], r"name: .* is not resolved"),
        (["runs_dir=5"], r"runs_dir=5"),
        (["runs_dir=/dev/null/x"], r"runs_dir=/dev/null/x: Not a directory"),
        (["seed=true"], r"seed=True"),
        (["seed=99999999999999999999"], r"seed=9+"),
        (["trust=[1]"], r"trust=\[1\]"),
        (["rerun=maybe"], r"rerun='maybe'"),
        (["train.examples=null", "train.seconds=nan"], r"train\.seconds=nan"),
        (["train.clip_norm=inf"], r"train\.clip_norm=inf"),
        (["trainer.devices=0"], r"trainer\.devices=0"),
        (["trainer.capture=maybe"], r"trainer\.capture=maybe: must be auto, on or off"),
        (["evaluate.checkpoints=[best,best]"], r"evaluate\.checkpoints"),
        (["--config-name=other"], r"--config-name: not an option"),
        (["--cfg", "job", "model=relnvp"], r"model 'relnvp'"),
        (["+hydra.callbacks.x._target_=os.system"], r"hydra\.callbacks\.x: _target_ 'os\.system' is not"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert "Traceback" not in printed.err
    assert re.match(rf"genbench: .*{said}", printed.err), printed.err
    assert list(workplace.iterdir()) == [], "nothing was started"


def test_a_run_leaves_everything_in_its_folder(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model=vae", *TINY]) == 0
    printed = capsys.readouterr()
    assert "log-likelihood" in printed.out
    run = one_run(workplace)
    files = {re.sub(r"-[0-9a-f]{16}\.npy", "-KEY.npy", file.name) for file in run.iterdir()} - {".lock"}
    assert files == {
        "config.json", "rows.jsonl", "done.json", "trained.json", "run.log", "best.ckpt", "final.ckpt",
        "samples-best.png", "samples-best.npz", "items-best-KEY.npy",
    }  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert config["train"]["examples"] == 640
    rows = read_rows(run / "rows.jsonl")
    assert {row.model for row in rows} == {"vae", "oracle"}
    (oracle,) = [row for row in rows if row.model == "oracle" and row.status is Status.OK]
    assert (oracle.metric, oracle.relation) == ("log_likelihood", "exact")
    vae = {row.metric: row for row in rows if row.model == "vae"}
    assert vae["log_likelihood"].relation == "lower_bound"
    assert vae["log_likelihood"].n_draws == 16
    assert vae["log_likelihood"].examples_seen in (320, 640)
    assert vae["bits_per_dim"].status is Status.SKIPPED
    assert "real-valued" in vae["bits_per_dim"].reason
    for suffix in ("csv", "md", "tex"):
        assert (workplace / "results" / "leaderboard" / f"two_moons.{suffix}").exists()
    payload = torch.load(run / "best.ckpt", weights_only=True)
    assert json.loads(payload["config"])["model"]["_target_"] == "models.vaes.vae.VAE"

    # The same command again: nothing is done, the same table comes out.
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    table = (workplace / "results" / "leaderboard" / "two_moons.csv").read_bytes()
    assert main(["run", "model=vae", *TINY]) == 0
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    assert (workplace / "results" / "leaderboard" / "two_moons.csv").read_bytes() == table

    # Damaged rows are not taken for finished ones.
    (run / "rows.jsonl").write_text("")
    assert main(["run", "model=vae", *TINY]) == 0
    assert len(read_rows(run / "rows.jsonl")) == len(rows)

    # The checkpoint alone is enough to measure again.
    capsys.readouterr()
    assert (
        main(["evaluate", str(run / "best.ckpt"), "--draws", "4", "--metric", "likelihood", "--out", "again.jsonl"])
        == 0
    )
    again = read_rows(workplace / "again.jsonl")
    assert [row.n_draws for row in again if row.metric == "log_likelihood"] == [4]
    assert main(["evaluate", str(run / "best.ckpt"), "--out", "same.jsonl"]) == 0
    same = {row.metric: row.value for row in read_rows(workplace / "same.jsonl")}
    assert same["log_likelihood"] == vae["log_likelihood"].value

    capsys.readouterr()
    assert main(["table", "runs/two_moons", "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith("dataset,")


def test_a_sweep_goes_on_after_a_divergence_and_the_table_shows_it(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["run", "-m", "model=realnvp", "model.couplings=2", "model.optimizer.lr=1e-3,1e30", *TINY]
    assert main(sweep) == 1
    printed = capsys.readouterr()
    assert re.search(r"genbench: two_moons-realnvp-s0-\w+ failed: diverged at example \d+", printed.err)
    assert "Traceback" not in printed.err
    assert "failed" in printed.out
    runs = sorted(path for path in (workplace / "runs" / "two_moons").iterdir() if path.is_dir())
    assert len(runs) == 2
    ends = [json.loads((run / "done.json").read_text())["ended"] for run in runs]
    assert sorted(ends) == ["diverged", "ok"]
    failed = runs[ends.index("diverged")]
    rows = [row for row in read_rows(failed / "rows.jsonl") if row.model == "realnvp"]
    assert all(row.value is None for row in rows)
    lost = [row for row in rows if row.status is Status.FAILED]
    assert {"log_likelihood", "train_seconds"} <= {row.metric for row in lost}
    assert all(row.reason.startswith("diverged at example") for row in lost)
    assert {row.metric for row in rows if row.status is Status.SKIPPED} == {"bits_per_dim"}, "of reals there are none"


def test_changed_seed_gives_other_numbers_and_the_same_group(workplace: Path) -> None:
    assert main(["run", "-m", "model=vae", "seed=0,1", *TINY]) == 0
    assert not (workplace / "multirun.yaml").exists(), "Hydra's own record goes elsewhere, over no file of the user's"
    rows = [
        row
        for run in (workplace / "runs" / "two_moons").iterdir()
        if run.is_dir()
        for row in read_rows(run / "rows.jsonl")
    ]
    likelihoods = [row for row in rows if row.metric == "log_likelihood" and row.model == "vae"]
    assert len({row.value for row in likelihoods}) == 2
    assert len({row.group for row in likelihoods}) == 1
    assert len({row.training_key for row in likelihoods}) == 2
    assert len({row.value for row in rows if row.model == "oracle" and row.metric == "log_likelihood"}) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"PK\x03\x04 torn"), "damaged"),
        (lambda path: save_checkpoint(path, {"state_dict": {}}), "holds no run's configuration"),
        (lambda path: save_checkpoint(path, {"config": "{", "state_dict": {}}), "holds no run's configuration"),
    ],
)
def test_a_checkpoint_that_is_none_is_one_line(
    make: object, said: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(make)
    make(workplace / "x.ckpt")
    assert main(["evaluate", "x.ckpt"]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_a_strangers_checkpoint_cannot_name_code_nor_trust_itself(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose_runs(["model=vae", *TINY])[0]
    config["model"] = {"_target_": "stranger.Model"}
    config["trust"] = ["stranger"]
    (workplace / "stranger.py").write_text("open('ran', 'w')\n")
    save_checkpoint(workplace / "x.ckpt", {"config": json.dumps(config), "state_dict": {}, "progress": {}})
    assert main(["evaluate", "x.ckpt"]) == 2
    assert "trust" in capsys.readouterr().err
    assert not (workplace / "ran").exists()


def test_a_strangers_checkpoint_cannot_make_a_target_out_of_a_text(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OmegaConf's oc.create turns a text into a node, after whoever looked for ``_target_`` has passed."""
    config = compose_runs(["model=vae", *TINY])[0]
    config["model"]["optimizer"] = "${oc.create:{_target_:stranger.Model}}"
    (workplace / "stranger.py").write_text("open('ran', 'w')\n")
    monkeypatch.syspath_prepend(str(workplace))
    save_checkpoint(workplace / "x.ckpt", {"config": json.dumps(config), "state_dict": {}, "progress": {}})
    assert main(["evaluate", "x.ckpt"]) == 2
    assert "model.optimizer: '${oc.create" in capsys.readouterr().err
    assert not (workplace / "ran").exists()


@pytest.mark.parametrize("junk", [None, {"a": 1}, "???"])
def test_a_checkpoint_with_any_configuration_is_read_or_refused_in_one_line(junk: object, workplace: Path) -> None:
    good = compose_runs(["model=vae", *TINY])[0]
    for group in [None, *good]:
        keys = [None, *good[group]] if group is not None and isinstance(good[group], dict) else [None]
        for key in keys:
            config = json.loads(json.dumps(good))
            if group is None:
                config = junk
            elif key is None:
                config[group] = junk
            else:
                config[group][key] = junk
            save_checkpoint(workplace / "x.ckpt", {"config": json.dumps(config), "state_dict": {}, "progress": {}})
            assert main(["evaluate", "x.ckpt"]) == 2, (group, key)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("trust: [stranger]", r"trust: set by a configuration file.*add trust=\[stranger\] yourself"),
        (
            "hydra: {callbacks: {x: {_target_: stranger.Model}}}",
            r"\.yaml: hydra\.callbacks\.x\._target_: sets what",
        ),
        (
            "hydra: {callbacks: {x: '${oc.create:{_target_:stranger.Model}}'}}",
            r"\.yaml: hydra\.callbacks\.x: .*outside",
        ),
        ("hydra: {launcher: {_target_: stranger.Model}}", r"evil\.yaml: hydra\.launcher\._target_: sets what only"),
        ("hydra: {job: {env_set: {PATH: /stranger}}}", r"hydra\.job\.env_set"),
    ],
)
def test_a_strangers_experiment_cannot_run_code(
    content: str, said: str, workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "own" / "experiment").mkdir(parents=True)
    (workplace / "own" / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{content}\n")
    (workplace / "stranger.py").write_text("open('ran', 'w')\n")
    monkeypatch.syspath_prepend(str(workplace))
    search = f"hydra.searchpath=[file://{workplace}/own]"
    assert main(["run", search, "model=gaussian", *TINY, "experiment=evil"]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (workplace / "ran").exists()


def test_a_number_is_a_name(workplace: Path) -> None:
    assert compose_runs(["name=2024"])[0]["name"] == "2024"


def test_a_model_that_cannot_be_sampled_keeps_its_likelihood(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = lambda self, n, **_: torch.full((n, *self.shape), float("nan"))  # noqa: E731
    monkeypatch.setattr("models.vaes.vae.VAE.sample", nan)
    assert main(["run", "model=vae", *TINY]) == 1
    rows = {row.metric: row for row in read_rows(one_run(workplace) / "rows.jsonl") if row.model == "vae"}
    assert rows["log_likelihood"].status is Status.OK
    assert rows["samples_per_second"].reason == "ValueError: samples contain NaN or infinity"


def test_the_csv_logger_has_a_line_for_every_validation(workplace: Path) -> None:
    assert main(["run", "model=vae", "logger=csv", *TINY]) == 0
    lines = (one_run(workplace) / "curves" / "metrics.csv").read_text().splitlines()
    assert lines[0] == "loss,step,validation_score"
    assert [line.split(",")[1] for line in lines[1:]] == ["320", "640"]


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for group in ("model", "data", "metric", "experiment"):
        for name in names(group):
            assert re.search(rf"^  {name} +\S", printed, re.MULTILINE), name
    assert main(["list", "model"]) == 2
    assert "nearest: models" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["--version"], ["run", "--help"], ["evaluate", "--help"], ["data", "--help"], ["table", "--help"],
        ["new", "model", "--help"], ["list"], ["list", "models", "trust=[theirs]"], ["table", "rows.jsonl"],
        ["new", "model", "mine"],
    ],
)  # fmt: skip
def test_what_must_be_fast_imports_no_torch(arguments: list[str], workplace: Path) -> None:
    from helpers_rows import make_row

    from bench.rows.store import write_rows

    write_rows(workplace / "rows.jsonl", [make_row()])
    code = (
        "import sys\nfrom bench.cli.main import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'pytorch_lightning', 'torchmetrics', 'scipy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_finished_run_is_recognised_without_torch(workplace: Path) -> None:
    command = ["run", "model=gaussian", *TINY]
    assert main(command) == 0
    code = (
        "import sys\nfrom bench.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'pytorch_lightning', 'torchmetrics'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 runs were finished before" in done.stderr


def test_the_wrong_command_is_a_usage_line_and_exit_code_2(workplace: Path) -> None:
    for arguments in (["runn"], [], ["evaluate"], ["run", "--foo"], ["run", "--cfg", "x"]):
        done = genbench(*arguments, cwd=workplace)
        assert done.returncode == 2
        assert "usage: genbench" in done.stderr
        assert "config-path" not in done.stderr
        assert "Traceback" not in done.stderr
