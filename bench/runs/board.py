"""Show how a sweep goes: one view on a terminal, elsewhere a line where a run begins and where it ends."""

import time
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bench.config.spec import RunSpec
from bench.durations import duration
from bench.plain import plain
from bench.runs.folder import Outcome
from bench.runs.sweep import kind_of

__all__ = ["Board"]


class Board:
    """Counts the runs of a sweep that has several at a time, and shows them. Use it as a context manager.

    A run is expected to take what those of its model and data set took. As long as none of them has ended, its time is
    left out, and the sum is said to be the least: what a Gaussian took says nothing of a flow.

    Arguments:
        specs: Every run of the command, in order.
        left: Those that are not finished yet.
        jobs: How many run at the same time.
        console: Standard error by default.
    """

    def __init__(
        self, specs: Sequence[RunSpec], left: Sequence[RunSpec], jobs: int, console: Console | None = None
    ) -> None:
        self._numbers = {id(spec): number for number, spec in enumerate(specs, 1)}
        self._total, self._jobs = len(specs), jobs
        self._waiting = {id(spec): spec for spec in left}  # two may share a run_id, under two names
        self._running: dict[int, tuple[RunSpec, float, TaskID]] = {}
        self._took: list[tuple[tuple[str, str], float]] = []
        self._failed = 0
        self._ended = len(specs) - len(left)
        self.console = console or Console(stderr=True)
        self._view = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        )  # fmt: skip
        self._all = self._view.add_task("all runs", total=self._total, completed=self._ended, state="")

    def __enter__(self) -> Self:
        self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.stop()

    def begin(self, spec: RunSpec) -> None:
        """A run has begun."""
        task = self._view.add_task(self._title(spec), total=None, state="starting")
        self._running[id(spec)] = (spec, time.monotonic(), task)
        del self._waiting[id(spec)]
        if not self.console.is_terminal:
            self._print(f"{self._title(spec)}: starts")

    def progress(self, spec: RunSpec, state: str, done: Any, total: Any) -> None:
        """A run says how far it is."""
        if id(spec) in self._running:
            self._view.update(self._running[id(spec)][2], total=total, completed=done, state=plain(state))

    def end(self, spec: RunSpec, outcome: Outcome) -> None:
        """A run has ended."""
        _, start, task = self._running.pop(id(spec))
        took = time.monotonic() - start
        self._view.remove_task(task)
        self._took.append((kind_of(spec), took))
        self._ended += 1
        self._failed += outcome.exit_code not in (0, 75)
        how = f"{outcome.ended} after {duration(took)}: {plain(outcome.reason)}"
        words = how if outcome.exit_code else f"done after {duration(took)}"
        self._print(f"{self._title(spec)}: {words} ({self.state})")
        self.refresh()

    def refresh(self) -> None:
        """Show the counts and the time that is left."""
        if self.console.is_terminal:
            self._view.update(self._all, completed=self._ended, state=self.state)

    @property
    def state(self) -> str:
        """The counts and the time that is left, in words."""
        parts = [f"{self._ended} of {self._total} done"]
        parts += [f"{len(self._running)} running"] if self._running else []
        parts += [f"{self._failed} failed"] if self._failed else []
        left, is_all = self._seconds_left()
        return ", ".join(parts + ([f"{'about' if is_all else 'at least'} {duration(left)} left"] if left else []))

    def _seconds_left(self) -> tuple[float, bool]:
        """Seconds that the runs whose like have ended will take, and whether these are all."""
        now, means = time.monotonic(), self._means()
        running = {id(spec): now - start for spec, start, _ in self._running.values()}
        specs = [*self._waiting.values(), *(spec for spec, *_ in self._running.values())]
        each = [max(0.0, means[kind_of(spec)] - running.get(id(spec), 0.0)) for spec in specs if kind_of(spec) in means]
        # Not sooner than the longest of them, nor than all slots at work until the end.
        return max([sum(each) / self._jobs, *each], default=0.0), len(each) == len(specs)

    def _means(self) -> dict[tuple[str, str], float]:
        took = defaultdict(list)
        for kind, seconds in self._took:
            took[kind].append(seconds)
        return {kind: sum(seconds) / len(seconds) for kind, seconds in took.items()}

    def _title(self, spec: RunSpec) -> str:
        place = f"run {self._numbers[id(spec)]} of {self._total}: " if self._total > 1 else ""
        return place + plain(spec.run_id)

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)
