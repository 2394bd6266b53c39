"""What the checks of check.py share: synthetic data, our Trainer, clocks, and a machine without a CUDA device."""

import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "benchmarks")]

import torch  # noqa: E402
from torch import Generator, Tensor  # noqa: E402

from bench.checkpoint import Progress, load_checkpoint  # noqa: E402
from bench.config.build import build_model  # noqa: E402
from bench.config.compose import compose_runs  # noqa: E402
from bench.config.spec import Hardware, Schedule  # noqa: E402
from bench.cuda_graphs import Uncapturable  # noqa: E402
from bench.data.base import Data, Split  # noqa: E402
from bench.probe import Probe  # noqa: E402
from bench.rng import seeded  # noqa: E402
from bench.schema import DataSpec  # noqa: E402
from bench.training.captured import CapturedSteps  # noqa: E402
from bench.training.fit import fit  # noqa: E402
from models.base import GenerativeModel  # noqa: E402

__all__ = [
    "CAPTURED", "HERE", "IMAGES", "LINES", "PLANE", "ROOT", "Check", "Clock", "Row", "compute_as_runs_do",
    "data_of", "forget_peak", "milliseconds",
    "new_model", "peak_memory", "synchronize", "train", "trained_eagerly",
]  # fmt: skip

PLANE = ("realnvp", "nsf", "maf")
IMAGES = ("realnvp_small", "vae", "glow_small", "dcgan", "wgan", "wgan_gp", "sngan")

CAPTURED: dict[str, float] = {}
"""Milliseconds of a captured step of ours, by model."""

Row = tuple[str, float, str, str]
"""What was measured, value, unit, note."""
Check = Callable[[str], Iterator[Row]]
"""Yields rows of a model. It raises where something is wrong."""


class Here:
    """The device that is checked. ``rehearse`` makes it the CPU, where steps stay eager and are few."""

    def __init__(self) -> None:
        self.device = torch.device("cuda")
        self.few = 1

    def rehearse(self) -> None:
        self.device, self.few = torch.device("cpu"), 10

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.is_cuda else "cpu (rehearsal)"

    def steps(self, n: int) -> int:
        """How many steps are taken where n are wanted: a multiple of ten."""
        return max(20, n // self.few // 10 * 10)


HERE = Here()


def compute_as_runs_do() -> None:
    """Set what a run sets, so that all times are of the same arithmetic."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


def synchronize() -> None:
    if HERE.is_cuda:
        torch.cuda.synchronize()


def forget_peak() -> None:
    if HERE.is_cuda:
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> float:
    """In MiB, since ``forget_peak``; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if HERE.is_cuda else 0.0


def milliseconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median time of ``work``, each to its end on the device, after one call that warms up."""
    work()
    times = []
    for _ in range(repeats if HERE.is_cuda else 1):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def data_of(name: str, levels: int | None = 256) -> tuple[Data, int]:
    """Synthetic data of the shape that the model is timed on, and its batch size."""
    generator = Generator().manual_seed(1)
    if name in PLANE:
        shape, levels, n, batch = (2,), None, 20_000, 512
        x = torch.randn(n + 1000, *shape, generator=generator)
    else:
        shape, n, batch = (1, 28, 28), 4000, 64  # type: ignore[assignment]
        x = torch.randn(n + 1000, *shape, generator=generator)
        if levels is not None:
            x = (128 + 40 * x).clamp(0, levels - 1).to(torch.uint8)
    spec = DataSpec("synthetic", "r0", shape, levels, n, 500, 500, None)
    return Data(spec, Split(x[:n], None), Split(x[n : n + 500], None), Split(x[n + 500 :], None)), batch


def new_model(name: str, data: Data) -> GenerativeModel:
    with seeded(3):
        return build_model(compose_runs([f"model={name}"])[0]["model"], data.spec)


class Clock(Probe):
    """Times steps, in milliseconds: the median over stretches of ten of them, each to its end on the device."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.marks: list[float] = []

    def step(self, model: GenerativeModel, progress: Progress, outputs: dict[str, Tensor]) -> None:
        if progress.steps >= self.first and progress.steps % 10 == 0:
            synchronize()
            self.marks.append(time.perf_counter())

    @property
    def milliseconds(self) -> float:
        return 100 * statistics.median(b - a for a, b in itertools.pairwise(self.marks))


class Lines(logging.Handler):
    """Keeps what the log says of captured steps."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"    log: {record.getMessage()}", flush=True)
        if "training steps" in record.getMessage():
            self.said = record.getMessage()


LINES = Lines()


def train(
    name: str, steps: int, capture: str = "auto", *, folder: Path | None = None, model: GenerativeModel | None = None,
    probes: Any = (), validate: Any = None, every: int = 10**6, precision: str = "32-true", **schedule: Any,
) -> tuple[GenerativeModel, dict[str, Tensor]]:  # fmt: skip
    """Train in our Trainer; return the model, on the CPU, and its final weights."""
    data, batch = data_of(name)
    model = model or new_model(name, data)
    LINES.said = ""
    with tempfile.TemporaryDirectory() as made:
        place = folder or Path(made)
        asked = Schedule(examples=steps * batch, batch_size=batch, validate_every=every * batch, **schedule)
        hardware = Hardware(accelerator="gpu" if HERE.is_cuda else "cpu", capture=capture, precision=precision)
        fit(model, data, asked, hardware, seed=0, folder=place, config={}, validate=validate, probes=probes)
        return model, load_checkpoint(place / "final.ckpt")["state_dict"]


def trained_eagerly(name: str, steps: int, **schedule: Any) -> dict[str, Tensor]:
    """Final weights after steps of Lightning's loop, with the same optimizers as captured ones."""

    def refuse(*_: Any) -> None:
        raise Uncapturable("eager for comparison")

    kept = CapturedSteps._recorded
    CapturedSteps._recorded = refuse  # type: ignore[assignment,method-assign]
    try:
        return train(name, steps, **schedule)[1]
    finally:
        CapturedSteps._recorded = kept  # type: ignore[method-assign]
