"""The runs of a sweep on this machine: several at a time, each in a process of its own, whatever happens to the others.

A process that raises tells so itself. Of one that is killed, hangs beyond its time or crashes, a further process writes
the rows and the marker, so that the sweep has a row for it and the same command runs it again.
"""

import contextlib
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from bench.config.spec import RunSpec
from bench.durations import duration
from bench.errors import UserError
from bench.runs.board import Board
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.runs.pool import Pool, PoolLostError

__all__ = ["note_ends", "run_jobs", "threads_of"]

POLL_SECONDS = 0.2
NOTE_SECONDS = 120.0  # to write why a run ended
SETTLE_SECONDS = 0.5  # a signal to all processes of a command reaches some before others
_CHECK = -1  # the number of the job that checks the others


@dataclass
class _Job:
    """A process at work.

    Attributes:
        until: When it is ended, by ``time.monotonic``.
        devices: Which GPUs it has, as ``CUDA_VISIBLE_DEVICES`` names them; none if it does not ask for any.
        outcome: What the run came to, once it is known.
        noting: 0 for the run itself; for a process that writes why the run ended, the number of the attempt.
    """

    spec: RunSpec
    until: float
    devices: tuple[str, ...] = ()
    outcome: Outcome | None = None
    noting: int = 0
    noted: bool = False


@dataclass
class _Sweep:
    """What is left to run, what runs, and how the rest ended."""

    waiting: deque[RunSpec]
    running: dict[int, _Job] = field(default_factory=dict)
    ended: dict[str, Outcome] = field(default_factory=dict)
    started: int = 0


def run_jobs(specs: Sequence[RunSpec], jobs: int, board: Board, threads: int | None = None) -> dict[str, Outcome]:
    """Run every specification in a process of its own, ``jobs`` at a time.

    Arguments:
        specs: They share their launching.
        jobs: Processes at the same time.
        threads: Of each; None: as ``threads_of`` says.

    Returns:
        How each run ended, by run_id.

    Raises:
        UserError: A mistake in a configuration; nothing was started.
        KeyboardInterrupt: After Ctrl-C or SIGTERM; no process remains, and the same call goes on.
    """
    sweep = _Sweep(deque(specs))
    devices: list[str] | None = None
    while sweep.waiting or sweep.running or devices is None:
        with Pool(threads or threads_of(jobs)) as pool:
            try:
                devices = _checked(pool, specs) if devices is None else devices
                with board:
                    _work(pool, sweep, jobs, devices, board)
            except PoolLostError as lost:
                if devices is None:
                    raise UserError(
                        f"run: the process that starts the runs ended at its start ({lost}); try jobs=0"
                    ) from lost
                for job in sweep.running.values():  # the next pool notes why
                    job.outcome = job.outcome or Outcome(
                        job.spec.run_id, Ended.KILLED, f"ended with its parent, {lost}"
                    )
    return sweep.ended


def note_ends(ends: Sequence[tuple[RunSpec, Outcome]]) -> None:
    """Write rows and markers for runs that ended without a word, one after another."""
    if not ends:
        return
    sweep = _Sweep(deque())
    board = Board([spec for spec, _ in ends], [spec for spec, _ in ends], 1, Console(quiet=True))
    sweep.running = {-2 - number: _Job(spec, 0.0, outcome=outcome) for number, (spec, outcome) in enumerate(ends)}
    for spec, _ in ends:
        board.begin(spec)
    with contextlib.suppress(PoolLostError), Pool(1) as pool:
        _work(pool, sweep, 1, [], board)


def threads_of(jobs: int) -> int | None:
    """Threads of each of several processes: the cores shared out, and no more than the user asked for.

    None where one works alone: torch then takes as many as outside a sweep, on many machines fewer than there are
    logical cores.
    """
    if jobs <= 1:
        return None
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    cores = max(1, here // jobs)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores


def _checked(pool: Pool, specs: Sequence[RunSpec]) -> list[str]:
    """Refuse what can be known to be wrong before anything is trained; return the GPUs."""
    pool.start(_CHECK, "check", configs=[spec.config for spec in specs])
    gpus: list[str] | None = None
    while True:
        for report in pool.reports(POLL_SECONDS):
            if "refused" in report:
                raise UserError(report["refused"])
            if "gpus" in report:
                named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
                gpus = (named or [str(number) for number in range(report["gpus"])])[: report["gpus"]]
            if "status" in report:
                if gpus is None:
                    raise UserError(
                        f"run: the configurations could not be checked ({_how(report['status'])}); try jobs=0"
                    )
                return gpus


def _work(pool: Pool, sweep: _Sweep, jobs: int, devices: Sequence[str], board: Board) -> None:
    """Keep ``jobs`` processes at work until nothing is left."""
    for number in list(sweep.running):  # those of a pool that was lost
        _note_or_end(pool, sweep, number, board)
    while sweep.waiting or sweep.running:
        while len(sweep.running) < jobs and (startable := _next(devices, sweep)) is not None:
            spec, mine = startable
            board.begin(spec)
            _start(pool, sweep, spec, mine)
        for report in pool.reports(POLL_SECONDS):
            _hear(pool, sweep, report, board)
        for number, job in list(sweep.running.items()):
            if time.monotonic() > job.until and (job.noting or job.outcome is None):
                timeout = job.spec.launching.timeout
                if not job.noting and timeout is not None:
                    details = f"timeout={timeout:g}; details in {RunFolder(job.spec.folder).log}"
                    reason = f"timed out after {duration(timeout)} ({details})"
                    job.outcome = Outcome(job.spec.run_id, Ended.TIMED_OUT, reason)
                job.until = float("inf")
                pool.kill(number)
        board.refresh()


def _next(devices: Sequence[str], sweep: _Sweep) -> tuple[RunSpec, tuple[str, ...]] | None:
    """Take the first waiting run that can start now, with its GPUs: one whose folder no other is at work in."""
    busy = {job.spec.folder for job in sweep.running.values()}
    for number, spec in enumerate(sweep.waiting):
        mine = _free(devices, sweep, spec)
        if mine is not None and spec.folder not in busy:
            del sweep.waiting[number]
            return spec, mine
    return None


def _start(pool: Pool, sweep: _Sweep, spec: RunSpec, devices: tuple[str, ...]) -> None:
    sweep.started += 1
    timeout = spec.launching.timeout
    until = time.monotonic() + (float("inf") if timeout is None else timeout)
    sweep.running[sweep.started] = _Job(spec, until, devices)
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
    pool.start(sweep.started, "run", environment, config=dict(spec.config))


def _free(devices: Sequence[str], sweep: _Sweep, spec: RunSpec) -> tuple[str, ...] | None:
    """The GPUs that a run gets: those with the fewest runs. None while too many are at work on them."""
    if not devices or spec.hardware.accelerator == "cpu":
        return ()
    uses = Counter(name for job in sweep.running.values() for name in job.devices)
    free = sorted((name for name in devices if uses[name] < spec.launching.jobs_per_gpu), key=lambda name: uses[name])
    asked = min(spec.hardware.devices, len(devices))
    return tuple(free[:asked]) if len(free) >= asked else None


def _hear(pool: Pool, sweep: _Sweep, report: dict[str, object], board: Board) -> None:
    """Take in one report."""
    number = report["job"]
    job = sweep.running.get(number) if isinstance(number, int) else None
    if job is None:
        return
    assert isinstance(number, int)
    told = report.get("outcome")
    if isinstance(told, dict) and (job.outcome is None or job.outcome.ended is Ended.TIMED_OUT):
        job.outcome = Outcome(job.spec.run_id, Ended(told["ended"]), told["reason"], told["before"])
        job.noted = True
    elif "noted" in report:
        job.noted = True
    elif "state" in report:
        board.progress(job.spec, str(report["state"]), report.get("done"), report.get("total"))
    elif "status" in report:
        status = report["status"]
        assert isinstance(status, int)
        if job.outcome is None:
            reason = f"ended without a word, by {_how(status)} (details in {RunFolder(job.spec.folder).log})"
            job.outcome = Outcome(job.spec.run_id, Ended.KILLED, reason)
            time.sleep(SETTLE_SECONDS)  # perhaps this process was meant, too, and ends here
        _note_or_end(pool, sweep, number, board)


def _note_or_end(pool: Pool, sweep: _Sweep, number: int, board: Board) -> None:
    """Count a run whose process has ended, once its folder says why; until then let another process write that."""
    job = sweep.running.pop(number)
    assert job.outcome is not None
    if not job.noted and job.noting < 2:
        sweep.started += 1
        attempt = job.noting + 1
        sweep.running[sweep.started] = _Job(
            job.spec, time.monotonic() + NOTE_SECONDS, outcome=job.outcome, noting=attempt
        )
        pool.start(
            sweep.started, "note", config=dict(job.spec.config), ended=job.outcome.ended, reason=job.outcome.reason,
            with_data=attempt == 1,
        )  # fmt: skip
        return
    before = sweep.ended.get(job.spec.run_id)
    if before is None or not before.exit_code:  # of several with one run_id, what failed counts
        sweep.ended[job.spec.run_id] = job.outcome
    board.end(job.spec, job.outcome)


def _how(status: int) -> str:
    """How a process ended, from its status."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name
