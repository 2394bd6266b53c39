"""Show the progress of a run: a bar on a terminal, plain lines elsewhere. The log file is written in both cases."""

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from torch import Tensor

from bench.checkpoint import Progress as Training
from bench.config.spec import Schedule
from bench.durations import duration
from bench.plain import plain
from bench.probe import Probe
from models.base import GenerativeModel

__all__ = ["Reporter"]

REFRESH_SECONDS = 0.2  # not at every step, because reading the loss waits for the device
PLAIN_SECONDS = 30.0  # between two lines without a terminal


class Reporter(Probe):
    """Reports the progress of one run during training and evaluation. Use it as a context manager.

    Arguments:
        title: Title of the run.
        log: Logger that records the lines.
        schedule: Schedule of its training; None if nothing is trained.
        own: Seconds that this run is expected to take; None if unknown.
        rest: Seconds that the runs after it are expected to take if this one takes so many; None if unknown.
        console: Console that shows the progress; standard error by default.
        hear: Receives the progress in place of a console: the state in words, how much is done, and of how much (None
            if unknown).
    """

    def __init__(
        self, title: str, log: logging.Logger, schedule: Schedule | None = None, console: Console | None = None,
        *, own: float | None = None, rest: Callable[[float], float | None] = lambda own: 0.0,
        hear: Callable[[str, float, float | None], None] | None = None,
    ) -> None:  # fmt: skip
        self.title = plain(title)
        self.own, self.rest = own, rest
        self.ended = "done"  # how, for the last line
        self._start = time.perf_counter()
        self.schedule = schedule
        self.log = log
        self.console = console or Console(stderr=True, quiet=hear is not None)
        self._hear = hear
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
            console=self.console, transient=True, disable=not self.console.is_terminal,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._next_look = 0.0
        self._next_line = time.perf_counter() + PLAIN_SECONDS

    def __enter__(self) -> Self:
        self._bar.start()
        self._task = self._bar.add_task(self.title, total=None, state="starting")
        self.log.info("%s starts", self.title)
        if not self.console.is_terminal:
            rest = None if self.own is None else self.rest(self.own)
            left = f", about {duration(self.own + rest)} left in all" if self.own and rest else ""
            self._print(f"{self.title}: starts{left}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if kind is None:
            words = f"{self.title}: {self.ended} after {duration(time.perf_counter() - self._start)}"
            self.log.info(words)
            self._print(words)
        sys.stderr.flush()

    def step(self, model: GenerativeModel, progress: Training, outputs: dict[str, Tensor]) -> None:
        """Show the progress after a training step. The loss is read at most every 0.2 seconds."""
        now = time.perf_counter()
        if now < self._next_look:
            return
        self._next_look = now + REFRESH_SECONDS
        assert self.schedule is not None
        left = _seconds_left(progress, self.schedule)
        after = self.rest(now - self._start + left)
        total = "" if after == 0 else " (the runs after it: unknown)"
        if after:
            total = f" (all: about {duration(left + after)})"
        rate = progress.examples_seen / max(progress.train_seconds, 1e-9)
        state = f"loss {float(outputs['loss']):.4g}, {rate:,.0f} examples/s, {duration(left)} left{total}"
        self._show(state, progress.examples_seen, self.schedule.examples)
        self._plain(f"{progress.examples_seen} examples, {state}")

    def validated(self, model: GenerativeModel, progress: Training, score: float | None) -> dict[str, float]:
        """Log the validation score. Returns no numbers of its own."""
        if score is None:
            return {}
        mark = " (best)" if progress.best_score is None or score < progress.best_score else ""
        seen, seconds = progress.examples_seen, progress.train_seconds
        self.log.info("%d examples, %.1f s: validation score %.6g%s", seen, seconds, score, mark)
        return {}

    def evaluating(self, what: str, done: int, total: int) -> None:
        """Show which metric is being computed, and how far."""
        self._show(f"evaluating: {what}", done, total or None)
        self._plain(f"evaluating: {what}")

    def note(self, text: str) -> None:
        """Announce a long operation: log it and show it as the bar's state."""
        text = plain(text)
        self.log.info(text)
        self._show(text, None, None)
        self._plain(text)

    def warn(self, text: str) -> None:
        """Log a line and show it, on a terminal above the bar."""
        self.log.warning(text)
        self._print(f"{self.title}: {text}")

    def tell(self, text: str) -> None:
        """Say something that the user should not miss, with a terminal and without."""
        self.log.info(text)
        self._print(f"{self.title}: {text}")

    def _show(self, state: str, done: float | None, total: float | None) -> None:
        assert self._task is not None
        self._bar.update(self._task, total=total, completed=done, state=state)
        if self._hear is not None:
            self._hear(state, done or 0.0, total)

    def _plain(self, text: str) -> None:
        """Without a terminal, print a line at most every 30 seconds."""
        now = time.perf_counter()
        if not self.console.is_terminal and now >= self._next_line:
            self._next_line = now + PLAIN_SECONDS
            self._print(f"{self.title}: {text}")

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


def _seconds_left(progress: Training, schedule: Schedule) -> float:
    """Of training, at its speed up to now; what is measured afterwards is not known."""
    left = [] if schedule.seconds is None else [schedule.seconds - progress.train_seconds]
    if schedule.examples is not None:
        seconds_each = progress.train_seconds / max(progress.examples_seen, 1)
        left.append((schedule.examples - progress.examples_seen) * seconds_each)
    return max(0.0, min(left))
