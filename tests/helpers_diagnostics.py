"""Small data, short trainings with probes, and what these leave: columns of curves and pictures."""

import csv
from pathlib import Path
from typing import Any

from helpers_models import small_data
from PIL import Image

from bench.checkpoint import Progress
from bench.config.spec import Hardware, Schedule
from bench.data.base import Data
from bench.data.toy import ring8
from bench.probe import Probe
from bench.training.diagnostics import Diagnostics
from bench.training.fit import fit
from models.base import GenerativeModel

__all__ = ["IMAGES", "POINTS", "VECTORS", "column", "diagnosed", "silent", "train", "width_of"]

IMAGES = small_data((1, 8, 8), 256)
VECTORS = small_data((3,), None)
POINTS = ring8(400, 100, 100)


def silent(text: str) -> None:
    """Takes a line of progress and drops it."""


def train(
    model: GenerativeModel, data: Data, folder: Path, *probes: Probe, steps: int = 8, scores: Any = None
) -> Progress:
    folder.mkdir(exist_ok=True)
    schedule = Schedule(examples=16 * steps, batch_size=16, validate_every=32, ema_decay=0.9)
    validate = None if scores is None else lambda _: next(scores)
    return fit(
        model, data, schedule, Hardware(), seed=0, folder=folder, config={}, validate=validate, probes=probes
    )  # fmt: skip


def diagnosed(
    model: GenerativeModel, data: Data, folder: Path, probes: dict[str, Probe], *others: Probe, **kw: Any
) -> list[str]:
    """Train with probes; return what was said of those that were passed over."""
    said: list[str] = []
    with Diagnostics(probes, folder, "title") as diagnostics:
        diagnostics.start(model, data, said.append, silent)
        train(model, data, folder, diagnostics, *others, **kw)
    return said


def column(folder: Path, probe: str, name: str) -> list[float]:
    with (folder / f"probe-{probe}.csv").open(newline="") as file:
        return [float(line[name]) for line in csv.DictReader(file)]


def width_of(picture: Path) -> int:
    with Image.open(picture) as opened:
        return opened.width
