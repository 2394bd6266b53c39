"""Small Glows, and runs of a few steps."""

import functools
from pathlib import Path
from typing import Any

import torch
from helpers_density import randomize
from torch import Tensor, nn

from bench.checkpoint import load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.data.base import Data
from bench.training.fit import fit
from models.base import GenerativeModel
from models.flows.base import Flow
from models.flows.glow import Glow
from models.transforms.actnorm import ActNorm
from models.transforms.base import Chain
from models.transforms.multiscale import MultiScale

__all__ = ["ADAM", "SPACES", "body_of", "final", "glow", "run", "same", "settle"]

ADAM = functools.partial(torch.optim.Adam, lr=1e-3)
SPACES = [
    ((1,), None), ((5,), None), ((3,), 4), ((2, 1, 3), None), ((1, 3, 5), 4), ((3, 3, 5), 4), ((1, 8, 8), 256),
    ((3, 8, 8), 32),
]  # fmt: skip


def glow(shape: tuple[int, ...], levels: int | None, **changes: Any) -> Glow:
    sizes: dict[str, Any] = {"steps": 2, "scales": 2, "channels": 8, "hidden": 16, "depth": 1}
    torch.manual_seed(0)
    return Glow(shape, levels, ADAM, **(sizes | changes))


def body_of(flow: Flow) -> Chain | MultiScale:
    return flow.get_submodule("transform.parts")[-1]


def settle(flow: nn.Module, std: float = 0.2) -> None:
    """Random weights, as after training: the normalization set, and left alone from now on."""
    randomize(flow, std)
    for module in flow.modules():
        if isinstance(module, ActNorm):
            module.initialized.fill_(True)


def run(model: GenerativeModel, data: Data, folder: Path, hardware: Hardware | None = None, **changes: Any) -> None:
    schedule = Schedule(**({"examples": 160, "batch_size": 16, "validate_every": 64} | changes))
    folder.mkdir(exist_ok=True)
    fit(model, data, schedule, hardware or Hardware(), seed=5, folder=folder, config={})


def final(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(folder / "final.ckpt")["state_dict"]
    return state


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
