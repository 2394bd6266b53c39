"""Hand the runs of a sweep to an engine that exists: submitit (Slurm, or this machine), Ray, joblib.

Each gets the same function, ``run_one``, and a plain configuration. Where the engine puts it, a run has a process of
its own as on this machine (``bench.runs.jobs``), with the same timeout and the same rows. The folders of runs and
results must be on a file system that all machines share.
"""

import contextlib
import importlib.util
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.config.launching import Launching
from bench.config.spec import RunSpec
from bench.errors import UserError
from bench.ours import python_path
from bench.runs.board import Board
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.runs.jobs import note_ends, run_jobs

__all__ = ["check_engine", "run_elsewhere", "run_one"]

POLL_SECONDS = 0.5
LOCAL_MINUTES = 60 * 24 * 365  # submitit ends a job on this machine after two unless told otherwise
PACKAGES = {"joblib": "joblib", "submitit_local": "submitit", "slurm": "submitit", "ray": "ray"}

Call = tuple[dict[str, Any], float | None, int | None]
"""The arguments of ``run_one``."""
Result = tuple[str, str, bool]


def check_engine(engine: str) -> None:
    """Refuse an engine whose package is not installed.

    Raises:
        UserError: Names the package.
    """
    package = PACKAGES[engine]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"launcher={engine}: the package {package} is not installed; pip install 'genbench[{package}]'")


def run_one(config: dict[str, Any], timeout: float | None, threads: int | None = None) -> Result:
    """Do one run in a process of its own on this machine; an engine calls it where it likes.

    Returns:
        How it ended, why, and whether nothing was left to do.
    """
    try:
        spec = replace(RunSpec.parse(config), launching=Launching(timeout=timeout))
        board = Board([spec], [spec], 1, Console(quiet=True))
        outcome = run_jobs([spec], 1, board, threads)[spec.run_id]
    except UserError as error:
        outcome = Outcome("", Ended.REFUSED, str(error))
    return str(outcome.ended), outcome.reason, outcome.before


def run_elsewhere(specs: Sequence[RunSpec], jobs: int | None, threads: int | None, board: Board) -> dict[str, Outcome]:
    """Let the engine that the specifications name run them.

    Arguments:
        specs: They share their launching.
        jobs: Runs at the same time; None leaves that to the engine.
        threads: Of each run on this machine; None leaves that to torch.

    Returns:
        How each run ended, by run_id.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM; what the engine runs is cancelled.
    """
    launching = specs[0].launching
    seen: dict[str, Outcome] = {}
    lost: dict[str, Outcome] = {}

    def begun() -> Iterator[Call]:
        """The arguments, one after another, as the engine takes them."""
        for spec in specs:
            board.begin(spec)
            here = threads if launching.engine in ("joblib", "submitit_local") else None
            yield dict(spec.config), launching.timeout, here

    engine: Callable[..., Iterator[tuple[int, Result | Exception]]] = {"joblib": _joblib, "ray": _ray}.get(
        launching.engine, _submitit
    )
    with board, _found_by_workers():
        try:
            for number, result in engine(begun(), len(specs), jobs, launching, specs[0].runs_dir):
                spec = specs[number]
                if isinstance(result, Exception):
                    lost[spec.run_id] = outcome = _lost(spec, result)
                else:
                    seen[spec.run_id] = outcome = Outcome(spec.run_id, Ended(result[0]), result[1], before=result[2])
                board.end(spec, outcome)
        except Exception as error:  # the engine has ended, and with it what it ran
            for spec in specs:
                if spec.run_id in seen or spec.run_id in lost:
                    continue
                if not spec.rerun and RunFolder(spec.folder).finished(spec):
                    seen[spec.run_id] = Outcome(spec.run_id, Ended.OK)
                else:
                    lost[spec.run_id] = _lost(spec, error)
    note_ends([(spec, lost[spec.run_id]) for spec in specs if spec.run_id in lost])
    return {**seen, **lost}


def _lost(spec: RunSpec, error: Exception) -> Outcome:
    words = " ".join(str(error).split())[-300:]
    reason = (
        f"launcher={spec.launching.engine}: {type(error).__name__}: {words} (details in {RunFolder(spec.folder).log})"
    )
    return Outcome(spec.run_id, Ended.KILLED, reason)


@contextlib.contextmanager
def _found_by_workers() -> Iterator[None]:
    """Let the processes of an engine import our packages."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path()
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


# The engines. Each takes the calls, their number, how many at the same time, its settings and a folder, and yields the
# number of a call that has ended with its result, or with the engine's error.


def _joblib(
    calls: Iterable[Call], total: int, jobs: int | None, launching: Launching, folder: Path
) -> Iterator[tuple[int, Result | Exception]]:
    from joblib import Parallel, delayed

    given = (delayed(_numbered)(number, *call) for number, call in enumerate(calls))
    yield from Parallel(n_jobs=jobs or 1, pre_dispatch="n_jobs", batch_size=1, return_as="generator_unordered")(given)


def _numbered(number: int, *call: Any) -> tuple[int, Result]:
    return number, run_one(*call)


class _Requeued:
    """``run_one`` for Slurm: a run that is preempted or comes to the end of its minutes is submitted again."""

    def __call__(self, *call: Any) -> Result:
        return run_one(*call)

    def checkpoint(self, *call: Any) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *call)


def _submitit(
    calls: Iterable[Call], total: int, jobs: int | None, launching: Launching, folder: Path
) -> Iterator[tuple[int, Result | Exception]]:
    import submitit

    cluster = "slurm" if launching.engine == "slurm" else "local"
    executor = submitit.AutoExecutor(folder=folder.absolute() / ".submitit", cluster=cluster)
    settings = _slurm(launching.settings) if cluster == "slurm" else {"timeout_min": LOCAL_MINUTES}
    executor.update_parameters(name="genbench", **settings)
    waiting = deque(range(total))
    given = iter(calls)
    running: dict[int, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < (jobs or total):
                running[waiting.popleft()] = executor.submit(_Requeued(), *next(given))
            ended = [number for number, job in running.items() if job.done()]
            for number in ended:
                yield number, _result(running.pop(number).result)
            if not ended:
                time.sleep(POLL_SECONDS)
    finally:
        for job in running.values():  # after Ctrl-C
            job.cancel()


def _slurm(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our names of Slurm's settings as submitit calls them."""
    names = {"partition": "slurm_partition", "account": "slurm_account", "qos": "slurm_qos", "minutes": "timeout_min",
             "memory_gb": "mem_gb", "cpus_per_job": "cpus_per_task", "gpus_per_job": "gpus_per_node"}  # fmt: skip
    return {names[key]: value for key, value in settings.items() if value}


def _ray(
    calls: Iterable[Call], total: int, jobs: int | None, launching: Launching, folder: Path
) -> Iterator[tuple[int, Result | Exception]]:
    import ray

    settings = launching.settings
    cpus = settings.get("cpus_per_job") or 1
    local = settings.get("address") is None and "RAY_ADDRESS" not in os.environ
    sizes = {"num_cpus": (jobs or 1) * cpus, "include_dashboard": False} if local else {}
    ray.init(address="local" if local else settings.get("address"), log_to_driver=False, **sizes)
    try:
        remote = ray.remote(num_cpus=cpus, num_gpus=settings.get("gpus_per_job") or 0, max_retries=0)(run_one)
        waiting = deque(range(total))
        given = iter(calls)
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < (jobs or total):
                running[remote.remote(*next(given))] = waiting.popleft()
            ended, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for reference in ended:
                yield running.pop(reference), _result(partial(ray.get, reference))
    finally:
        ray.shutdown()


def _result(get: Callable[[], Result]) -> Result | Exception:
    try:
        return get()
    except (Exception, CancelledError) as error:
        return error
