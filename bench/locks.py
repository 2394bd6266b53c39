"""Locks on files: flock where the file system has it, else a lock file that names its owner and shows a heartbeat.

Some network file systems refuse flock (NFS without its lock service, Lustre without the mount option ``flock``). There
the file ``NAME.owner`` stands for the lock of ``NAME``. An owner that ended on this host loses the lock at once; one of
another host loses it when its heartbeat, the time of the lock file, is three minutes old.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["flock", "hold", "is_abandoned", "mark"]

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0  # NFS clients may show the time of a file up to a minute late
POLL_SECONDS = 0.1
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}

_log = logging.getLogger(__name__)
_said: set[str] = set()  # what this process has told the user about


@contextlib.contextmanager
def hold(path: Path, descriptor: int, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file that is open for writing. The end of the process, whatever ends it, releases it.

    Arguments:
        path: The file.
        descriptor: Of the open file.
        wait: Wait for another owner to end.

    Raises:
        BlockingIOError: Another owner holds it, and ``wait`` is false.
        OSError: The file system failed.
    """
    if flock(path, descriptor, wait=wait):
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    else:
        with _owned(path.with_name(f"{path.name}.owner"), wait):
            yield


def flock(path: Path, descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed. Return False, and tell the user once, if its file system has no flock.

    Raises:
        BlockingIOError: Another owner holds it, and ``wait`` is false.
        OSError: The file system failed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        if "flock" not in _said:
            _said.add("flock")
            _log.warning(
                "%s: this file system has no flock (%s); lock files NAME.owner stand for it", path.parent,
                error.strerror,
            )  # fmt: skip
        return False
    return True


def mark() -> str:
    """Return ``HOST-PID-START`` of this process: no other process, on any host, before or after, has the same."""
    return f"{_host()}-{os.getpid()}-{_started(os.getpid())}"


def is_abandoned(path: Path, owner: str, seconds: float = STALE_SECONDS) -> bool:
    """Return whether the owner of a temporary file, a temporary folder or a lock file has ended.

    Arguments:
        path: The file or folder.
        owner: The ``mark`` of the process that made it. What another host or something else made counts as abandoned
            if it, and for a folder everything in it, is older than ``seconds`` by the file system's own clock.

    Raises:
        OSError: The path is gone, or its folder cannot be written.
    """
    host, _, process = owner.partition("-")
    number, _, started = process.partition("-")
    if host == _host() and number.isdecimal():
        return not _is_running(int(number), started)
    inside = list(path.iterdir()) if path.is_dir() and not path.is_symlink() else []
    newest = max(file.lstat().st_mtime for file in [path, *inside])
    with tempfile.TemporaryFile(dir=path.parent) as now:  # the clocks of hosts differ
        return os.fstat(now.fileno()).st_mtime - newest > seconds


@contextlib.contextmanager
def _owned(file: Path, wait: bool) -> Iterator[None]:
    """Hold a lock file."""
    text = f"{mark()} {socket.gethostname()} {secrets.token_hex(8)}"  # no other holding, of this process either, has it
    while not _claimed(file, text):
        if not wait:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(file))
        time.sleep(POLL_SECONDS)
    ended = threading.Event()
    heartbeat = threading.Thread(target=_beat, args=(file, text, ended), daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        ended.set()
        heartbeat.join()
        with contextlib.suppress(OSError):
            if _text(file) == text:  # else another host took it for abandoned
                file.unlink()


def _beat(file: Path, text: str, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):
            if _text(file) == text:
                os.utime(file)


def _claimed(file: Path, text: str) -> bool:
    """Create the lock file, after the removal of an abandoned one; return whether it is ours."""
    for _ in range(3):  # one may have been killed while it removed that of another
        if _placed(file, text):
            return True
        _remove_abandoned(file)
    return False


def _placed(file: Path, text: str) -> bool:
    """Create a file that holds a text, which begins with this process's mark; return whether there was none.

    It comes into being whole: an owner that is killed can always be told from one of another host.
    """
    temporary = file.with_name(f".genbench-{mark()}-{secrets.token_hex(8)}.tmp")  # ``files.sweep_orphans`` knows it
    try:
        temporary.write_text(f"{text}\n")
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _created(file, text)
        return temporary.stat().st_nlink == 2  # NFS may call a link that it has just made one that existed
    finally:
        temporary.unlink(missing_ok=True)


def _created(file: Path, text: str) -> bool:
    """The same without hard links: not whole at once, so that an owner killed in here blocks the file for a while."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)
    return True


def _remove_abandoned(file: Path) -> None:
    """Delete a lock file whose owner has ended. One process at a time: a second one would delete the new owner's."""
    guard = file.with_name(f"{file.name}.taking")
    text = f"{mark()} - {secrets.token_hex(8)}"
    if not _placed(guard, text):  # another process is in the next lines, or was killed there
        with contextlib.suppress(FileNotFoundError):
            dead = _text(guard)
            if is_abandoned(guard, dead.partition(" ")[0]):
                _remove(guard, dead)
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            if is_abandoned(file, _owner(file)) and _text(guard) == text:
                file.unlink()
    finally:
        _remove(guard, text)


def _remove(file: Path, text: str) -> None:
    """Delete a file if it still holds a text: what another process has put there since stays, or comes back."""
    aside = file.with_name(f".genbench-{mark()}-{secrets.token_hex(8)}.tmp")
    with contextlib.suppress(FileNotFoundError):
        file.rename(aside)  # of several processes one has it
        if _text(aside) != text:
            with contextlib.suppress(OSError):
                os.link(aside, file)
        aside.unlink()


def _owner(file: Path) -> str:
    """Return the mark in a lock file."""
    return _text(file).partition(" ")[0]


def _text(file: Path) -> str:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 512).decode(errors="replace").rstrip("\n")
    finally:
        os.close(descriptor)


def _host() -> str:
    """Return 8 hexadecimal digits for the host. Containers that cannot see each other's processes are hosts."""
    processes = ""
    with contextlib.suppress(OSError):
        processes = os.readlink("/proc/self/ns/pid")
    return _digest(f"{socket.gethostname()} {processes}")


def _is_running(number: int, started: str) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return _started(number) in (started, "")


def _started(number: int) -> str:
    """Return 8 hexadecimal digits for the time at which a process started; empty if the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        # After the name, which may hold any character: the state comes first and the time is the 20th (proc_pid_stat).
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else _digest(boot + fields[19])
    except (OSError, IndexError):
        return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
