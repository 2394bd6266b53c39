"""A model that misbehaves on purpose, and sweeps over the ways in which it does."""

import fcntl
from pathlib import Path

__all__ = ["TINY", "at_work", "children", "unruly"]

TINY = ["data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64", "metric=[cost]",
        "train.examples=640", "train.validate_every=320", "evaluate.n_samples=32"]  # fmt: skip

CODE = """
import os, signal, time
from pathlib import Path

import torch

from models.base import GenerativeModel


class Unruly(GenerativeModel):
    family = "baseline"

    def __init__(self, shape, levels, does="nothing", tag=0):
        super().__init__(shape, levels)
        self.does = does
        self.value = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("steps", torch.zeros(()))

    def sample(self, n, *, temperature=1.0, generator=None):
        return torch.zeros(n, *self.shape).to(self.data_dtype)

    def training_step(self, batch, batch_idx):
        self.steps += 1
        loss = (batch[0].float().mean() - self.value).square()
        if self.steps < 7 or Path("healed").exists():  # after the first validation, and its checkpoint
            return loss
        if self.does == "raise":
            raise ValueError("it is unruly")
        if self.does == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "abort":
            os.abort()
        if self.does == "hang":
            Path(f"hangs-{os.getpid()}").touch()
            time.sleep(3600)
        if self.does == "want_memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 EiB")
        return loss * float("nan") if self.does == "diverge" else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""


def unruly(folder: Path) -> list[str]:
    """Write the model's package into a folder; return the overrides of a tiny run of it."""
    package = folder / "unruly_pkg"
    (package / "conf" / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(CODE)
    (package / "conf" / "model" / "unruly.yaml").write_text(
        "# Unruly\n_target_: unruly_pkg.parts.Unruly\n_convert_: all\ndoes: nothing\ntag: 0\n"
    )
    searched = f"hydra.searchpath=[file://{package / 'conf'}]"
    return ["model=unruly", "trust=[unruly_pkg]", searched, *TINY]


def at_work(folder: Path) -> list[Path]:
    """The run folders below a folder in which a process is at work."""
    held = []
    for lock in folder.glob("runs/*/*/.lock"):
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(lock.parent)
    return held


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
