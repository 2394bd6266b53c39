"""A sweep: where it stands; and what it leaves at its end: leaderboards, a line for each failure, an exit code."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.config.spec import RunSpec
from bench.plain import plain
from bench.processes import one_of_tasks
from bench.runs.folder import Ended, Outcome, RunFolder
from bench.schema import Status
from bench.tables.leaderboard import publish

__all__ = ["Stage", "Sweep", "kind_of", "outcomes_of", "report"]


@dataclass(frozen=True)
class Stage:
    """Where a sweep stands when one of its runs begins.

    Attributes:
        words: ``run 3 of 6: ``, to stand before the run's name; empty where there is only one.
        own: Seconds that this run is expected to take; None before one of its model and data set has ended.
        alike: Seconds that those runs after it are expected to take whose model and data set were run before.
        others: How many more there are after it.
        took: Seconds of the runs that have ended.
        hear: Receives the progress of the run in place of a terminal, as ``bench.training.console.Reporter`` tells it.
    """

    words: str = ""
    own: float | None = None
    alike: float = 0.0
    others: int = 0
    took: tuple[float, ...] = ()
    hear: Callable[[str, float, float | None], None] | None = None

    def rest(self, own: float) -> float | None:
        """Seconds that the runs after this one are expected to take; None while no run has ended.

        Arguments:
            own: Seconds of this run, as far as is known by now.
        """
        if not self.others:
            return self.alike
        return self.alike + self.others * _mean([*self.took, own]) if self.took else None


class Sweep:
    """Counts the runs of a command, and expects of each what those before it took.

    A run is expected to take as long as the mean of the ended ones of its model and data set.

    Arguments:
        specs: Every run, in order.
        left: Ids of those that are not finished yet. The others take no time.
    """

    def __init__(self, specs: Sequence[RunSpec], left: set[str]) -> None:
        self._specs = list(specs)
        self._left = left
        self._number = 0
        self._took: list[tuple[tuple[str, str], float]] = []
        self._process = os.getpid()

    @contextmanager
    def running(self, spec: RunSpec) -> Iterator[Stage | None]:
        """Time a run. None in a process of another launcher, which knows nothing of the other runs."""
        if os.getpid() != self._process:
            yield None
            return
        self._number += 1
        after = [other for other in self._specs[self._number :] if other.run_id in self._left]
        alike = [seconds for other in after for seconds in [self._expected(other)] if seconds is not None]
        took = tuple(seconds for _, seconds in self._took)
        own = self._expected(spec)  # a mean of closed forms would promise seconds for an hour's training
        words = f"run {self._number} of {len(self._specs)}: " if len(self._specs) > 1 else ""
        start = time.perf_counter()
        yield Stage(words, own, sum(alike), len(after) - len(alike), took)
        if spec.run_id in self._left:
            self._took.append((kind_of(spec), time.perf_counter() - start))

    def _expected(self, spec: RunSpec) -> float | None:
        alike = [seconds for kind, seconds in self._took if kind == kind_of(spec)]
        return _mean(alike) if alike else None


def _mean(seconds: Sequence[float]) -> float:
    return sum(seconds) / len(seconds)


def kind_of(spec: RunSpec) -> tuple[str, str]:
    """What runs that take about as long have in common."""
    return spec.choices["model"], spec.choices["data"]


def outcomes_of(specs: Sequence[RunSpec], seen: Mapping[str, Outcome]) -> tuple[Outcome, ...]:
    """How each run ended, in their order.

    Arguments:
        seen: Outcomes by run_id; of other runs, their folders tell.
    """
    return tuple(seen.get(spec.run_id) or RunFolder(spec.folder).outcome(spec.run_id) for spec in specs)


def report(specs: Sequence[RunSpec], seen: Mapping[str, Outcome]) -> int:
    """Publish a leaderboard for each name, tell how the runs ended, and return the exit code.

    The data sets on which a run of this command has numbers are printed. Where no run has left anything new, nothing
    is written either.

    Arguments:
        seen: Outcomes by run_id; of other runs, their folders tell.
    """
    outcomes = outcomes_of(specs, seen)
    shown: dict[tuple[Path, Path, str], set[str]] = {}
    for spec, outcome in zip(specs, outcomes, strict=True):
        if outcome.ended not in (Ended.REFUSED, Ended.INTERRUPTED):
            runs = shown.setdefault((spec.runs_dir, spec.results_dir, spec.name), set())
            runs |= {spec.run_id} if _has_numbers(spec, outcome) else set()
    try:
        for (runs_dir, results, name), run_ids in sorted(shown.items()):
            publish(runs_dir / name, results, name, shown=run_ids)
    finally:  # last, so that they are seen; and also where one of the tables cannot be written
        before = sum(outcome.before for outcome in outcomes)
        if before:
            print(f"genbench: {before} of {len(outcomes)} runs were finished before; after a change of code "
                  "rerun=true runs them again", file=sys.stderr)  # fmt: skip
        for outcome in outcomes:
            if outcome.ended is Ended.BUSY:
                print(
                    f"genbench: {outcome.run_id} was passed over: {plain(outcome.reason)}{one_of_tasks()}",
                    file=sys.stderr,
                )
            elif outcome.exit_code:
                print(f"genbench: {outcome.run_id} failed: {plain(outcome.reason)}", file=sys.stderr)
        summary = _summary(outcomes)
        if summary:
            print(summary, file=sys.stderr)
    codes = {outcome.exit_code for outcome in outcomes} - {Ended.OK.exit_code}
    busy = Ended.BUSY.exit_code
    if codes <= {busy} or len(outcomes) == 1:
        return codes.pop() if codes else 0
    return 1


def _summary(outcomes: Sequence[Outcome]) -> str:
    """How many runs of a sweep failed, and how; empty where none did, or where there is one run only."""
    ended = [str(outcome.ended) for outcome in outcomes if outcome.exit_code and outcome.ended is not Ended.BUSY]
    if not ended or len(outcomes) == 1:
        return ""
    done = sum(not outcome.exit_code for outcome in outcomes)
    ways = ", ".join(f"{ended.count(way)} {way}" for way in sorted(set(ended)))
    return (
        f"genbench: of {len(outcomes)} runs {done} {'is' if done == 1 else 'are'} done, {len(ended)} failed ({ways});"
        " the same command runs those again"
    )


def _has_numbers(spec: RunSpec, outcome: Outcome) -> bool:
    """Whether a run has something to show: a run that failed may have measured a part."""
    rows = RunFolder(spec.folder).read_rows() if outcome.exit_code else []
    return not outcome.exit_code or any(row.status is Status.OK and row.model_family != "data" for row in rows)
