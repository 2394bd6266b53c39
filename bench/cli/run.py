"""``genbench run``: compose, check, train and measure what is missing, tabulate."""

import re
import sys

from bench.config.compose import compose_runs, flags_of, launch, searched
from bench.config.grammar import first_run, shown
from bench.config.spec import RunSpec
from bench.config.trust import check_targets
from bench.errors import UserError
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.runs.sweep import Sweep, report
from bench.stopping import is_command

__all__ = ["main", "run_missing", "specs_of"]

_ASKS_HYDRA = re.compile(r"\+{0,2}hydra[/.](launcher|callbacks|sweeper(?!\.params)|job\.env_set)\b")
_NAMES_A_MODEL = re.compile(r"\+{0,2}(model|experiment|hydra\.sweeper\.params\.model)=")

USAGE = "genbench run [-m] [--cfg job] [KEY=VALUE ...]"
HELP = f"""\
usage: {USAGE}

Train and evaluate one model, or with -m every combination of comma-separated values, and print the leaderboard.

  genbench run model=vae data=mnist5k            one run
  genbench run -m model=vae,dcgan seed=0,1,2     a sweep; finished runs are not run again
  genbench run experiment=quickstart             a sweep that an experiment file describes
  genbench run model=vae --cfg job               show the configuration and stop

`genbench list` names the models, data sets and metrics; conf/run.yaml holds every key with its default.
Of a run that is trained, only what is not measured yet is measured: another metric, another n, other features.
Results: runs/NAME/RUN/ for each run, results/leaderboard/NAME.{{md,csv,tex}} for the comparison.
Exit codes: 0 all well, 1 a run failed, 2 a mistake in the command, 75 what is left is being run by another process,
130 Ctrl-C, 143 SIGTERM (the same command goes on).
"""


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for.

    Returns:
        0 if every run ended well, 1 if one failed, 2 for a mistake in the command, 75 if other processes are at work
        on all that is left.

    Raises:
        UserError: A mistake in the command; nothing was started.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    flags = flags_of(arguments, USAGE)
    if flags.shell_completion:
        launch(arguments, lambda config: None)
        return 0
    specs = specs_of(flags.overrides, multirun=flags.multirun)
    if flags.cfg or flags.info:  # shown, not run
        if flags.multirun:
            one = shown(*first_run(flags.overrides, searched(flags.overrides)))
            option = f"--cfg {flags.cfg}" if flags.cfg else f"--info {flags.info}"
            raise UserError(f"{option}: shows one run; without -m, `genbench run {option} {one}` shows the first")
        if len(specs) > 1:
            print(f"genbench: {len(specs)} runs; shown is what they share", file=sys.stderr)
        launch(arguments, lambda config: None)
        return 0
    outcomes = run_missing(specs, arguments)
    return report(specs, outcomes)


def specs_of(overrides: list[str], *, multirun: bool) -> list[RunSpec]:
    """Every run that the overrides ask for; the names in it may be built.

    Raises:
        UserError: A mistake in the overrides.
    """
    specs = [RunSpec.parse(config) for config in compose_runs(overrides, multirun=multirun)]
    for spec in specs:
        check_targets(spec.config)
    return specs


def run_missing(specs: list[RunSpec], arguments: list[str]) -> dict[str, Outcome]:
    """Do what is left of the runs. Where nothing is, neither torch nor Hydra's launcher is asked.

    Returns:
        How the runs of this process ended, by run_id; those of other launchers' processes leave it in their folders.
    """
    done = {
        spec.run_id: Outcome(spec.run_id, RunFolder(spec.folder).outcome(spec.run_id).ended, before=True)
        for spec in specs
        if not spec.rerun and RunFolder(spec.folder).finished(spec)
    }
    left = [spec for spec in specs if spec.run_id not in done]
    if not left:
        return done
    jobs = _jobs(specs, arguments)
    _check_folders(left)
    if jobs == 0:  # else the process that imports torch checks the same
        _check(left)
    _check_named(specs[0], arguments)
    _make_folders(left)
    seen = _here(specs, left, arguments) if jobs == 0 else _side_by_side(specs, left, jobs)
    for spec in left:
        outcome = seen.get(spec.run_id)
        busy = outcome is not None and outcome.ended is Ended.BUSY
        if busy and not spec.rerun and RunFolder(spec.folder).finished(spec):
            seen[spec.run_id] = Outcome(spec.run_id, Ended.OK)  # the other process has come to its end meanwhile
    return {**done, **seen}


def _jobs(specs: list[RunSpec], arguments: list[str]) -> int:
    """How many processes work at the same time; 0 where this process does everything itself.

    Raises:
        UserError: The launching of the runs differs, or cannot be done.
    """
    launching = specs[0].launching
    if any(spec.launching != launching for spec in specs):
        raise UserError("jobs, jobs_per_gpu, timeout and launcher: one value for the whole sweep is expected")
    hydra = next((text for text in arguments if _ASKS_HYDRA.match(text)), None)
    asked = launching.jobs is not None or launching.timeout is not None or launching.engine != "local"
    if hydra is not None and asked:
        raise UserError(f"{hydra}: is for Hydra's own launcher; leave it out, or jobs, timeout and launcher")
    if hydra is not None:
        return 0
    if launching.engine != "local":
        from bench.runs.engines import check_engine

        check_engine(launching.engine)
    if launching.jobs is None:
        return 1 if asked or (is_command() and len(specs) > 1) else 0
    if launching.jobs == 0 and (launching.timeout is not None or launching.engine != "local"):
        raise UserError("jobs=0: a run in this process cannot be ended from outside; write jobs=1")
    return launching.jobs


def _side_by_side(specs: list[RunSpec], left: list[RunSpec], jobs: int) -> dict[str, Outcome]:
    """The runs in processes of their own, here or where an engine puts them."""
    from bench.runs.board import Board
    from bench.runs.jobs import run_jobs, threads_of

    launching = specs[0].launching
    board = Board(specs, left, jobs)
    if launching.engine == "local":
        return run_jobs(left, jobs, board)
    from bench.runs.engines import run_elsewhere

    return run_elsewhere(left, launching.jobs, threads_of(jobs), board)


def _here(specs: list[RunSpec], left: list[RunSpec], arguments: list[str]) -> dict[str, Outcome]:
    """The runs in this process, one after another, or wherever a launcher of Hydra's goes."""
    seen: dict[str, Outcome] = {}
    sweep = Sweep(specs, {spec.run_id for spec in left})

    def task(config: dict[str, object]) -> None:
        """One run, as Hydra's launcher calls it: here, or in a process of its own."""
        from bench.config.build import checked
        from bench.runs.run import execute

        spec = checked(config)
        with sweep.running(spec) as stage:
            seen[spec.run_id] = execute(spec, stage)

    launch(arguments, task)
    return seen


def _check_named(spec: RunSpec, arguments: list[str]) -> None:
    """Refuse to train a model that nobody named: it would be one of published size, for hours.

    Raises:
        UserError: Neither a model nor an experiment is named.
    """
    if not any(_NAMES_A_MODEL.match(text) for text in arguments):
        model, data = spec.choices["model"], spec.choices["data"]
        one = shown("model=vae", *flags_of(arguments, USAGE).overrides)
        raise UserError(
            f"run: no model is named; the default, {model} on {data} for {spec.schedule.budget}, takes hours on images;"
            f" `genbench run {one}` takes minutes, `genbench run experiment=quickstart` compares seven models in"
            " minutes, `genbench list models` shows all"
        )


def _check(specs: list[RunSpec]) -> None:
    """Refuse what can be known to be wrong before anything is trained, and before Hydra says it with a traceback."""
    from bench.config.build import check_arguments

    for spec in specs:
        check_arguments(spec.config)


def _check_folders(specs: list[RunSpec]) -> None:
    for key in ("runs_dir", "results_dir"):
        for folder in {getattr(spec, key) for spec in specs}:
            there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
            if there.exists() and not there.is_dir():
                raise UserError(f"{key}={folder}: Not a directory; give another folder")


def _make_folders(specs: list[RunSpec]) -> None:
    for key in ("runs_dir", "results_dir"):
        for folder in {getattr(spec, key) for spec in specs}:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{key}={folder}: {error.strerror}; give another folder") from error
