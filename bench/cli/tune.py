"""``genbench tune``: search hyperparameters by the validation score; each trial is an ordinary run."""

import argparse
import contextlib
import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench.cli.run import run_missing, specs_of
from bench.config.grammar import quoted, shown
from bench.config.space import Parameter, space_of
from bench.config.spec import RunSpec, called, digest
from bench.errors import BusyError, UserError
from bench.locks import hold
from bench.plain import plain
from bench.runs.folder import Ended, Outcome, RunFolder, open_here
from bench.runs.study import State, Study, Trial

__all__ = ["main"]

HELP = """\
usage: genbench tune [--trials N] [KEY=VALUE ...]

Search hyperparameters of one model on one data set: the tree-structured Parzen estimator of Optuna, on the score on the
validation split by which training selects its best checkpoint. Test metrics are not looked at, and unless metric= names
some, none is measured.

  genbench tune --trials 30 model=vae model.hidden=256,512 "model.learning_rate=tag(log,interval(1e-4,1e-2))"

  KEY=a,b or choice(a,b)           one of these            KEY=range(8,65,8)          8, 16, ... 64
  KEY=interval(0,1)                a real number           KEY="int(interval(1,8))"   a whole number, 1 to 8
  KEY=tag(log,interval(1e-4,1))    evenly by its logarithm

--trials N is the number of trials in all (default 20): the same command goes on with a search that was interrupted, and
with a larger N with one that has ended. Each trial is a run with a folder of its own in runs/NAME, where study.jsonl
lists all; NAME is DATA-MODEL-tuning unless name= says otherwise. jobs=N makes N trials at a time.
Exit codes as of `genbench run`.
"""
MOST_TRIALS = 10_000


def main(arguments: list[str]) -> int:
    """Search as the arguments ask.

    Returns:
        0 where every trial has a score or is known to be bad, 1 where one failed, 75 where another process is at work.

    Raises:
        UserError: A mistake in the command.
    """
    if {"-h", "--help"} & set(arguments):
        print(HELP, end="")
        return 0
    parser = argparse.ArgumentParser("genbench tune", usage=HELP.splitlines()[0].removeprefix("usage: "))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_intermixed_args(arguments)
    if not 1 <= asked.trials <= MOST_TRIALS:
        raise UserError(f"--trials {asked.trials}: a whole number from 1 to {MOST_TRIALS:,} is expected")
    fixed, space = space_of(asked.overrides)
    if not any(text.lstrip("+").startswith(("metric=", "metric@")) for text in fixed):
        fixed = ["metric=[cost]", *fixed]
    first = _spec([*fixed, *(f"{parameter.key}={parameter.first}" for parameter in space)])
    if first.rerun:
        raise UserError("rerun: a trial is never made twice; for a new search give a name, name=NAME")
    if first.name == called(first.data, first.choices) and not any(text.startswith("name=") for text in fixed):
        name = f"{first.name}-{first.choices['model'].replace('/', '-')}-tuning"
        first = replace(first, name=name)
        fixed.append(quoted(f"name={name}"))
    with _held(first.runs_dir / first.name) as folder:
        study = Study(folder / "study.jsonl", space, digest(_fixed(first, space)), first.seed)
        code = _search(study, asked.trials, fixed, max(1, first.launching.jobs or 1))
    return max(code, _report(study, fixed))


def _spec(overrides: list[str]) -> RunSpec:
    specs = specs_of(overrides, multirun=False)
    if len(specs) > 1:
        raise UserError("tune: the experiment is a sweep of its own; name one model and one data set")
    return specs[0]


def _fixed(spec: RunSpec, space: Sequence[Parameter]) -> dict[str, object]:
    """All that training depends on and that is not searched."""
    kept = {part: copy.deepcopy(spec.config[part]) for part in ("model", "data", "train", "trainer", "seed")}
    for parameter in space:
        *path, last = parameter.key.split(".")
        node = kept
        for key in path:
            node = node[key]
        node.pop(last, None)
    return kept


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """Make a search's folder and hold it.

    Raises:
        BusyError: Another process searches there.
        UserError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open_here(folder / ".study.lock")
    except OSError as error:
        raise UserError(f"runs_dir={folder}: {error.strerror}; give another folder") from error
    with lock:
        try:
            with hold(folder / ".study.lock", lock.fileno()):
                yield folder
        except BlockingIOError:
            raise BusyError(f"{folder}: another process searches there; wait for it to end") from None


def _search(study: Study, most: int, fixed: list[str], at_once: int) -> int:
    """Make the trials that are left, and those again that were interrupted or failed; return 75 where one is busy."""
    left = [trial for trial in study.trials if trial.state in (State.ASKED, State.FAILED)]
    code = 0
    while left or len(study.trials) < most:
        trials, left = left[:at_once], left[at_once:]
        while len(trials) < at_once and len(study.trials) < most:
            trials.append(study.ask())
        specs = {trial.number: _spec([*fixed, *trial.overrides]) for trial in trials}
        several = list({spec.run_id: spec for spec in specs.values()}.values())
        outcomes = run_missing(several, [*fixed, *trials[0].overrides])
        for trial in trials:
            spec = specs[trial.number]
            outcome = outcomes.get(spec.run_id) or RunFolder(spec.folder).outcome(spec.run_id)
            if outcome.ended is Ended.BUSY:
                print(f"genbench: trial {trial.number + 1} was passed over: {plain(outcome.reason)}", file=sys.stderr)
                code = Ended.BUSY.exit_code
                continue
            told = _told(trial, spec, outcome)
            study.tell(told)
            best = " (best)" if told.score is not None and study.best == told else ""
            result = f"score {told.score:.6g}{best}" if told.score is not None else plain(outcome.reason)
            print(f"trial {trial.number + 1} of {most}: {shown(*trial.overrides)}: {result}", flush=True)
            if outcome.ended is Ended.REFUSED and study.best is None:
                raise UserError(outcome.reason)  # of the command rather than of these values
    return code


def _told(trial: Trial, spec: RunSpec, outcome: Outcome) -> Trial:
    """The trial with its score: the best of the scores on the validation split that its training saw."""
    from bench.checkpoint import Progress, load_checkpoint

    folder = RunFolder(spec.folder)
    trial = replace(trial, run_id=spec.run_id, score=None)
    if folder.trained(spec):
        score = Progress.of(load_checkpoint(folder.checkpoint("best"))["progress"]).best_score
        if score is not None:
            return replace(trial, state=State.SCORED, score=score)
    bad = outcome.ended in (Ended.DIVERGED, Ended.OUT_OF_MEMORY, Ended.TIMED_OUT)
    return replace(trial, state=State.BAD if bad else State.FAILED)


def _report(study: Study, fixed: list[str]) -> int:
    """Say what is best and what failed; return the exit code."""
    failed = [trial for trial in study.trials if trial.state is State.FAILED]
    best = study.best
    if best is not None:
        same = [text for text in fixed if not text.startswith(("metric=[cost]", "name=", "seed=", "jobs=", "timeout="))]
        print(f"\nBest of {len(study.trials)} trials on the validation split: number {best.number + 1}, score "
              f"{best.score:.6g} (lower is better).\nMeasure it on the test split: genbench run -m "
              f"{shown(*same, *best.overrides)} seed=0,1,2")  # fmt: skip
    if failed:
        numbers = ", ".join(str(trial.number + 1) for trial in failed)
        print(f"genbench: trials {numbers} failed; the same command makes them again", file=sys.stderr)
    return 1 if failed or best is None else 0
