"""The probes of a run, and what they say at every validation: a curve and a picture in the run's folder."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import nn

from bench.checkpoint import Progress
from bench.data.base import Data
from bench.errors import DivergedError
from bench.probe import Probe
from bench.tables.curves import Curve, draw_curves, read_curve, write_curve
from models.base import ClosedForm, GenerativeModel

__all__ = ["Diagnostics", "evaluating", "untouched"]

log = logging.getLogger("genbench")

PLACE = "examples_seen"

Say = Callable[[str], None]


class Diagnostics(Probe):
    """The probes of one run, as one. Use it as a context manager around training.

    Each probe with numbers has ``probe-NAME.csv`` in the run's folder, written at every validation, and
    ``probe-NAME.png``, drawn when training has ended or diverged. A resumed run goes on with the curve that is there,
    from the validation that it resumes at.

    Arguments:
        probes: By name.
        folder: The run's.
        title: Of the run; stands in every picture's title.
        writes: Whether this process writes files.
    """

    def __init__(self, probes: Mapping[str, Probe], folder: Path, title: str, *, writes: bool = True) -> None:
        self.probes = dict(probes)
        self.folder = folder
        self.title = title
        self.writes = writes
        self._curves: dict[str, Curve] = {}

    def start(self, model: GenerativeModel, data: Data, say: Say, note: Say) -> None:
        """Begin every probe. Those that do not apply are passed over, each with a line.

        Arguments:
            say: Told which are passed over, and why.
            note: Told a line where something takes a while.
        """
        for name, probe in list(self.probes.items()):
            reason = "it is fitted in one pass" if isinstance(model, ClosedForm) else probe.begin(model, data, note)
            if reason:
                del self.probes[name]
                say(f"probe {name} is passed over: {reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, DivergedError):
            for name in self._curves:
                self._draw(name)

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, torch.Tensor]) -> None:
        for probe in self.probes.values():
            probe.step(model, progress, outputs)

    def validated(self, model: GenerativeModel, progress: Progress, score: float | None) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for name, probe in self.probes.items():
            found = probe.validated(model, progress, score)
            numbers |= found
            if found and self.writes:
                self._keep(name, progress.examples_seen, found)
        return numbers

    def _keep(self, name: str, seen: int, numbers: Mapping[str, float]) -> None:
        path = self._path(name, "csv")
        before = self._curves[name] if name in self._curves else read_curve(path)
        # A run that was killed wrote points after the checkpoint that it goes on from; a new one has those of another.
        curve = [point for point in before if point.get(PLACE, seen) < seen]
        self._curves[name] = [*curve, {PLACE: float(seen), **numbers}]
        with self._survived(name):
            write_curve(path, self._curves[name])

    def _draw(self, name: str) -> None:
        probe = self.probes[name]
        panels = probe.panels()
        if panels:
            with self._survived(name):
                title = f"{probe.title or name}: {self.title}"
                draw_curves(self._curves[name], panels, self._path(name, "png"), title=title)

    def _path(self, name: str, ending: str) -> Path:
        return self.folder / f"probe-{name}.{ending}"

    @contextlib.contextmanager
    def _survived(self, name: str) -> Iterator[None]:
        """A full disk, or a probe that cannot be drawn, costs the curve and not the run."""
        try:
            yield
        except Exception:
            log.exception("probe %s: its curve is not written; training goes on", name)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block; put each of its parts back into the part's own mode after it.

    By ``train``, which some layers override, and only where the mode is another.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:  # a module stands before its parts, whose modes it changes
            if module.training != training:
                module.train(training)


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block; put back modes and buffers after it, which forwards change."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        with evaluating(model):
            yield
        for name, buffer in model.named_buffers():  # by name: a layer may have put another tensor there
            buffer.copy_(before[name])
