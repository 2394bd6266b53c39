"""Locks on file systems that lack flock: they exclude, are released, and an owner that has ended loses its own."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_locks import RUN, grow_old, refuse_flock, started

from bench import files, locks
from bench.cli.main import main
from bench.errors import UserError
from bench.locks import hold, mark
from bench.runs.folder import Ended, RunFolder


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP], ids=errno.errorcode.get)
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_flock(monkeypatch, request.param)


def taken(path: Path) -> bool:
    """Whether somebody else holds the lock."""
    with path.open("w") as file:
        try:
            with hold(path, file.fileno()):
                return False
        except BlockingIOError:
            return True


def test_a_lock_without_flock_excludes_and_is_released_and_said_once(
    tmp_path: Path, no_flock: None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lock"
    for _ in range(3):
        with path.open("w") as file, hold(path, file.fileno()):
            assert taken(path)
            assert (tmp_path / "lock.owner").read_text().startswith(mark())
        assert not taken(path)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]
    (record,) = caplog.records
    assert "this file system has no flock" in record.getMessage()


def test_with_flock_there_is_no_lock_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "lock"
    with path.open("w") as file, hold(path, file.fileno()):
        assert taken(path)
        assert [file.name for file in tmp_path.iterdir()] == ["lock"]
    assert not taken(path)
    assert caplog.records == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADF, errno.EINVAL])
def test_a_real_error_of_flock_is_one(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(OSError, match=os.strerror(number)):
        taken(tmp_path / "lock")
    with pytest.raises(UserError, match=r"cannot be locked.*runs_dir=FOLDER"), RunFolder(tmp_path).locked():
        pass


# A process that holds the lock of a file, on a system without flock, until it is killed.
HOLDER = """
import errno, fcntl, sys, time
from pathlib import Path
from bench.locks import hold
def refused(*_): raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refused
path = Path(sys.argv[1])
with path.open("w") as file, hold(path, file.fileno()):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds ``lock``."""
    with started(HOLDER, tmp_path / "lock") as process:
        yield process
        process.kill()


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
def test_an_owner_that_was_killed_loses_its_lock_at_once(
    tmp_path: Path, no_flock: None, other: subprocess.Popen[bytes]
) -> None:
    path = tmp_path / "lock"
    assert taken(path)
    grow_old(tmp_path / "lock.owner", 10**6)
    assert taken(path), "an owner that runs on this host needs no heartbeat"
    other.kill()
    deadline = time.monotonic() + 10
    while taken(path):  # also while it is a zombie
        assert time.monotonic() < deadline
    other.wait()
    assert not taken(path)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("abandoned", [False, True])
def test_an_owner_that_was_killed_at_any_moment_loses_its_lock_at_once(abandoned: bool, tmp_path: Path) -> None:
    """Killed before each operation on files in turn, while it takes a free lock or that of an owner that has ended."""
    code = f"""
import errno, fcntl, os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent / "benchmarks")!r})
from faults import Faults
from bench.locks import hold, mark

def refused(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

def child(work):
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    return os.waitpid(process, 0)[1]

def take():
    with open("lock", "w") as file, hold(Path("lock"), file.fileno()):
        pass

def killed(k):
    Faults(Path("."), k).install()
    take()

fcntl.flock = refused
status, k = 1, 0
while status:
    k += 1
    if {abandoned}:
        child(lambda: Path("lock.owner").write_text(mark() + " here"))
    status = child(lambda: killed(k))
    take()
    print(k)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) > 8
    files.sweep_orphans(tmp_path)
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".owner"] == []


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
@pytest.mark.parametrize("content", ["0123abcd-{pid}-{start} elsewhere\n", "", "nonsense", "{host}-x-y", "\xff" * 300])
def test_an_owner_elsewhere_loses_its_lock_when_its_heartbeat_is_old(
    content: str, tmp_path: Path, no_flock: None
) -> None:
    host, pid, start = mark().split("-")
    owner = tmp_path / "lock.owner"
    owner.write_text(content.format(host=host, pid=pid, start=start))
    assert taken(tmp_path / "lock")
    grow_old(owner, locks.STALE_SECONDS - 60)
    assert taken(tmp_path / "lock")
    grow_old(owner, locks.STALE_SECONDS + 60)
    assert not taken(tmp_path / "lock")
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
def test_a_process_with_the_number_of_another_is_another(tmp_path: Path, no_flock: None) -> None:
    host, pid, _ = mark().split("-")
    (tmp_path / "lock.owner").write_text(f"{host}-{pid}-00000000 here\n")
    assert not taken(tmp_path / "lock")


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
def test_a_lock_that_is_held_shows_a_heartbeat_and_another_owners_is_left_alone(
    tmp_path: Path, no_flock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    path, owner = tmp_path / "lock", tmp_path / "lock.owner"
    with path.open("w") as file, hold(path, file.fileno()):
        grow_old(owner, 1000)
        deadline = time.monotonic() + 10
        while time.time() - owner.stat().st_mtime > 500:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        owner.write_text("another's")
        grow_old(owner, 1000)
        time.sleep(0.1)
        assert time.time() - owner.stat().st_mtime > 500
    assert owner.read_text() == "another's"


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
def test_one_of_many_takes_an_abandoned_lock_and_the_others_wait_for_it(
    tmp_path: Path, no_flock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.001)
    path = tmp_path / "lock"
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(10):
            with path.open("w") as file, hold(path, file.fileno(), wait=True):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                (tmp_path / "lock.owner").write_text("0123abcd-1-2 elsewhere\n")  # it was killed here
                grow_old(tmp_path / "lock.owner", 1000)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 40


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
def test_a_link_in_place_of_a_lock_file_is_not_followed(tmp_path: Path, no_flock: None) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock.owner").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        taken(tmp_path / "lock")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_run_without_flock_is_alone_and_leaves_nothing(
    workplace: Path, no_flock: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) == 0
    (rows,) = workplace.glob("runs/*/*/rows.jsonl")
    folder = RunFolder(rows.parent)
    with folder.locked():
        assert main([*RUN, "rerun=true"]) == Ended.BUSY.exit_code
        assert f"is being run by process {os.getpid()} on host" in capsys.readouterr().err
    assert main([*RUN, "rerun=true"]) == 0
    assert not [path for path in workplace.rglob("*") if path.suffix in (".owner", ".taking", ".tmp")]


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_file_systems_without_hard_links_have_locks_too(
    number: int, tmp_path: Path, no_flock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "lock"
    with path.open("w") as file, hold(path, file.fileno()):
        assert taken(path)
    assert not taken(path)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
def test_what_another_process_put_in_place_of_an_abandoned_file_stays(tmp_path: Path, no_flock: None) -> None:
    guard = tmp_path / "lock.owner.taking"
    guard.write_text("somebody else's\n")
    locks._remove(guard, "the dead one's")
    assert guard.read_text() == "somebody else's\n"
    locks._remove(guard, "somebody else's")
    assert list(tmp_path.iterdir()) == []
