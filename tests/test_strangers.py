"""Files of strangers that attack: configurations, checkpoints, run folders. Nothing runs, hangs or is written."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import TINY

from bench.checkpoint import Progress, load_checkpoint, save_checkpoint, stored_config
from bench.cli.main import main
from bench.config.build import build_logger, check_arguments
from bench.config.compose import compose_runs
from bench.config.limits import check_sizes
from bench.config.spec import RunSpec
from bench.errors import UserError
from bench.plain import plain
from bench.regular import check_output, read_regular
from bench.runs.folder import RunFolder, open_here

# Runs the command with every write, import of a stranger's module, process and connection noted in a file.
AUDIT = """
import os, sys
noted = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
here = os.getcwd()
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if not isinstance(path, (str, bytes)) or not (flags or 0) & WRITES or os.fsdecode(path) == os.devnull:
            return
        said = os.fsdecode(path)
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate",
                   "shutil.rmtree"):
        said = str(arguments[0])
    elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pty.spawn",
                   "pickle.find_class"):
        said = str(arguments[0])
    elif event == "import" and arguments[0].split(".")[0] == "stranger":
        said = arguments[0]
    else:
        return
    os.write(noted, f"{event} {said}\\n".encode(errors="replace"))
sys.dont_write_bytecode = True
# What our own libraries do when they are imported is none of the attack's doing.
import bench.cli.main, bench.config.build, bench.config.compose, bench.runs.evaluate, pytorch_lightning.loggers
sys.addaudithook(hook)
sys.exit(bench.cli.main.main())
"""


def audited(folder: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, standard error and what was noted of the command in a process of its own."""
    noted = folder.parent / f"{folder.name}.noted"
    noted.unlink(missing_ok=True)
    environment = {**os.environ, "SECRET": "hunter2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", AUDIT, str(noted), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr, noted.read_text().splitlines()


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


class Touch:
    """Unpickling this makes a folder."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("victim",))


@pytest.mark.parametrize("attack", ["object", "target", "text", "logger", "shared"])
def test_a_refused_checkpoint_has_no_side_effect(attack: str, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    config = compose_runs(["model=vae", *TINY])[0]
    payload: dict[str, Any] = {"state_dict": {}, "progress": {}}
    if attack == "object":
        payload["extra"] = Touch()
    elif attack == "shared":
        payload["extra"] = shared(40)
    elif attack == "target":
        config["model"] = {"_target_": "stranger.Model"}
        config["trust"] = ["stranger"]
    elif attack == "text":
        config["model"]["optimizer"] = "${oc.create:{_target_:stranger.Model}}"
    else:
        config["logger"] = {"_target_": "stranger.Logger", "name": "../../victim"}
    torch.save({**payload, "config": json.dumps(config)}, folder / "x.ckpt")
    (folder / "stranger.py").write_text("open('victim', 'w')\n")
    code, said, noted = audited(folder, "evaluate", "x.ckpt")
    assert code == 2, said
    assert not noted, noted
    assert not (folder / "victim").exists()


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


def test_curves_never_leave_the_folder_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "run" / "curves").symlink_to(tmp_path / "victim")
    node = {"_target_": "pytorch_lightning.loggers.CSVLogger", "name": None, "version": "curves"}
    check_arguments({"logger": node})
    with pytest.raises(UserError, match="outside the run's folder"):
        build_logger(node, str(tmp_path / "run"))
    (tmp_path / "run" / "curves").unlink()
    assert build_logger(node, str(tmp_path / "run")) is not None


def shared(levels: int, make: Any = list) -> Any:
    """A list of two that are one list of two, and so on: a few bytes that unfold to 2 ** levels."""
    value: Any = make()
    for _ in range(levels):
        value = make([value, value])
    return value


@pytest.mark.parametrize("where", ["extra", "state_dict", "progress", "config", "callbacks"])
@pytest.mark.parametrize("kind", ["lists", "tuples", "dicts"])
def test_shared_entries_are_visited_once(where: str, kind: str, workplace: Path) -> None:
    if kind == "dicts":
        value: Any = {}
        for _ in range(40):
            value = {"a": value, "b": value}
    else:
        value = shared(40, list if kind == "lists" else tuple)
    payload: dict[str, Any] = {"state_dict": {}, "config": "{}", "progress": {}}
    torch.save({**payload, where: value}, workplace / "x.ckpt")
    assert (workplace / "x.ckpt").stat().st_size < 10_000
    begun = time.monotonic()
    assert main(["evaluate", "x.ckpt"]) == 2
    assert time.monotonic() - begun < 60


def test_what_is_shared_a_little_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", {"x": shared(10), "t": shared(10, tuple)})
    assert load_checkpoint(tmp_path / "a.ckpt")["x"] == shared(10)


def test_a_key_whose_hash_never_ends_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The hash of a tuple visits shared tuples again and again, and unpickling a dict asks for it."""
    key: Any = shared(16, tuple)
    torch.save({"state_dict": {key: 1}}, tmp_path / "x.ckpt")
    begun = time.monotonic()
    with pytest.raises(UserError, match="tuples that are shared too often"):
        load_checkpoint(tmp_path / "x.ckpt")
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    "progress",
    [{"commit": ["a"]}, {"examples_seen": "many"}, {"history": [1]}, {"train_seconds": None}, {"device": "d" * 10_000},
     {"best_score": {}}, {"dirty": "no"}],
    ids=str,
)  # fmt: skip
def test_a_progress_of_other_kinds_is_refused(progress: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Progress.of(progress)


def test_a_configuration_of_any_size_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.ckpt", {"config": json.dumps({"name": "n" * 2_000_000})})
    with pytest.raises(UserError, match="2,000,012 characters"):
        stored_config(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.couplings", 10**9, r"model\.couplings=1000000000: is beyond 10,000"),
        ("model.layers", 10**6, r"model\.layers"),
        ("model.hidden", [10**9, 64], r"model\.hidden\[0\]=1000000000: is beyond 100,000"),
        ("model.flow.hidden", 10**7, r"model\.flow\.hidden"),
        ("model.kl_warmup", 10**5000, r"model\.kl_warmup=\(a number of 16610 bits\)"),
        ("evaluate.n_samples", 10**12, r"evaluate\.n_samples=1000000000000: is beyond 10,000,000"),
        ("evaluate.n_draws", 10**12, r"evaluate\.n_draws"),
        ("metric.fid.n_samples", 10**12, r"metric\.fid\.n_samples"),
        ("data.n_train", 10**12, r"data\.n_train"),
        ("data.size", 10**6, r"data\.size"),
        ("trainer.devices", 10**6, r"trainer\.devices"),
        ("train.batch_size", 10**12, r"train\.batch_size"),
        ("name", "n" * 2_000_000, r"name: has a text of 2,000,000 characters"),
        ("model.n" + "n" * 5000, 1, r"text of 5,001 characters"),
        ("model.hidden", [1] * 30_000, r"more than 20,000 keys and values"),
        ("model.a." + ".".join("b" * 40), 1, r"nested more than 32 levels"),
    ],
    ids=lambda value: str(value)[:30] if not isinstance(value, int) else "",
)
def test_counts_beyond_all_real_work_are_refused_by_name(key: str, value: Any, said: str) -> None:
    config = compose_runs(["model=vae", "data=two_moons"])[0]
    RunSpec.parse(config)
    *path, last = key.split(".")
    node = config
    for part in path:
        node = node.setdefault(part, {})
    node[last] = value
    with pytest.raises(UserError, match=said):
        RunSpec.parse(config)


def test_every_configuration_of_ours_is_within_the_limits() -> None:
    for name in ("toys", "tabular", "quickstart", "mnist_realnvp"):
        for config in compose_runs([f"experiment={name}"], multirun=True):
            check_sizes(config)


def place(kind: str, folder: Path) -> Path:
    """Something that is no new or regular file."""
    path = folder / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        (folder / "target").write_text("kept")
        path.symlink_to(folder / "target")
    elif kind == "dangling":
        path.symlink_to(folder / "nowhere")
    elif kind == "link-to-fifo":
        os.mkfifo(folder / "pipe")
        path.symlink_to(folder / "pipe")
    elif kind == "input":
        path.write_text("kept")
    elif kind == "second-name":
        (folder / "input").write_text("kept")
        os.link(folder / "input", path)
    return path


KINDS = ["fifo", "folder", "link", "dangling", "link-to-fifo", "input", "second-name"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_is_new_or_a_regular_file_that_nothing_is_read_from(kind: str, tmp_path: Path) -> None:
    path = place(kind, tmp_path)
    before = os.lstat(path)
    with pytest.raises(UserError, match=rf"--out .*{kind}: is "):
        check_output("--out", path, [tmp_path / "input"])
    assert os.lstat(path).st_ino == before.st_ino
    check_output("--out", tmp_path / "new", [tmp_path / "input"])
    (tmp_path / "old").write_text("")
    check_output("--out", tmp_path / "old", [tmp_path / "input", tmp_path / "gone"])
    with pytest.raises(UserError, match="is read by this command"):
        check_output("--out", tmp_path / "old", [tmp_path])
    with pytest.raises(UserError, match="there is no folder"):
        check_output("--out", tmp_path / "none" / "x")


@pytest.mark.parametrize("kind", KINDS)
def test_table_and_evaluate_refuse_such_an_output(
    kind: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place(kind, workplace)
    rows = Path(__file__).resolve().parent.parent / "results" / "rows" / "toys.jsonl"
    (workplace / "input").write_bytes(rows.read_bytes())
    assert main(["table", "input", "--out", kind]) == 2
    assert main(["evaluate", "input", f"out={kind}"]) == 2
    assert capsys.readouterr().err.count(f"{kind}: is ") == 2
    assert (workplace / "input").read_bytes() == rows.read_bytes()
    assert not (workplace / "nowhere").exists()


@pytest.mark.parametrize("kind", ["fifo", "folder", "link-to-fifo"])
def test_what_is_read_is_a_regular_file(kind: str, tmp_path: Path) -> None:
    path = place(kind, tmp_path)
    with pytest.raises(UserError, match="not a regular file"):
        read_regular(path, 100)
    with pytest.raises(UserError):
        load_checkpoint(path)
    (tmp_path / "large").write_bytes(bytes(101))
    with pytest.raises(UserError, match="at most 100 are read"):
        read_regular(tmp_path / "large", 100)


@pytest.mark.parametrize("name", [".lock", "run.log"])
@pytest.mark.parametrize("kind", ["fifo", "link", "dangling", "link-to-fifo"])
def test_a_file_of_a_strangers_folder_is_opened_through_no_link_and_no_pipe(
    name: str, kind: str, tmp_path: Path
) -> None:
    place(kind, tmp_path).rename(tmp_path / name)
    with pytest.raises(OSError, match=r"."):
        open_here(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["done.json", "trained.json", "rows.jsonl", "config.json"])
def test_pipes_in_a_strangers_folder_are_not_waited_for(name: str, workplace: Path) -> None:
    spec = RunSpec.parse(compose_runs(["model=gaussian", *TINY])[0])
    spec.folder.mkdir(parents=True)
    os.mkfifo(spec.folder / name)
    folder = RunFolder(spec.folder)
    assert not folder.finished(spec)
    assert folder.missing(spec)
    assert main(["evaluate", str(spec.folder)]) == 2


WILD = "a\x1b[31mb\x07c\nd\u202ee\x9bf\u2066g\rh"


@pytest.mark.parametrize("character", [*map(chr, range(32)), "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\ud800"])
def test_no_character_acts_on_a_terminal(character: str) -> None:
    assert plain(f"a{character}b") == "a b"
    assert str(UserError(f"a{character}b")) == "a b"
    assert plain("Grüße, 数据 ± 1") == "Grüße, 数据 ± 1"


@pytest.mark.parametrize("where", ["key", "name", "target", "weights", "choice"])
def test_a_checkpoints_text_cannot_act_on_the_terminal(
    where: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose_runs(["model=gaussian", *TINY])[0]
    state: dict[str, Any] = {}
    if where == "key":
        config[WILD] = 1
    elif where == "name":
        config["name"] = WILD
    elif where == "target":
        config["model"]["_target_"] = WILD
    elif where == "choice":
        config["choices"]["model"] = WILD
    else:
        state[WILD] = torch.zeros(1)
    payload = {"config": json.dumps(config), "state_dict": state, "progress": {}}
    save_checkpoint(workplace / "x.ckpt", payload)
    if where != "key":  # a key of a later version is passed over
        assert main(["evaluate", "x.ckpt"]) != 0
    else:
        main(["evaluate", "x.ckpt"])
    printed = capsys.readouterr()
    for line in (printed.err + printed.out).split("\n"):
        assert "\x1b" not in line
        assert not set(line) & set("\x07\x9b\u202e\u2066\r")


def test_a_searched_folders_names_and_comments_cannot_act_on_the_terminal(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "own" / "model").mkdir(parents=True)
    (workplace / "own" / "model" / "a\x1b[31mb.yaml").write_text("# comment \x1b[2J\u202e\n")
    os.mkfifo(workplace / "own" / "model" / "pipe.yaml")
    assert main(["list", "models", f"hydra.searchpath=[file://{workplace}/own]"]) == 0
    printed = capsys.readouterr().out
    assert "a [31mb" in printed
    assert "comment" in printed
    assert not set(printed) & set("\x1b\u202e")
