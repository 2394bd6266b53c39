"""Start runs in processes of their own, from a process that has imported torch: ``python -m bench.runs.forkserver``.

Importing torch and Lightning takes seconds. This process does it once and forks for each run. It works with no tensor
itself, so it has no thread of torch and no connection to a GPU when it forks; the threads of OpenBLAS end before each
fork and start again when they are needed.

It is started by ``bench.runs.pool``, with the numbers of two pipes as arguments. It reads requests from the first, a
JSON object a line, and writes reports to the second, which its children write to, too. Its standard input carries no
bytes: its end tells every child that the parent has ended, for whatever reason.

    request   {"job": 3, "do": "run", "config": {...}, "environment": {...}}    or {"job": 3, "do": "kill"}
    report    {"job": 3, "state": "...", "done": 640, "total": 60000}           while it runs
              {"job": 3, "outcome": {...}}                                      what the run came to
              {"job": 3, "status": 9}                                           its process has ended, as os.wait says
"""

import contextlib
import gc
import json
import os
import select
import signal
import sys
import time
import warnings
from typing import Any, NoReturn

from bench.errors import BusyError, UserError

__all__ = ["LONGEST_REASON", "Reports", "main"]

LONGEST_REASON = 600  # characters; lines of up to PIPE_BUF (4096) bytes from several writers are never mixed
PROGRESS_SECONDS = 0.5  # between two reports of one run's progress
RETRY_SECONDS = 0.02
BUSY_TRIES = 50


class Reports:
    """Writes reports to a pipe that may be full: progress is then dropped, and everything else waits."""

    def __init__(self, pipe: int, job: int) -> None:
        self._pipe, self._job, self._next = pipe, job, 0.0
        os.set_blocking(pipe, False)

    def progress(self, state: str, done: float, total: float | None) -> None:
        """Report how far a run is, at most every half second."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS_SECONDS
            self._write({"state": state[:LONGEST_REASON], "done": done, "total": total})

    def send(self, **report: Any) -> None:
        """Report something that must arrive."""
        while not self._write(report):
            time.sleep(RETRY_SECONDS)

    def _write(self, report: dict[str, Any]) -> bool:
        line = json.dumps({"job": self._job, **report}, ensure_ascii=False).encode(errors="replace") + b"\n"
        try:
            os.write(self._pipe, line)
        except BlockingIOError:
            return False
        except BrokenPipeError:  # nobody listens any more
            pass
        return True


def main() -> int:
    """Fork a process for each request until the parent closes the pipe; end all that still run then."""
    requests, reports = map(int, sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):  # Ctrl-C, and what Slurm sends: the parent's
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    life, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a run that asks a question gets an end of file, and does not wait for ever
    os.close(nothing)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    import bench.config.build  # once, for all children
    import bench.runs.run  # noqa: F401

    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    jobs: dict[int, int] = {}  # numbers of running jobs by their process
    text = b""
    while True:
        ready = select.select([requests, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _reap(jobs, reports)
        if requests not in ready:
            continue
        read = os.read(requests, 1 << 16)
        if not read:
            break
        *lines, text = (text + read).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if request["do"] == "kill":  # here, where its number cannot belong to another process yet
                for process in [process for process, job in jobs.items() if job == request["job"]]:
                    os.kill(process, signal.SIGKILL)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 counts the threads of OpenBLAS
                process = os.fork()
            if process == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for pipe in (requests, woken, wake):
                    os.close(pipe)
                _work(request, Reports(reports, request["job"]), life)
            jobs[process] = request["job"]
    for process in jobs:
        os.kill(process, signal.SIGKILL)
    for process in jobs:
        os.waitpid(process, 0)
    return 0


def _reap(jobs: dict[int, int], reports: int) -> None:
    """Report the children that have ended."""
    for process in list(jobs):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            Reports(reports, jobs.pop(process)).send(status=status)


def _work(request: dict[str, Any], reports: Reports, life: int) -> NoReturn:
    """In a child: do what is asked, report it, and end without the interpreter's own end, which takes seconds."""
    code = 1
    try:
        from bench.runs.ddp import follow_parent

        follow_parent(life)
        os.environ.update(request["environment"])
        doing = {"check": _check, "run": _run, "note": _note}[request["do"]]
        doing(request, reports)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # to the run's log
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _check(request: dict[str, Any], reports: Reports) -> None:
    """Refuse configurations in which a name may not be built or does not take its arguments; count the GPUs."""
    import torch

    from bench.config.build import check_arguments

    try:
        for config in request["configs"]:
            check_arguments(config)
    except UserError as error:
        reports.send(refused=str(error))
    else:
        reports.send(gpus=torch.cuda.device_count())


def _run(request: dict[str, Any], reports: Reports) -> None:
    from bench.config.build import checked
    from bench.runs.folder import Ended, Outcome
    from bench.runs.run import execute
    from bench.runs.sweep import Stage

    try:
        spec = checked(request["config"])
        _write_to(spec.folder)
        outcome = execute(spec, Stage(hear=reports.progress))
    except UserError as error:
        outcome = Outcome("", Ended.REFUSED, str(error))
    reports.send(outcome={"ended": outcome.ended, "reason": outcome.reason[:LONGEST_REASON], "before": outcome.before})


def _note(request: dict[str, Any], reports: Reports) -> None:
    from bench.config.build import checked
    from bench.runs.folder import Ended, Outcome
    from bench.runs.run import note_end

    spec = checked(request["config"])
    _write_to(spec.folder)
    outcome = Outcome(spec.run_id, Ended(request["ended"]), request["reason"])
    for _ in range(BUSY_TRIES):
        try:
            note_end(spec, outcome, with_data=request["with_data"])
            reports.send(noted=True)
            return
        except BusyError:  # the killed process is not quite gone
            time.sleep(0.1)


def _write_to(folder: Any) -> None:
    """Send what is printed to the run's log: of several runs at once, nobody could read it on a terminal."""
    import faulthandler

    from bench.runs.folder import RunFolder, open_here

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_here(RunFolder(folder).log)
    except OSError:  # the run itself will say so
        file = open(os.devnull, "w")  # noqa: SIM115
    for stream in (1, 2):
        os.dup2(file.fileno(), stream)
    file.close()
    faulthandler.enable()  # a crash in C leaves a trace


if __name__ == "__main__":
    sys.exit(main())
