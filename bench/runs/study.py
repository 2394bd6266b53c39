"""The trials of a search over hyperparameters, and which comes next: ``runs/NAME/study.jsonl`` and Optuna.

What Optuna itself would store is not used: its journal cannot be read any more once a line is torn. The file here is
replaced as a whole, and of one that was torn every whole line is read. Each question to Optuna is answered from the
trials alone, with a seed of its own, so a search that is killed and started again asks for the same trials as one that
was left in peace.
"""

import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from bench.config.space import Parameter, Value
from bench.errors import UserError
from bench.files import durable_write
from bench.regular import read_regular
from bench.seeds import derive_seed

__all__ = ["State", "Study", "Trial"]

log = logging.getLogger(__name__)

VERSION = 1
_LARGEST = 1 << 26  # bytes


class State(StrEnum):
    """What came of a trial."""

    ASKED = "asked"  # it is at work, or was interrupted
    SCORED = "scored"
    BAD = "bad"  # these values diverge, or need too much memory or time: worse than any score
    FAILED = "failed"  # for another reason, which says nothing of the values


@dataclass(frozen=True)
class Trial:
    """A point of the search and its score on the validation split; lower is better."""

    number: int
    values: dict[str, Value]
    state: State = State.ASKED
    score: float | None = None
    run_id: str = ""

    @property
    def overrides(self) -> list[str]:
        return [f"{key}={value}" for key, value in self.values.items()]


class Study:
    """The trials of one search.

    Arguments:
        path: Of the file; another search's is not gone on with.
        space: What is searched.
        fixed: A hash of everything that is not.
        seed: Base of the choices of trials.

    Raises:
        UserError: Optuna is not installed, or the file cannot be read or is of another search.
    """

    def __init__(self, path: Path, space: Sequence[Parameter], fixed: str, seed: int) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise UserError("tune: the package optuna is not installed; pip install 'genbench[tune]'")
        self.path, self.space, self.seed = path, tuple(space), seed
        self._head = {"study": VERSION, "space": [parameter.text for parameter in space], "fixed": fixed}
        self.trials: list[Trial] = self._read() if path.exists() else []

    @property
    def best(self) -> Trial | None:
        """The scored trial with the lowest score, the first of equal ones."""
        scored = [trial for trial in self.trials if trial.score is not None]
        return min(scored, key=lambda trial: (trial.score, trial.number)) if scored else None

    def ask(self) -> Trial:
        """A new trial, which is stored."""
        trial = Trial(len(self.trials), _suggested(self.space, self.trials, self.seed))
        self.tell(trial)
        return trial

    def tell(self, trial: Trial) -> None:
        """Store what came of a trial."""
        self.trials[trial.number : trial.number + 1] = [trial]
        lines = [self._head, *({**asdict(one), "state": str(one.state)} for one in self.trials)]
        durable_write(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def _read(self) -> list[Trial]:
        lines = read_regular(self.path, _LARGEST).split(b"\n")
        head, trials = _line(lines[0]), []
        if head != self._head:
            was = head.get("space") if isinstance(head, dict) else None
            raise UserError(
                f"{self.path}: holds another search ({', '.join(map(str, was)) if isinstance(was, list) else 'unknown'}"
                ", or other fixed values); give this one a name, name=NAME"
            )
        for number, line in enumerate(lines[1:]):
            try:
                trial = msgspec.convert(_line(line), Trial)
            except msgspec.ValidationError:
                if line.strip():
                    log.warning(
                        "%s: line %d and what follows cannot be read: it goes on before it", self.path, number + 2
                    )
                break
            self._check(trial, number)
            trials.append(trial)
        return trials

    def _check(self, trial: Trial, number: int) -> None:
        known = {parameter.key: parameter for parameter in self.space}
        score = trial.score is not None and math.isfinite(trial.score)
        fits = trial.values.keys() == known.keys() and all(known[key].has(value) for key, value in trial.values.items())
        if trial.number != number or not fits or score != (trial.state is State.SCORED):
            raise UserError(f"{self.path}: line {number + 2} is no trial of this search; give it a name, name=NAME")


def _line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _suggested(space: Sequence[Parameter], trials: Sequence[Trial], seed: int) -> dict[str, Value]:
    """Values for the next trial by the tree-structured Parzen estimator (Bergstra et al., 2011, Algorithms for
    Hyper-Parameter Optimization); the first ten are drawn at random."""
    import optuna
    from optuna.trial import TrialState, create_trial

    states = {State.ASKED: TrialState.RUNNING, State.SCORED: TrialState.COMPLETE, State.BAD: TrialState.COMPLETE,
              State.FAILED: TrialState.FAIL}  # fmt: skip
    distributions = {parameter.key: _distribution(parameter) for parameter in space}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=derive_seed(seed, "tune", len(trials)) % 2**32, constant_liar=True, multivariate=False
        )
        study = optuna.create_study(sampler=sampler)
        for trial in trials:
            score = {State.SCORED: trial.score, State.BAD: math.inf}.get(trial.state)
            study.add_trial(
                create_trial(state=states[trial.state], value=score, params=trial.values, distributions=distributions)
            )
        params = study.ask(distributions).params
    return {parameter.key: params[parameter.key] for parameter in space}


def _distribution(parameter: Parameter) -> Any:
    from optuna import distributions as kinds

    if parameter.choices:
        return kinds.CategoricalDistribution(parameter.choices)
    if isinstance(parameter.low, int):
        return kinds.IntDistribution(
            parameter.low, int(parameter.high), log=parameter.log, step=int(parameter.step or 1)
        )
    return kinds.FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
