"""Models and data from conf, small enough to be trained in a test."""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

import conf
from bench.build import build_model
from bench.data.base import Data, Split
from bench.rng import seeded
from bench.run import compose_runs
from bench.schema import DataSpec
from models.base import GenerativeModel

__all__ = ["names", "new_model", "small_data"]

# The published sizes of an image flow are for a GPU; every other hyperparameter is as in the YAML.
SMALL = dict.fromkeys(["realnvp", "realnvp_conditional"], ["model.channels=8", "model.blocks=1"])


def names(group: str) -> list[str]:
    """Every YAML in a group of conf."""
    return sorted(file.stem for file in (Path(conf.__file__).parent / group).glob("*.yaml"))


def configuration(model: str, *overrides: str) -> dict[str, Any]:
    return copy.deepcopy(_composed(model, *overrides))


@functools.cache  # composing takes a tenth of a second, and many tests ask for the same
def _composed(model: str, *overrides: str) -> dict[str, Any]:
    return compose_runs([f"model={model}", *SMALL.get(model, []), *overrides])[0]


def new_model(model: str, spec: DataSpec, *overrides: str, seed: int = 0) -> GenerativeModel:
    """An untrained model for a data set."""
    with seeded(seed):
        return build_model(configuration(model, *overrides), spec)


def small_data(shape: tuple[int, ...], levels: int | None, n: int = 96, held_out: int = 16) -> Data:
    """Random but learnable data: correlated entries around two centres; ``held_out`` for val and for test."""
    generator = Generator().manual_seed(7)
    count, val = n + 2 * held_out, n + held_out
    centre = torch.randint(0, 2, (count, *[1] * len(shape)), generator=generator).float()
    noise = torch.randn(count, *shape, generator=generator)
    x: Tensor = 2 * centre - 1 + 0.3 * noise
    if levels is not None:
        x = ((x + 3) / 6 * levels).floor().clamp(0, levels - 1).to(torch.uint8)
    y = centre.flatten().long()
    spec = DataSpec("small", "r0", shape, levels, n, held_out, held_out, 2)
    return Data(spec, Split(x[:n], y[:n]), Split(x[n:val], y[n:val]), Split(x[val:], y[val:]))
