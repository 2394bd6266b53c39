"""From configuration to objects: only what may be built, and only with arguments it takes.

A configuration names Python objects (``_target_``), so a stranger's file could name any function on the machine. Every
name is therefore checked before anything is imported: it must lie in a package that belongs to its group, or in one
the user trusts by name. What it names must then be of the group's kind, and defined in that package, not merely
reachable through it.
"""

import importlib
import importlib.metadata
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException

from bench.config.hints import fits, in_words
from bench.config.spec import Node, RunSpec, check_name
from bench.config.trust import PACKAGES, check_runs_no_file, check_targets, lies_in, look_here_too, targets, trusted
from bench.data.base import Data
from bench.did_you_mean import nearest
from bench.errors import UserError, is_out_of_memory
from bench.schema import DataSpec

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from bench.metrics.base import Metric
    from bench.probe import Probe
    from models.base import GenerativeModel

__all__ = [
    "build_data", "build_logger", "build_metrics", "build_model", "build_probes", "build_subject",
    "check_arguments", "checked",
]  # fmt: skip


def build_data(node: Node) -> Data:
    """The data set of a configuration's group ``data``."""
    made = _build("data", node)
    assert isinstance(made, Data)
    return made


def build_model(node: Node, spec: DataSpec) -> "GenerativeModel":
    """The model of the group ``model``: the data dictate its shapes."""
    from models.base import GenerativeModel

    target = node["_target_"]
    of_data, parameters = _of_data(spec), _parameters(target)
    found = _found(target)
    if inspect.isclass(found) and issubclass(found, GenerativeModel):  # before it misses what other kinds of data have
        _refuse_other_kinds(target, found.kinds, spec)
    made = _build("model", node, **{
        key: value for key, value in of_data.items() if key in ("shape", "levels") or key in parameters
    })  # fmt: skip
    if not isinstance(made, GenerativeModel):
        raise UserError(f"model: {target} is a {type(made).__name__}, not a GenerativeModel")
    _refuse_other_kinds(target, made.kinds, spec)
    return made


def _of_data(spec: DataSpec) -> dict[str, Any]:
    """What models may be told of the data, by the names of the arguments."""
    of_graphs = {} if spec.graph is None else {
        "nodes": spec.graph.nodes, "node_types": spec.graph.node_types, "edge_types": spec.graph.edge_types
    }  # fmt: skip
    return {"shape": spec.shape, "levels": spec.levels, "classes": spec.classes, **of_graphs}


def _refuse_other_kinds(target: str, kinds: frozenset[str], spec: DataSpec) -> None:
    if spec.kind not in kinds:
        what = "examples" if spec.graph is not None else "entries"
        raise UserError(
            f"model: {target} is for {' or '.join(sorted(kinds))}; the {what} of {spec.name} are {spec.kind}: name "
            "another model, or data.as_numbers=true where the data have it"
        )


def build_subject(node: Node, spec: DataSpec) -> Any:
    """The model of the user's own that ``subject`` names: whatever its target makes.

    The target is given the ``shape``, ``levels`` and ``classes`` of the data, and the sizes of graphs, if it takes such
    arguments.
    """
    of_data = _of_data(spec)
    taken = _parameters(node["_target_"])
    return _build("subject", node, **{key: of_data[key] for key in of_data if key in taken and key not in node})


def build_metrics(nodes: Mapping[str, Node]) -> "dict[str, Metric]":
    """The metrics of the group ``metric`` by the names they have there.

    Raises:
        UserError: A metric cannot be made, or its YAML states another version than its class.
    """
    from bench.metrics.base import Metric

    made: dict[str, Metric] = {}
    for name, node in nodes.items():
        arguments = {key: value for key, value in node.items() if key != "version"}
        metric = _build(f"metric.{name}", arguments)
        if not isinstance(metric, Metric):
            raise UserError(f"metric.{name}: {node['_target_']} is a {type(metric).__name__}, not a Metric")
        made[name] = metric
        if metric.version != node.get("version", 1):
            stated = f"metric.{name}: the configuration states version {node.get('version', 1)}"
            raise UserError(f"{stated}, {node['_target_']} has version {metric.version}; state the class's version")
    return made


def build_probes(nodes: Mapping[str, Node]) -> "list[Probe]":
    """The probes of the group ``probe``, in its order.

    Raises:
        UserError: A probe cannot be made, or its name cannot be a file's.
    """
    for name in nodes:
        check_name("probe", name)
    return [_build(f"probe.{name}", node) for name, node in nodes.items()]


def build_logger(node: Node | None, folder: str) -> "Logger | None":
    """The tracker of the group ``logger``, or None.

    Raises:
        UserError: It would write outside the folder, or through a link in it.
    """
    from pytorch_lightning.loggers import Logger

    if node is None:
        return None
    made = _build("logger", node, save_dir=folder)
    assert isinstance(made, Logger)
    if lies_in(node["_target_"], PACKAGES["logger"]) and made.log_dir is not None:
        inside = Path(folder).resolve()
        if inside not in Path(made.log_dir).resolve().parents:
            raise UserError(f"logger: would write to {made.log_dir}, outside the run's folder {inside}; give a name")
    return made


def _build(group: str, node: Mapping[str, Any], **extra: Any) -> Any:
    try:
        return instantiate(node, **extra)
    except (InstantiationException, OmegaConfBaseException, TypeError) as error:
        cause = error.__cause__
        if cause is not None and (isinstance(cause, UserError) or is_out_of_memory(cause)):
            raise cause from None
        reason = " ".join(str(error if cause is None else cause).split())
        raise UserError(f"{group}: {node['_target_']} could not be made: {reason}") from error


def _found(target: str) -> Any:
    module_name, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module_name), name)


def _parameters(target: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_found(target)).parameters


def _hints(target: str) -> dict[str, Any]:
    """The annotations of a target's arguments; none where they cannot be read."""
    found = _found(target)
    try:
        return get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except (NameError, TypeError, AttributeError):
        return {}


def _kinds(group: str) -> tuple[type, ...]:
    """What a group may build. Imported here because Lightning takes seconds and data sets do not need it."""
    if group == "data":
        return (Data,)
    if group == "metric":
        from torch import nn

        from bench.features.base import Recipe
        from bench.metrics.base import Metric

        return (Metric, Recipe, Data, nn.Module)
    if group == "probe":
        from bench.probe import Probe

        return (Probe,)
    if group == "logger":
        from pytorch_lightning.loggers import Logger

        return (Logger,)
    if group == "subject":
        return (object,)
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
    check_runs_no_file(path, f"{getattr(found, '__module__', '')}.{name}", trusted)
    makes = get_type_hints(found).get("return") if inspect.isfunction(found) else found
    if group == "subject" and inspect.isfunction(found):  # what it returns is looked at when it is there
        makes = object
    at_home = lies_in(str(getattr(found, "__module__", "")), (*PACKAGES[group], *trusted))
    if not (at_home and inspect.isclass(makes) and issubclass(makes, _kinds(group))):
        kinds = " or ".join(kind.__name__ for kind in _kinds(group))
        raise UserError(f"{path}: _target_ {target!r} is not a {kinds} (or an annotated function that returns one)")


def checked(config: Node) -> RunSpec:
    """The specification of a configuration in which every name may be built and takes its arguments.

    Raises:
        UserError: A key, a name or an argument is wrong; names it.
    """
    spec = RunSpec.parse(config)
    check_targets(spec.config)
    check_arguments(spec.config)
    return spec


def check_arguments(config: Mapping[str, Any]) -> None:
    """Refuse arguments that their targets do not take, before anything is built. Imports the targets.

    Arguments:
        config: Of a run, or only some of its groups.

    Raises:
        UserError: names the key, the target and the nearest argument.
    """
    nodes = [(group, config.get(group) or {}) for group in ("model", "data", "logger", "subject")]
    nodes += [
        (f"{group}.{name}", node) for group in ("metric", "probe") for name, node in config.get(group, {}).items()
    ]
    look_here_too(config.get("trust") or ())
    _check_logger(config.get("logger") or {})
    for path, node in nodes:
        group = path.split(".")[0]
        for where, target in targets(node, path):
            _check_kind(where, target, group, trusted(config))
        extra = {"model": ("shape", "levels"), "logger": ("save_dir",)}.get(group, ())
        if group == "metric":
            node = {key: value for key, value in node.items() if key != "version"}
        _check_arguments(node, path, dict.fromkeys(extra))


def _check_logger(node: Mapping[str, Any]) -> None:
    """Refuse names of the curves that are paths, or become some: TensorBoard's logger replaces $VARIABLE and ~."""
    for key, value in node.items():
        ours = key != "_target_" and lies_in(str(node.get("_target_")), PACKAGES["logger"])
        if ours and isinstance(value, str) and (value in (".", "..") or set("/\\$~") & set(value)):
            raise UserError(f"logger.{key}={value!r}: a name is expected, not a path; curves lie in the run's folder")


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
        hints = _hints(target)
        for key, value in node.items():
            if key in parameters and key in hints and not fits(value, hints[key]) and value != parameters[key].default:
                raise UserError(f"{path}.{key}={value!r}: {in_words(hints[key])} is expected")
    for key, value in node.items():
        if isinstance(value, Mapping):
            _check_arguments(value, f"{path}.{key}", {})
