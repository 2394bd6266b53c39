"""Ctrl-C and SIGTERM: wherever a command is at work it ends within seconds, says so in one line, and goes on later."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers_cli import PATIENCE, command_line, genbench, started, wait_until

import bench.stopping
from bench.cli.main import main
from bench.stopping import GRACE_SECONDS, MESSAGE

TINY = ["data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64", "metric=[likelihood,cost]",
        "model=realnvp", "model.couplings=1", "train.examples=640", "train.validate_every=320",
        "evaluate.n_samples=32"]  # fmt: skip
SIGNALS = [signal.SIGINT, signal.SIGTERM]
HANGS = """\
import hashlib, os, signal, sys, time
from pathlib import Path
from bench.stopping import end_by_signals, stopped

def wait_for_ever():
    while True:
        time.sleep(0.01)

def swallow():
    while True:
        try:
            wait_for_ever()
        except:
            pass

def call_c():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

end_by_signals()
Path("here").touch()
try:
    {what}
except KeyboardInterrupt:
    sys.exit(stopped())
"""
# Stands for a command at work in one of its functions, where the signal comes as it should or is swallowed.
AT_WORK = """\
import importlib, sys, time
from pathlib import Path

module, name, swallowed, *arguments = sys.argv[1:]

def at_work(*given, **named):
    Path("here").touch()
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            if swallowed != "True":
                raise

owner = importlib.import_module(module)
if "." in name:
    kind, name = name.split(".")
    owner = getattr(owner, kind)
setattr(owner, name, at_work)
sys.argv[1:] = arguments
from bench.cli.main import main
sys.exit(main())
"""
PLACES = [
    ("bench.config.compose", "_compose_each"),
    ("bench.config.build", "build_data"),
    ("bench.runs.run", "build_model"),
    ("bench.training.supervisor", "check_finite"),
    ("bench.runs.run", "validation_score"),
    ("bench.training.supervisor", "scored"),
    ("bench.training.supervisor", "export"),
    ("bench.runs.run", "measure_checkpoint"),
    ("bench.runs.run", "save_picture"),
    ("bench.runs.folder", "RunFolder.add_rows"),
    ("bench.runs.sweep", "publish"),
]


def ended(command: list[str], number: signal.Signals, folder: Path) -> tuple[int, list[str]]:
    """The exit code and the lines of a command that gets the signal when it says ``here``."""
    with started(command, folder) as process:
        wait_until((folder / "here").exists, process)
        begin = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        took = time.monotonic() - begin
    (folder / "here").unlink()
    assert took < GRACE_SECONDS + 8, "a machine that does much else is slower, but not that slow"
    return process.returncode, said.splitlines()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("what", ["wait_for_ever()", "swallow()", "call_c()"])
def test_a_process_ends_whatever_it_does(what: str, number: signal.Signals, workplace: Path) -> None:
    command = [sys.executable, "-c", HANGS.format(what=what)]
    assert ended(command, number, workplace) == (128 + number, [MESSAGE])


def test_what_the_process_was_started_to_ignore_stays_ignored(workplace: Path) -> None:
    code = HANGS.format(what="os.kill(os.getpid(), signal.SIGINT); time.sleep(0.1)")
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_signal_of_a_forked_process_is_its_own(workplace: Path) -> None:
    what = """
    child = os.fork()
    if child == 0:
        Path("forked").touch()
        wait_for_ever()
    while not Path("forked").exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
    time.sleep(2.5)
"""
    command = [sys.executable, "-W", "ignore", "-c", HANGS.format(what=what.strip())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize(("module", "name"), PLACES)
def test_a_run_ends_anywhere_and_goes_on(module: str, name: str, swallowed: bool, workplace: Path) -> None:
    number = signal.SIGINT if swallowed else signal.SIGTERM
    command = [sys.executable, "-W", "ignore", "-c", AT_WORK, module, name, str(swallowed), "run", *TINY]
    code, said = ended(command, number, workplace)
    assert code == 128 + number
    assert [line for line in said if not line.endswith(": starts") and ": done after " not in line] == [MESSAGE]
    if name != "publish":
        assert not list(workplace.glob("runs/*/*/done.json"))
    assert main(["run", *TINY]) == 0


def test_an_error_that_a_library_makes_of_the_signal_is_no_failure(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_: object, **__: object) -> None:
        bench.stopping._received.append(signal.SIGTERM)
        raise RuntimeError("KeyboardInterrupt: ")

    monkeypatch.setattr("bench.stopping._received", [])
    monkeypatch.setattr("bench.runs.run.build_model", convert)
    assert main(["run", *TINY]) == 143
    assert not list(workplace.glob("runs/*/*/rows.jsonl"))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_sweep_ends_as_a_whole(number: signal.Signals, workplace: Path) -> None:
    command = command_line("run", "-m", "seed=0,1", *TINY, "train.examples=10000000")
    with started(command, workplace) as process:
        wait_until(lambda: list(workplace.glob("runs/*/*/last.ckpt")), process)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == MESSAGE
    assert len(list(workplace.glob("runs/two_moons/*-s?-*"))) == 1


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", ["evaluate", "fetch"])
def test_the_other_commands_end_alike(command: str, number: signal.Signals, workplace: Path) -> None:
    if command == "evaluate":
        assert genbench("run", *TINY, cwd=workplace).returncode == 0
        (run,) = workplace.glob("runs/two_moons/*-s0-*")
        place, arguments = ["bench.runs.evaluate", "measure_checkpoint"], ["evaluate", str(run), "rerun=true"]
    else:
        place, arguments = ["bench.data.bytes.fetch", "_fetch"], ["data", "fetch", "cifar10"]
    code = [sys.executable, "-W", "ignore", "-c", AT_WORK, *place, "True", *arguments]
    exit_code, said = ended(code, number, workplace)
    assert exit_code == 128 + number
    assert said[-1] == MESSAGE


@pytest.mark.parametrize("number", SIGNALS)
def test_after_the_line_a_command_does_not_wait_for_the_interpreters_end(number: int, workplace: Path) -> None:
    """Which takes longer the more was imported and the busier the machine; here it would take for ever."""
    code = """
import sys, time
from pathlib import Path
import bench.cli.table

class Late:
    def __del__(self, sleep=time.sleep):  # when no other thread runs any more
        sleep(3600)

def at_work(*_):
    Path("here").touch()
    while True:
        time.sleep(0.01)

bench.cli.table.main = at_work
late = Late()
sys.argv[1:] = ["table", "runs"]
from bench.cli.main import main
sys.exit(main())
"""
    with started([sys.executable, "-c", code], workplace) as process:
        wait_until((workplace / "here").exists, process)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert said.count(MESSAGE) == 1
