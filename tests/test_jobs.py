"""Several runs at a time, with runs that are made up: the real processes and signals, without torch."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from helpers_cli import PATIENCE, started, wait_until
from helpers_jobs import made_up, run_all
from helpers_sweep import at_work, children
from rich.console import Console

from bench.cli import run
from bench.config.compose import compose_runs
from bench.config.launching import Launching
from bench.config.spec import RunSpec
from bench.errors import UserError
from bench.runs import jobs as side_by_side
from bench.runs import pool
from bench.runs.board import Board
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.runs.forkserver import LONGEST_REASON, Reports
from bench.runs.jobs import threads_of

# Stands for the modules that import torch. What a run does is the name of its comparison.
SERVER = """
import os, signal, sys, time, types
from pathlib import Path

def module(name, **content):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)

def execute(spec, stage):
    folder = RunFolder(spec.folder)
    with folder.locked():
        folder.begin(spec)
        does, _, number = spec.name.partition("-")
        if does in ("kill", "unnoted"):
            os.kill(os.getpid(), int(number))
        if does == "hang":
            Path(f"hangs-{os.getpid()}").touch()
            time.sleep(3600)
        if does == "exit":
            sys.exit(3)
        if does == "print":
            os.write(1, b"out of the way")
        if does == "ask":
            input("go on? ")
        if does == "busy":
            return Outcome(spec.run_id, Ended.BUSY, "elsewhere")
        stage.hear("at work", 1, 2)
        seen = ":".join([os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.environ.get("OMP_NUM_THREADS", "")])
        outcome = Outcome(spec.run_id, Ended.DIVERGED if does == "diverge" else Ended.OK, seen)
        folder.end(outcome)
        return outcome

def note_end(spec, outcome, with_data):
    folder = RunFolder(spec.folder)
    with folder.locked():
        Path(spec.name).write_text(f"{outcome.ended}: {outcome.reason}")
        if "unnoted" in spec.name and with_data:
            os._exit(1)
        folder.end(outcome)

def check_arguments(config):
    if config["name"] == "wrong":
        raise UserError("it is wrong")
    if config["name"] == "fatal":
        os.abort()

from bench.config.spec import RunSpec
from bench.errors import UserError
from bench.runs.folder import Ended, Outcome, RunFolder
module("torch", cuda=types.SimpleNamespace(device_count=lambda: 2))
module("bench.config.build", checked=RunSpec.parse, check_arguments=check_arguments)
module("bench.runs.run", execute=execute, note_end=note_end)
from bench.runs.forkserver import main
sys.exit(main())
"""
PARENT = """\
import os, sys
from pathlib import Path
sys.path[:0] = [os.getcwd(), {tests!r}]
from bench.runs import pool
from bench.stopping import end_by_signals, stopped
from helpers_jobs import made_up, run_all
pool.SERVER = "tiny_server"
end_by_signals()
try:
    run_all([made_up("hang", seed) for seed in range(3)], 2)
except KeyboardInterrupt:
    sys.exit(stopped())
"""


@pytest.fixture
def server(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (workplace / "tiny_server.py").write_text(SERVER)
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.setattr(pool, "SERVER", "tiny_server")
    monkeypatch.setattr(side_by_side, "SETTLE_SECONDS", 0.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield workplace
    assert at_work(workplace) == []


def test_each_run_ends_in_its_own_way(server: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ways = ["fine", "kill-9", "exit", "ask", "diverge", "kill-11", "unnoted-9", "busy", "print"]
    specs = [made_up(does, seed) for seed, does in enumerate(ways)]
    outcomes = run_all(specs, 2)
    ended = {spec.name: outcomes[spec.run_id] for spec in specs}
    assert {name: outcome.ended for name, outcome in ended.items()} == {
        "fine": Ended.OK, "kill-9": Ended.KILLED, "exit": Ended.KILLED, "diverge": Ended.DIVERGED, "print": Ended.OK,
        "kill-11": Ended.KILLED, "unnoted-9": Ended.KILLED, "busy": Ended.BUSY, "ask": Ended.KILLED,
    }  # fmt: skip
    assert ended["kill-9"].reason.startswith("ended without a word, by SIGKILL, perhaps for want of memory (details in")
    assert ended["kill-11"].reason.startswith("ended without a word, by SIGSEGV (details in runs/kill-11/")
    assert ended["exit"].reason.startswith("ended without a word, by exit code 1")
    for name in ("kill-9", "kill-11", "exit", "ask", "unnoted-9"):  # a process of its own has written why
        assert Path(name).read_text() == f"killed: {ended[name].reason}"
    assert {spec.name for spec in specs if RunFolder(spec.folder).ended} == set(ways) - {"busy"}
    assert capfd.readouterr() == ("", "")
    assert "out of the way" in RunFolder(specs[-1].folder).log.read_text()
    assert "EOFError" in RunFolder(specs[ways.index("ask")].folder).log.read_text(), "a question has no answer"


def test_two_runs_of_one_folder_wait_for_each_other(server: Path) -> None:
    specs = [made_up("fine"), made_up("fine"), made_up("fine", 1), made_up("diverge")]
    outcomes = run_all(specs, 4)
    # The last has the first one's run_id, under another name: what failed counts.
    assert {run_id: outcome.ended for run_id, outcome in outcomes.items()} == {
        specs[0].run_id: Ended.DIVERGED, specs[2].run_id: Ended.OK,
    }  # fmt: skip


def test_a_run_that_hangs_is_ended_in_time(server: Path) -> None:
    specs = [made_up("hang", timeout=1.0), made_up("fine", 1)]
    begin = time.monotonic()
    hung, fine = run_all(specs, 1).values()
    assert time.monotonic() - begin < 60
    assert (hung.ended, fine.ended) == (Ended.TIMED_OUT, Ended.OK)
    assert hung.reason.startswith("timed out after 1 s (timeout=1; details in")
    assert Path("hang").read_text().startswith("timed out: ")


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGKILL, False), (signal.SIGTERM, True), (signal.SIGINT, False)],
)
def test_no_run_outlives_the_sweep(number: signal.Signals, whole_group: bool, workplace: Path) -> None:
    (workplace / "tiny_server.py").write_text(SERVER)
    parent = PARENT.format(tests=str(Path(__file__).parent))
    with started([sys.executable, "-c", parent], workplace) as process:
        wait_until(lambda: len(list(workplace.glob("hangs-*"))) == 2, process)
        assert len(at_work(workplace)) == 2
        begin = time.monotonic()
        (os.killpg if whole_group else os.kill)(process.pid, number)
        assert process.wait(PATIENCE) == (-number if number == signal.SIGKILL else 128 + number)
        assert time.monotonic() - begin < 10
        if number != signal.SIGKILL:  # it has waited for their end
            assert at_work(workplace) == []
        wait_until(lambda: not at_work(workplace))
    assert not list(workplace.glob("runs/*/*/done.json"))


def test_the_rest_is_run_when_the_process_that_forks_is_killed(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Board.progress
    killed: list[int] = []
    others = set(children(os.getpid()))  # such as multiprocessing's, where other tests of this process used it

    def kill(board: Board, *report: object) -> None:
        if not killed:
            killed.extend(set(children(os.getpid())) - others)
            os.kill(killed[0], signal.SIGKILL)
        heard(board, *report)  # type: ignore[arg-type]

    monkeypatch.setattr(Board, "progress", kill)
    specs = [made_up("fine", 0), *(made_up("fine", seed) for seed in (1, 2, 3))]
    outcomes = run_all(specs, 1)
    assert len(killed) == 1
    assert set(outcomes) == {spec.run_id for spec in specs}
    ended = [outcome.ended for outcome in outcomes.values()]
    assert ended.count(Ended.OK) >= 2
    assert set(ended) <= {Ended.OK, Ended.KILLED}


def test_gpus_are_given_out(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    specs = [*(made_up("fine", seed, "gpu") for seed in range(4)), made_up("fine", 4)]
    given = [outcome.reason.split(":")[0] for _, outcome in sorted(run_all(specs, 5).items())]
    assert set(given[:4]) == {"0", "1"}
    assert given[4] == ""  # it asks for none
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-abc")
    specs = [made_up("fine", seed, "gpu") for seed in range(5, 7)]
    assert {outcome.reason.split(":")[0] for outcome in run_all(specs, 2).values()} == {"3", "GPU-abc"}


@pytest.mark.parametrize(
    ("devices", "per_gpu", "at_work", "asked", "given"),
    [
        ("01", 1, [], 1, ("0",)), ("01", 1, ["0"], 1, ("1",)), ("01", 1, ["0", "1"], 1, None),
        ("01", 2, ["0", "1", "0"], 1, ("1",)), ("01", 1, [], 2, ("0", "1")), ("01", 1, ["1"], 2, None),
        ("0", 3, ["0", "0"], 1, ("0",)), ("0", 3, ["0", "0", "0"], 1, None), ("0", 1, [], 2, ("0",)),
        ("", 1, [], 1, ()), ("01", 3, ["0"], 1, ("1",)), ("012", 3, ["0", "2", "0", "1", "2"], 2, ("1", "0")),
    ],
)  # fmt: skip
def test_no_gpu_has_more_runs_than_it_may(
    devices: str, per_gpu: int, at_work: list[str], asked: int, given: tuple[str, ...] | None
) -> None:
    spec = made_up("fine", accelerator="gpu", jobs_per_gpu=per_gpu)
    spec = replace(spec, hardware=replace(spec.hardware, devices=asked))
    sweep = side_by_side._Sweep(side_by_side.deque())
    sweep.running = {k: side_by_side._Job(spec, 0.0, (name,)) for k, name in enumerate(at_work)}
    assert side_by_side._free(list(devices), sweep, spec) == given


def test_a_mistake_is_told_before_anything_starts(server: Path) -> None:
    with pytest.raises(UserError, match="it is wrong"):
        run_all([made_up("fine"), made_up("wrong")], 2)
    with pytest.raises(UserError, match=r"could not be checked \(SIGABRT\); try jobs=0"):
        run_all([made_up("fine"), made_up("fatal")], 2)
    (server / "tiny_server.py").write_text("raise SystemExit(7)")
    with pytest.raises(UserError, match=r"ended at its start \(exit code 7\); try jobs=0"):
        run_all([made_up("fine")], 2)
    assert not list(server.glob("runs/*/*"))


def test_the_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [threads_of(jobs) for jobs in (1, 2, 3, 8, 20)] == [None, 4, 2, 1, 1], "alone, torch's own number"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_of(jobs) for jobs in (1, 2, 3, 8, 20)] == [None, 3, 2, 1, 1]
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert [threads_of(jobs) for jobs in (1, 2, 8)] == [None, 2, 1]


@pytest.mark.parametrize(("asked", "jobs", "seen"), [("", 1, ""), ("3", 1, "3"), ("3", 9, "1")])
def test_a_run_that_works_alone_has_the_threads_of_a_run_outside_a_sweep(
    asked: str, jobs: int, seen: str, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    (outcome,) = run_all([made_up("fine")], jobs).values()
    assert outcome.reason.split(":")[1] == seen


@pytest.mark.parametrize(
    "text",
    [
        "hydra/launcher=joblib",
        "+hydra.job.env_set.FOO=bar",
        "+hydra.callbacks.x._target_=y",
        "hydra.sweeper.max_batch_size=2",
    ],
)
def test_what_only_hydras_own_launcher_does_is_left_to_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "is_command", lambda: True)
    specs = [made_up("fine"), made_up("fine", 1)]
    assert run._jobs(specs, ["model=vae", "hydra.sweeper.params.seed=0,1", "hydra.searchpath=[file://x]"]) == 1
    assert run._jobs(specs, ["model=vae", text]) == 0
    with pytest.raises(UserError, match="is for Hydra's own launcher"):
        run._jobs([made_up("fine", jobs=2)], [text])


def test_a_full_pipe_loses_progress_and_nothing_else() -> None:
    out, into = os.pipe()
    reports = Reports(into, 5)
    while reports._write({"fill": "x" * 1000}):
        pass
    reports.progress("dropped", 1, None)
    os.read(out, 1 << 20)
    reports.send(outcome={"reason": "\U0001f600" * LONGEST_REASON})
    assert os.read(out, 1 << 20).count(b"\n") == 1
    os.close(out)
    reports.send(outcome={})  # nobody listens any more
    os.close(into)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_board_tells_how_it_goes(terminal: bool) -> None:
    written = StringIO()
    console = Console(file=written, force_terminal=terminal, width=150)
    specs = [made_up("a", seed) for seed in range(4)]
    with Board(specs, specs[1:], 2, console) as board:
        board.begin(specs[1])
        board.progress(specs[1], "loss 3", 5, 10)
        board.begin(specs[2])
        board.refresh()
        board.end(specs[1], Outcome("", Ended.OK))
        board.end(specs[2], Outcome("", Ended.TIMED_OUT, "too\nlong"))
        board.begin(specs[3])
        assert board.state.startswith("3 of 4 done, 1 running, 1 failed")
        board.end(specs[3], Outcome("", Ended.BUSY, "elsewhere"))
        assert board.state == "4 of 4 done, 1 failed"
    lines = written.getvalue().splitlines()
    assert any(f"run 3 of 4: {specs[2].run_id}: timed out after 0 s: too long (3 of 4 done" in line for line in lines)
    assert terminal or lines[0] == f"run 2 of 4: {specs[1].run_id}: starts"
    assert terminal or len(lines) == 6


def test_the_board_tells_no_time_of_runs_whose_like_have_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three Gaussians of a second say nothing of three flows of a hundred."""
    now = [0.0]
    monkeypatch.setattr("bench.runs.board.time.monotonic", lambda: now[0])
    runs = compose_runs(["model=gaussian,realnvp_small", "seed=0,1,2"], multirun=True)
    specs = [RunSpec.parse(config) for config in runs]
    told = []
    with Board(specs, specs, 1, Console(file=StringIO())) as board:
        for spec in specs:
            board.begin(spec)
            now[0] += 100.0 if spec.choices["model"] == "realnvp_small" else 1.0
            board.end(spec, Outcome("", Ended.OK))
            told.append(board.state)
    assert told == [
        "1 of 6 done, at least 2 s left", "2 of 6 done, at least 1 s left", "3 of 6 done",
        "4 of 6 done, about 3 min 20 s left", "5 of 6 done, about 1 min 40 s left", "6 of 6 done",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"jobs": -1}, "jobs=-1: a whole number"), ({"jobs": True}, "jobs=True"), ({"jobs": 10**5000}, "a large"),
        ({"timeout": 0}, "timeout=0: seconds"), ({"timeout": float("nan")}, "timeout=nan"),
        ({"timeout": 10**400}, "a large number"),
        ({"jobs_per_gpu": 0}, "jobs_per_gpu=0"), ({"launcher": "slurm"}, "write|name is expected"),
        ({"launcher": {"engine": "pbs"}}, "the engines are local"),
        ({"launcher": {"engine": "slurm", "partitoin": "x"}}, "did you mean|partition"),
        ({"launcher": {"engine": "slurm", "partition": "x\n#SBATCH --wrap=evil"}}, "a name is expected"),
        ({"launcher": {"engine": "slurm", "minutes": "x"}}, "a number is expected"),
    ],
)  # fmt: skip
def test_what_launching_refuses(config: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Launching.parse(config)
