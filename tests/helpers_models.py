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
SMALL |= dict.fromkeys(
    ["glow", "glow_small", "glow_conditional"],
    ["model.steps=2", "model.scales=2", "model.channels=8", "model.hidden=16"],
)
SMALL |= dict.fromkeys(
    ["nsf", "nsf_small", "nsf_conditional"],
    ["model.couplings=4", "model.hidden=16", "model.steps=2", "model.scales=2", "model.channels=8", "model.blocks=1"],
)
# The mass tests weigh the codes of an untrained posterior: with many dimensions few draws count.
SMALL |= dict.fromkeys(["vae_planar", "vae_radial", "vae_sylvester", "vae_iaf"], ["model.latent_dim=4"])
SMALL["nice"] = ["model.hidden=32", "model.depth=2"]

_RESIDUAL = ["model.blocks=2", "model.hidden=16", "model.depth=2", "model.scales=2"]
SMALL |= {
    "iresnet": [*_RESIDUAL, "model.channels=8"],
    "residual_flow": [*_RESIDUAL, "model.channels=8", "model.flat_blocks=1"],
    "idensenet": ["model.blocks=1", "model.depth=2", "model.scales=2", "model.growth=8", "model.flat_blocks=1"],
    "ffjord": [
        *["model.depth=1", "model.hidden=8", "model.channels=2", "model.scales=2"],
        *["model.vector_tolerance=[1e-6,1e-5]", "model.image_tolerance=[1e-7,1e-7]"],
    ],
}
SMALL["realnvp_vardeq"] = ["model.channels=8", "model.blocks=1", "model.hidden=32"]
SMALL |= dict.fromkeys(
    ["flowpp", "flowpp_small"],
    ["model.components=2", "model.channels=8", "model.blocks=1", "model.heads=2", "model.couplings=4", "model.hidden=16"],
)
SMALL["gaussianization"] = ["model.layers=3", "model.components=4"]
SMALL |= dict.fromkeys(
    ["tarflow", "tarflow_conditional"],
    ["model.blocks=2", "model.layers=1", "model.channels=16", "model.heads=2"],
)
SMALL |= dict.fromkeys(["maf", "iaf"], ["model.layers=2", "model.hidden=32"])
SMALL |= {
    "nsf_ar": ["model.layers=2", "model.hidden=32", "model.bins=4"],
    "naf": ["model.layers=2", "model.hidden=32", "model.units=4"],
    "bnaf": ["model.layers=2", "model.units=3"],
}


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
