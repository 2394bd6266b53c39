"""Show the progress of a run: a bar on a terminal, plain lines elsewhere. The log file is written in both cases."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from torch import Tensor

from bench.checkpoint import Progress as Training
from bench.config.spec import Schedule
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
        console: Console that shows the progress; standard error by default.
    """

    def __init__(
        self, title: str, log: logging.Logger, schedule: Schedule | None = None, console: Console | None = None
    ) -> None:
        self.title = plain(title)
        self.schedule = schedule
        self.log = log
        self.console = console or Console(stderr=True)
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
            self.console.print(f"{self.title}: starts", markup=False, highlight=False, soft_wrap=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        sys.stderr.flush()

    def step(self, model: GenerativeModel, progress: Training, outputs: dict[str, Tensor]) -> None:
        """Show the progress after a training step. The loss is read at most every 0.2 seconds."""
        now = time.perf_counter()
        if now < self._next_look:
            return
        self._next_look = now + REFRESH_SECONDS
        assert self._task is not None
        assert self.schedule is not None
        state = _state(progress, float(outputs["loss"]), self.schedule)
        self._bar.update(self._task, total=self.schedule.examples, completed=progress.examples_seen, state=state)
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
        assert self._task is not None
        self._bar.update(self._task, total=total or None, completed=done, state=f"evaluating: {what}")
        self._plain(f"evaluating: {what}")

    def note(self, text: str) -> None:
        """Announce a long operation: log it and show it as the bar's state."""
        text = plain(text)
        self.log.info(text)
        assert self._task is not None
        self._bar.update(self._task, total=None, state=text)
        self._plain(text)

    def warn(self, text: str) -> None:
        """Log a line and show it, on a terminal above the bar."""
        self.log.warning(text)
        self.console.print(f"{self.title}: {text}", highlight=False, soft_wrap=True, markup=False)

    def _plain(self, text: str) -> None:
        """Without a terminal, print a line at most every 30 seconds."""
        now = time.perf_counter()
        if not self.console.is_terminal and now >= self._next_line:
            self._next_line = now + PLAIN_SECONDS
            self.console.print(f"{self.title}: {text}", markup=False, highlight=False, soft_wrap=True)


def _state(progress: Training, loss: float, schedule: Schedule) -> str:
    rate = progress.examples_seen / max(progress.train_seconds, 1e-9)
    left = [] if schedule.examples is None else [(schedule.examples - progress.examples_seen) / rate]
    if schedule.seconds is not None:
        left.append(schedule.seconds - progress.train_seconds)
    seconds = max(0, round(min(left)))
    return f"loss {loss:.4g}, {rate:,.0f} examples/s, {seconds // 60}:{seconds % 60:02d} left"
