"""Models and data from conf, small enough to be trained in a test."""

import copy
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from torch import Generator, Tensor

import conf
from bench.config.build import build_model
from bench.config.compose import compose_runs
from bench.data.base import Data, Split
from bench.errors import UserError
from bench.rng import seeded
from bench.schema import DataSpec, GraphSpec, Kind
from models.base import GenerativeModel

__all__ = ["Declared", "configuration", "declared", "names", "new_model", "refusal", "small_data", "small_graphs"]

OURS = Path(conf.__file__).parent
NOTE = re.compile(r"^# (test|leaks|refuses):(.*)$", re.MULTILINE)
NOTHING = "nothing"


@dataclass(frozen=True)
class Declared:
    """What a model's YAML says for its tests, in comments: docs/adding.md has the list.

    Attributes:
        sizes: From ``# test: KEY=VALUE ...``: hyperparameters that make the model small. The published sizes of many
            models are for a GPU; every other hyperparameter is as in the YAML.
        leaks: From ``# leaks: REASON``: why the masses of all examples sum to less than 1; empty where they do not.
        refuses: From ``# refuses: SPACE, SPACE``: kinds of data that the constructor refuses.
    """

    sizes: dict[str, str] = field(default_factory=dict)
    leaks: str = ""
    refuses: tuple[str, ...] = ()


@functools.cache  # asked for every test that is collected
def declared(name: str, *folders: Path) -> Declared:
    """The notes in ``model/NAME.yaml`` of the first of the folders that has it, conf being the last of them.

    A variant (``defaults: [BASE]``) has its base's notes but for those it writes itself; ``nothing`` takes one back.
    """
    file = next(path for folder in (*folders, OURS) if (path := folder / "model" / f"{name}.yaml").is_file())
    found = Declared()
    for base in OmegaConf.load(file).get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            found = declared(base, *folders)
    sizes, leaks, refuses = dict(found.sizes), found.leaks, found.refuses
    for kind, text in NOTE.findall(file.read_text(encoding="utf-8")):
        text = "" if text.strip() == NOTHING else text.strip()
        if kind == "test":
            sizes |= dict(size.split("=", 1) for size in text.split())
        elif kind == "leaks":
            leaks = text
        else:
            refuses = tuple(space.strip() for space in text.split(",") if space.strip())
    return Declared(sizes, leaks, refuses)


def names(group: str, folder: Path = OURS) -> list[str]:
    """Every YAML in a group of conf, or of another folder of configurations."""
    return sorted(file.stem for file in (folder / group).glob("*.yaml"))


def configuration(model: str, *overrides: str, folder: Path = OURS, trust: tuple[str, ...] = ()) -> dict[str, Any]:
    """A run's configuration with the model at its size for tests.

    Arguments:
        folder: Of configurations, where the model is not in conf.
        trust: Packages besides our own that it may name.
    """
    return copy.deepcopy(_composed(model, overrides, folder, trust))


@functools.cache  # composing takes a tenth of a second, and many tests ask for the same
def _composed(model: str, overrides: tuple[str, ...], folder: Path, trust: tuple[str, ...]) -> dict[str, Any]:
    small = [f"model.{key}={value}" for key, value in declared(model, folder).sizes.items()]
    found = [] if folder == OURS else [f"hydra.searchpath=[file://{folder}]"]
    trusted = [f"trust=[{','.join(trust)}]"] if trust else []
    return compose_runs([*found, *trusted, f"model={model}", *small, *overrides])[0]


def new_model(
    model: str, spec: DataSpec, *overrides: str, seed: int = 0, folder: Path = OURS, trust: tuple[str, ...] = ()
) -> GenerativeModel:
    """An untrained model for a data set."""
    with seeded(seed):
        return build_model(configuration(model, *overrides, folder=folder, trust=trust)["model"], spec)


def refusal(error: UserError) -> str:
    """Why a constructor refused its data, if the error says that: it raised a ValueError or UserError with a reason.

    Anything else that a constructor raises is a defect, and raised again.
    """
    cause: BaseException = error
    while isinstance(cause, UserError | InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if not isinstance(cause, ValueError | UserError) or not str(cause).strip():
        raise error
    return str(cause)


def small_data(
    shape: tuple[int, ...], levels: int | None, n: int = 96, held_out: int = 16, kind: Kind = Kind.NUMBERS
) -> Data:
    """Random but learnable data: correlated entries around two centres; ``held_out`` for val and for test."""
    generator = Generator().manual_seed(7)
    count, val = n + 2 * held_out, n + held_out
    centre = torch.randint(0, 2, (count, *[1] * len(shape)), generator=generator).float()
    noise = torch.randn(count, *shape, generator=generator)
    x: Tensor = 2 * centre - 1 + 0.3 * noise
    if levels is not None:
        x = ((x + 3) / 6 * levels).floor().clamp(0, levels - 1).to(torch.uint8)
    y = centre.flatten().long()
    spec = DataSpec("small", "r0", shape, levels, n, held_out, held_out, 2, kind=kind)
    return Data(spec, Split(x[:n], y[:n]), Split(x[n:val], y[n:val]), Split(x[val:], y[val:]))


def small_graphs(graph: GraphSpec, kind: Kind, n: int = 96, held_out: int = 16) -> Data:
    """Random but learnable graphs: nodes and edges of one type more often than others; sizes as in ``small_data``."""
    generator = Generator().manual_seed(7)
    count, val = n + 2 * held_out, n + held_out
    present = torch.arange(graph.nodes) < torch.randint(1, graph.nodes + 1, (count, 1), generator=generator)
    types = torch.randint(1, graph.node_types + 1, (count, graph.nodes), generator=generator)
    types = types.minimum(types[:, :1]) * present  # smaller types are the more frequent
    edges = torch.randint(0, graph.edge_types + 1, (count, graph.nodes, graph.nodes), generator=generator)
    edges = edges.triu(1) * (present[:, :, None] & present[:, None])
    x = torch.cat([types, edges[:, *torch.triu_indices(graph.nodes, graph.nodes, 1)]], 1).to(torch.uint8)
    spec = DataSpec("small", "r0", graph.shape, graph.levels, n, held_out, held_out, kind=kind, graph=graph)
    return Data(spec, Split(x[:n]), Split(x[n:val]), Split(x[val:]))
