"""No option of a model is ignored: another value makes another model, on some kind of data that it takes."""

import functools
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from contract import SPACES, data_of, kind_of
from helpers_models import configuration, names
from torch import Tensor, nn

from bench.rng import seeded
from models.base import GenerativeModel

pytestmark = pytest.mark.slow  # 300 options, a model or two for each

GIVEN = {"_target_", "_convert_", "classes"}
# Options that count with a value of another one alone.
WITH: dict[str, dict[str, Any]] = {"components": {"output": "mixture"}, "tolerance": {"solver": "dopri5"}}
# The cheapest first.
KINDS = sorted(SPACES, key=lambda space: (len(SPACES[space][0]), space))


def options() -> Iterator[tuple[str, str]]:
    """One YAML of each class, and its options."""
    seen = set()
    for name in names("model"):
        model = configuration(name)["model"]
        if model["_target_"] in seen:
            continue
        seen.add(model["_target_"])
        for option, value in model.items():
            if option not in GIVEN and not isinstance(value, dict) and others(model, option):
                yield name, option


@functools.cache
def hints(target: str) -> dict[str, Any]:
    return get_type_hints(class_of(target).__init__)


def others(model: dict[str, Any], option: str) -> list[Any]:
    """Other values of an option; none where they are not known, as of a name that no annotation lists."""
    value = model[option]
    hint = hints(model["_target_"]).get(option)
    choices = [one for part in (hint, *get_args(hint)) if get_origin(part) is Literal for one in get_args(part)]
    if choices:
        return [one for one in choices if one != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value + 2, 2 * value, value - 1, 8 * value]
    if isinstance(value, float):
        return [value / 2 if value else 0.5, 2 * value]
    if isinstance(value, list):
        return [[2 * one for one in value], [*value, *value[:1]]]
    return []


def chosen(name: str, option: str) -> dict[str, Any]:
    """The configuration in which an option counts."""
    model = configuration(name)["model"]
    return model | {key: value for key, value in WITH.get(option, {}).items() if key in model}


def built(model: dict[str, Any], space: str) -> GenerativeModel | None:
    """A model as ``bench.config.build`` makes it, less its checks, which take longer; None if it refuses the data."""
    kind, spec = class_of(model["_target_"]), data_of(space).spec
    if kind_of(space) not in kind.kinds:
        return None
    given: dict[str, Any] = {"shape": spec.shape, "levels": spec.levels, "classes": spec.classes}
    if spec.graph is not None:
        graph = spec.graph
        given |= {"nodes": graph.nodes, "node_types": graph.node_types, "edge_types": graph.edge_types}
    given = {key: value for key, value in given.items() if key in inspect.signature(kind).parameters}
    options = {key: parts_of(value) for key, value in model.items() if key not in GIVEN}
    try:
        with seeded(0):
            made: GenerativeModel = kind(**given, **options)
    except ValueError:
        return None
    return made


def parts_of(value: Any) -> Any:
    """What a nested configuration makes: here they all are functions with arguments given."""
    if not isinstance(value, dict):
        return value
    assert value["_partial_"] is True
    arguments = {key: one for key, one in value.items() if key not in ("_target_", "_partial_", "_convert_")}
    return functools.partial(class_of(value["_target_"]), **arguments)


def class_of(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def state(value: Any) -> Any:
    """What can be compared of an object: numbers, names, tensors, and those of what it holds."""
    if isinstance(value, Tensor):
        flat = value.detach().double().flatten()
        return tuple(value.shape), (flat @ torch.linspace(1, 2, len(flat), dtype=torch.float64)).item()
    if isinstance(value, nn.Module):
        own = {key: one for key, one in vars(value).items() if not key.startswith("_")}
        held = {**value._parameters, **value._buffers, **value._modules}
        return type(value).__name__, [(key, state(one)) for key, one in [*own.items(), *held.items()]]
    if isinstance(value, functools.partial):
        return value.func, state(value.args), state(value.keywords)
    if isinstance(value, FunctionType):
        return value.__qualname__, [state(cell.cell_contents) for cell in value.__closure__ or ()]
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, [state(getattr(value, one.name)) for one in fields(value)]
    if isinstance(value, dict):
        return [(key, state(one)) for key, one in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [state(one) for one in value]
    return value if isinstance(value, int | float | str | bool | type(None)) else type(value).__name__


@functools.cache
def plain(name: str, option: str, space: str) -> Any:
    """Of the configuration before the option changes; ``option`` is one of ``WITH``, or empty."""
    model = built(chosen(name, option), space)
    return None if model is None else state(model)


@pytest.mark.parametrize(("name", "option"), list(options()))
def test_no_option_is_ignored(name: str, option: str) -> None:
    model = chosen(name, option)
    values = others(model, option)
    for space in KINDS:
        before = plain(name, option if option in WITH else "", space)
        if before is None:
            continue
        for value in values:
            after = built({**model, option: value}, space)
            if after is not None and state(after) != before:
                return
    pytest.fail(f"{name}: model.{option} = {values} makes the same model as {model[option]!r}")
