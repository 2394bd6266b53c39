"""Models and data from conf, small enough to be trained in a test."""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

import conf
from bench.config.build import build_model
from bench.config.compose import compose_runs
from bench.data.base import Data, Split
from bench.rng import seeded
from bench.schema import DataSpec
from models.base import GenerativeModel

__all__ = ["names", "new_model", "small_data"]

# The published sizes of many flows are for a GPU; every other hyperparameter is as in the YAML.
SIZES: dict[str, str] = {
    "realnvp realnvp_conditional": "channels=8 blocks=1",
    "realnvp_vardeq": "channels=8 blocks=1 hidden=32",
    "glow glow_small glow_conditional": "steps=2 scales=2 channels=8 hidden=16",
    "nsf nsf_small nsf_conditional": "couplings=4 hidden=16 steps=2 scales=2 channels=8 blocks=1",
    "nice": "hidden=32 depth=2",
    "flowpp flowpp_small": "components=2 channels=8 blocks=1 heads=2 couplings=4 hidden=16",
    "tarflow tarflow_conditional": "blocks=2 layers=1 channels=16 heads=2",
    "gaussianization": "layers=3 components=4",
    "maf iaf": "layers=2 hidden=32",
    "nsf_ar": "layers=2 hidden=32 bins=4",
    "naf": "layers=2 hidden=32 units=4",
    "bnaf": "layers=2 units=3",
    "iresnet": "blocks=2 scale_blocks=2 hidden=16 depth=2 scales=2 channels=8",
    "residual_flow": "blocks=2 scale_blocks=2 hidden=16 depth=2 scales=2 channels=8 flat_blocks=1",
    "idensenet": "blocks=1 scale_blocks=1 depth=2 scales=2 growth=8 flat_blocks=1",
    "ffjord": "depth=1 hidden=8 channels=2 scales=2 exact_dim=10 "
    "vector_tolerance=[1e-6,1e-5] image_tolerance=[1e-7,1e-7]",
    # The mass tests weigh the codes of an untrained posterior: with many dimensions few draws count.
    "vae_planar vae_radial vae_sylvester vae_iaf": "latent_dim=4",
}
SMALL = {name: [f"model.{size}" for size in sizes.split()] for named, sizes in SIZES.items() for name in named.split()}


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
        return build_model(configuration(model, *overrides)["model"], spec)


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
