"""Small models trained with captured steps or eager ones, and whether the weights came out the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_cuda_graphs import TapeGraphs
from helpers_models import new_model, small_data
from torch import Tensor

from bench.checkpoint import Progress, load_checkpoint
from bench.config.spec import Hardware, Schedule
from bench.data.base import Data
from bench.training import fit as fit_module
from bench.training.fit import fit
from models.base import GenerativeModel

__all__ = ["model_of", "same", "train", "weights"]

DATA = small_data((4,), None, n=100)
Optimizers = Callable[[Any], torch.optim.Optimizer]


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


def model_of(name: str, optimizer: Optimizers = momentum, seed: int = 0) -> GenerativeModel:
    """A small model with another optimizer: on a CPU, Adam counts its steps where no graph can."""
    model = new_model(name, DATA.spec, seed=seed)
    networks = ("generator", "discriminator", "critic")
    for attribute in ("make_optimizer", "optimizer", *(f"{network}_optimizer" for network in networks)):
        if hasattr(model, attribute):
            setattr(model, attribute, optimizer)
    return model


def train(
    model: GenerativeModel, folder: Path, graphs: TapeGraphs | None, *, capture: str = "auto", validate: Any = None,
    probes: Any = (), data: Data = DATA, **schedule: Any,
) -> Progress:  # fmt: skip
    folder.mkdir(exist_ok=True)
    asked = {"examples": 320, "batch_size": 16, "validate_every": 64} | schedule
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "recorder_for", lambda device: graphs)
        return fit(
            model, data, Schedule(**asked), Hardware(capture=capture), seed=5, folder=folder, config={},
            validate=validate, probes=probes,
        )  # fmt: skip


def weights(folder: Path, name: str = "final") -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(folder / f"{name}.ckpt")["state_dict"]
    return state


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
