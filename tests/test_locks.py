"""File systems that lack flock or cannot flush, disks that are full: nothing is lost, and it is said once."""

import errno
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import files, locks
from bench.cli.main import main
from bench.data.bytes.cache import Staging
from bench.errors import UserError
from bench.files import durable_write, sweep_orphans
from bench.locks import hold, is_abandoned, mark
from bench.rows.store import read_rows
from bench.runs.folder import Ended, RunFolder
from bench.schema import Status
from bench.tables.leaderboard import publish

RUN = ["run", "model=gaussian", "data=two_moons", "data.n_train=200", "data.n_val=20", "data.n_test=20",
       "metric=[likelihood]", "evaluate.n_samples=20"]  # fmt: skip
NO_FLOCK = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP]
CANNOT_FLUSH = [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF]

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
WRITER = """
import errno, fcntl, os, sys, time
from bench.files import durable_write
def refused(*_): raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refused
os.replace = lambda *_: (print("in", flush=True), time.sleep(60))
durable_write(sys.argv[1], "new")
"""
STAGER = """
import sys, time
from pathlib import Path
from bench.data.bytes.cache import Staging
with Staging(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _nothing_said() -> Iterator[None]:
    locks._said.clear()
    files._said.clear()
    yield
    locks._said.clear()
    files._said.clear()


@pytest.fixture(params=NO_FLOCK, ids=errno.errorcode.get)
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refused)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds ``lock``."""
    with started(HOLDER, tmp_path / "lock") as process:
        yield process
        process.kill()


def started(code: str, path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() in (b"held\n", b"in\n")
    return process


def taken(path: Path) -> bool:
    """Whether somebody else holds the lock."""
    with path.open("w") as file:
        try:
            with hold(path, file.fileno()):
                return False
        except BlockingIOError:
            return True


def grow_old(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


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


# Temporary files and folders


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
def test_a_running_writers_file_is_kept_without_flock(tmp_path: Path, no_flock: None) -> None:
    with started(WRITER, tmp_path / "x") as writer:
        (temporary,) = tmp_path.iterdir()
        grow_old(temporary, 10**6)
        assert sweep_orphans(tmp_path) == []
        writer.kill()
        writer.wait()
    assert sweep_orphans(tmp_path) == [temporary]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
@pytest.mark.parametrize("owner", ["0123abcd-1-2-", "", "x-"])
def test_a_file_of_another_host_is_kept_for_an_hour(owner: str, tmp_path: Path, no_flock: None) -> None:
    temporary = tmp_path / f".genbench-{owner}0123456789abcdef.tmp"
    temporary.write_text("half")
    grow_old(temporary, 3000)
    assert sweep_orphans(tmp_path) == []
    grow_old(temporary, 4000)
    assert sweep_orphans(tmp_path) == [temporary]


def test_staging_folders_of_the_killed_are_swept_and_those_of_the_running_kept(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_text("precious")
    with started(STAGER, tmp_path) as stager:
        with Staging(tmp_path) as mine:
            assert {path.name for path in tmp_path.glob(".staging-*/*")} == {"half"}
            with Staging(tmp_path):
                assert mine.is_dir()
        stager.kill()
        stager.wait()
    assert len(list(tmp_path.iterdir())) == 2
    with Staging(tmp_path) as mine:
        assert set(tmp_path.iterdir()) == {tmp_path / "data.bin", mine}


@pytest.mark.parametrize("name", [".staging-k3x9_2ab", ".staging-0123abcd-1-2-k3x9_2ab"])
def test_a_staging_folder_of_another_host_is_kept_for_a_day_after_its_last_file(name: str, tmp_path: Path) -> None:
    staging = tmp_path / name
    staging.mkdir()
    (staging / "half").write_text("half")
    grow_old(staging, 10**6)
    with Staging(tmp_path):
        assert staging.exists()
    grow_old(staging / "half", 10**6)
    grow_old(staging, 10**6)
    with Staging(tmp_path):
        assert not staging.exists()


def test_a_link_is_no_staging_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "home").mkdir()
    link = tmp_path / "home" / ".staging-k3x9_2ab"
    link.symlink_to(tmp_path / "precious")
    os.utime(link, (0, 0), follow_symlinks=False)
    with Staging(tmp_path / "home"):
        assert (tmp_path / "precious").is_dir()


def test_orphans_in_results_are_swept(workplace: Path) -> None:
    orphans = [workplace / "results" / folder / ".genbench-0123.tmp" for folder in ("rows", "leaderboard")]
    for orphan in orphans:
        orphan.parent.mkdir(parents=True)
        orphan.write_text("half")
    assert main(RUN) == 0
    assert not any(orphan.exists() for orphan in orphans)


def test_is_abandoned_minds_the_file_systems_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("")
    monkeypatch.setattr(time, "time", lambda: 1e12)  # this host's clock is wrong
    assert not is_abandoned(tmp_path / "x", "0123abcd-1-2")


# Flushing


@pytest.mark.parametrize("number", CANNOT_FLUSH, ids=errno.errorcode.get)
def test_a_file_system_that_cannot_flush_is_written_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    for text in ("first", "second"):
        durable_write(tmp_path / "x", text)
        assert (tmp_path / "x").read_text() == text
    (record,) = caplog.records
    assert "cannot flush to disk" in record.getMessage()


@pytest.mark.parametrize("number", [*CANNOT_FLUSH, errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_opened_is_written_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_folders(monkeypatch, number)
    for text in ("first", "second"):
        durable_write(tmp_path / "x", text)
        assert (tmp_path / "x").read_text() == text
    (record,) = caplog.records
    assert "cannot flush to disk" in record.getMessage()


def refuse_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    opened = os.open

    def fails(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_DIRECTORY:
            raise OSError(number, os.strerror(number))
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", fails)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_after_the_rename_a_failure_says_that_the_file_is_written(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def fails(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    if call == "open":
        refuse_folders(monkeypatch, number)
    else:
        monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(UserError, match="is written, but a power cut may undo it") as caught:
        durable_write(tmp_path / "x", "new")
    assert "free space" not in str(caught.value)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "new")]


# The log of a run


@pytest.mark.parametrize("when", ["opened", "written"])
def test_a_full_disk_costs_the_log_and_not_the_run(
    when: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> Any:
        if when == "opened":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open("/dev/full", "w")

    monkeypatch.setattr("bench.runs.log.open_here", full)
    assert main(RUN) == 0
    said = capfd.readouterr()
    assert said.err.count("No space left on device; the run goes on, its log is incomplete") == 1
    assert "Traceback" not in said.out + said.err
    (rows,) = workplace.glob("runs/*/*/rows.jsonl")
    assert all(row.status is not Status.FAILED for row in read_rows(rows))


# Publishing


def finish_a_run(place: str, number: int, start: Any) -> None:
    """Copy a run under another name and publish, many processes at once."""
    os.chdir(place)
    source = Path("one.jsonl").read_text()
    start.wait()
    folder = Path("runs/name") / str(number)
    folder.mkdir(parents=True)
    lines = [json.loads(line) | {"run_id": f"r{number}", "training_key": f"t{number}"} for line in source.splitlines()]
    durable_write(folder / "rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    publish(Path("runs/name"), Path("results"), "name")


def test_the_last_of_many_publishers_sees_every_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) == 0
    (rows,) = workplace.glob("runs/*/*/rows.jsonl")
    lines = [line for line in rows.read_text().splitlines() if json.loads(line)["model_family"] != "data"]
    (workplace / "one.jsonl").write_text("\n".join(lines) + "\n")
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    processes = [context.Process(target=finish_a_run, args=(str(workplace), n, start)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    published = read_rows(workplace / "results" / "rows" / "name.jsonl")
    assert {row.run_id for row in published} == {"r0", "r1", "r2", "r3"}


def test_a_publisher_waits_for_the_one_before_and_then_gathers(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The window in which a later run was lost: it ends after the first publisher gathered and before it wrote."""
    assert main(RUN) == 0
    assert main([*RUN, "seed=1"]) == 0
    runs = sorted(path for path in workplace.glob("runs/two_moons/*") if path.is_dir())
    held = runs[1].rename(workplace / "later")
    lock = workplace / "results" / ".lock"
    with lock.open("w") as file, hold(lock, file.fileno()):
        publisher = threading.Thread(target=publish, args=(Path("runs/two_moons"), Path("results"), "two_moons"))
        publisher.start()
        publisher.join(0.5)
        assert publisher.is_alive(), "it waits"
        held.rename(runs[1])
    publisher.join(60)
    published = read_rows(workplace / "results" / "rows" / "two_moons.jsonl")
    assert {row.seed for row in published if row.model_family != "data"} == {0, 1}


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
