"""From configuration to objects: only what may be built, and only with arguments it takes.

A configuration names Python objects (``_target_``), so a stranger's file could name any function on the machine. Every
name is therefore checked before anything is imported: it must lie in a package that belongs to its group, or in one
the user trusts by name. What it names must then be of the group's kind, and defined in that package, not merely
reachable through it.
"""

import importlib
import importlib.metadata
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.data.base import Data
from bench.did_you_mean import nearest
from bench.errors import UserError
from bench.schema import DataSpec

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from bench.metrics.base import Metric
    from models.base import GenerativeModel

__all__ = ["build_data", "build_logger", "build_metrics", "build_model", "check_arguments", "check_targets", "typed"]

T = TypeVar("T")

_PACKAGES = {
    "model": ("models", "torch.optim"),
    "data": ("bench.data",),
    "metric": ("bench.metrics",),
    "logger": ("pytorch_lightning.loggers",),
    # Hydra's own node: its launchers, sweepers and callbacks, and installed plugins.
    "hydra": ("hydra._internal.core_plugins", "hydra.experimental.callbacks", "hydra_plugins"),
}


def build_data(config: dict[str, Any]) -> Data:
    """The data set of a run's configuration."""
    made = _build("data", config["data"])
    assert isinstance(made, Data)
    return made


def build_model(config: dict[str, Any], spec: DataSpec) -> "GenerativeModel":
    """The model of a run's configuration: the data dictate its shapes."""
    from models.base import GenerativeModel

    of_data = {"shape": spec.shape, "levels": spec.levels}
    if "classes" in _parameters(config["model"]["_target_"]):
        of_data["classes"] = spec.classes
    made = _build("model", config["model"], **of_data)
    if not isinstance(made, GenerativeModel):
        raise UserError(f"model: {config['model']['_target_']} is a {type(made).__name__}, not a GenerativeModel")
    return made


def build_metrics(config: dict[str, Any]) -> "dict[str, Metric]":
    """The metrics of a run's configuration by the names they have there."""
    return {name: _build("metric", node) for name, node in config["metric"].items()}


def build_logger(config: dict[str, Any], folder: str) -> "Logger | None":
    """The tracker of a run's configuration, or None."""
    from pytorch_lightning.loggers import Logger

    if config["logger"] is None:
        return None
    made = _build("logger", config["logger"], save_dir=folder)
    assert isinstance(made, Logger)
    return made


def check_targets(config: Mapping[str, Any]) -> None:
    """Refuse every ``_target_`` outside the packages of its group and the user's trusted ones. Imports nothing.

    Errors:
        UserError: one line that says which name was refused and how to trust its package; or that a text is not
            resolved yet, and could become a ``_target_`` when it is.
    """
    trusted = _trusted(config)
    for group, node in config.items():
        for path, text in _texts(node, group):
            if "${" in text:
                raise UserError(f"{path}: {text[:80]!r} is not resolved; write its value")
        for path, target in _targets(node, group):
            allowed = (*_PACKAGES.get(group, ()), *trusted)
            if not _lies_in(target, allowed):
                package = target.split(".")[0]
                listed = ", ".join(allowed) or "none"
                raise UserError(
                    f"{path}: _target_ {target!r} is not in the packages allowed there ({listed});"
                    f" if you trust it, add trust=[{package}]"
                )


def typed(schema: type[T], node: Mapping[str, Any], path: str) -> T:
    """A dataclass from a configuration node: unknown keys and wrong types are refused with their name."""
    known = list(inspect.signature(schema).parameters)
    for key in node:
        if key not in known:
            raise UserError(f"{path}.{key}: no such key{nearest(key, known)}; the keys are {', '.join(known)}")
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(node)))
    except OmegaConfBaseException as error:
        raise UserError(f"{path}.{error.full_key or ''}: {str(error.msg).splitlines()[0]}") from error
    assert isinstance(made, schema)
    return made


def _build(group: str, node: Mapping[str, Any], **extra: Any) -> Any:
    try:
        return instantiate(node, **extra)
    except (InstantiationException, OmegaConfBaseException, TypeError) as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        reason = " ".join(str(error if cause is None else cause).split())
        raise UserError(f"{group}: {node['_target_']} could not be made: {reason}") from error


def _parameters(target: str) -> Mapping[str, inspect.Parameter]:
    module_name, _, name = target.rpartition(".")
    return inspect.signature(getattr(importlib.import_module(module_name), name)).parameters


def _kinds(group: str) -> tuple[type, ...]:
    """What a group may build. Imported here: who only needs a data set should not wait for Lightning."""
    if group == "data":
        return (Data,)
    if group == "metric":
        from bench.metrics.base import Metric

        return (Metric,)
    if group == "logger":
        from pytorch_lightning.loggers import Logger

        return (Logger,)
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from models.base import GenerativeModel

    return (GenerativeModel, nn.Module, Optimizer, LRScheduler)


def _check_kind(path: str, target: str, group: str, trusted: tuple[str, ...]) -> None:
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: _target_ {target!r} cannot be imported ({error})") from error
    makes = get_type_hints(found).get("return") if inspect.isfunction(found) else found
    at_home = _lies_in(str(getattr(found, "__module__", "")), (*_PACKAGES[group], *trusted))
    if not (at_home and inspect.isclass(makes) and issubclass(makes, _kinds(group))):
        kinds = " or ".join(kind.__name__ for kind in _kinds(group))
        raise UserError(f"{path}: _target_ {target!r} is not a {kinds} (or an annotated function that returns one)")


def check_arguments(config: Mapping[str, Any]) -> None:
    """Refuse arguments that their targets do not take, before anything is built. Imports the targets.

    Arguments:
        config: Of a run, or only some of its groups.

    Errors:
        UserError: names the key, the target and the nearest argument.
    """
    nodes = [(group, config.get(group) or {}) for group in ("model", "data", "logger")]
    nodes += [(f"metric.{name}", node) for name, node in config.get("metric", {}).items()]
    for path, node in nodes:
        group = path.split(".")[0]
        for where, target in _targets(node, path):
            _check_kind(where, target, group, _trusted(config))
        extra = {"model": ("shape", "levels"), "logger": ("save_dir",)}.get(group, ())
        _check_arguments(node, path, dict.fromkeys(extra))


def _check_arguments(node: Mapping[str, Any], path: str, extra: Mapping[str, Any]) -> None:
    """Unknown arguments, said before Python says them with a traceback."""
    target = node.get("_target_")
    if target is not None:
        parameters = _parameters(target)
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for key in [*node, *extra]:
            if not key.startswith("_") and key not in parameters and not open_ended:
                known = [name for name in parameters if name not in extra]
                raise UserError(f"{path}.{key}: {target} takes no such argument{nearest(key, known)}")
    for key, value in node.items():
        if isinstance(value, Mapping):
            _check_arguments(value, f"{path}.{key}", {})


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield path, str(key)
            yield from _texts(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _texts(value, f"{path}[{index}]")
    elif isinstance(node, str):
        yield path, node


def _targets(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node)
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield path, str(value)
            else:
                yield from _targets(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _targets(value, f"{path}[{index}]")


def _trusted(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Packages the user named, and installed ones that announce themselves under ``genbench.packages``."""
    announced = (entry.value for entry in importlib.metadata.entry_points(group="genbench.packages"))
    return (*(config.get("trust") or ()), *announced)


def _lies_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)
