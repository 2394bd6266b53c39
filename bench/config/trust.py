"""Which names a configuration may bring to life. Imports nothing that a configuration names, and no torch.

A configuration names Python objects (``_target_``), so a stranger's file could name any function on the machine. Every
name must lie in a package that belongs to its group, or in one that the user trusts by name.
"""

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from bench.errors import UserError
from bench.ours import find_here_too

__all__ = [
    "PACKAGES",
    "announced",
    "check_runs_no_file",
    "check_targets",
    "lies_in",
    "look_here_too",
    "targets",
    "trusted",
]

PACKAGES = {
    "model": ("models", "torch.optim"),
    "data": ("bench.data",),
    "subject": ("models",),  # a model of the user's own may be built around one of ours
    "metric": ("bench.metrics", "bench.features", "bench.data"),
    "probe": ("bench.training.probes",),
    # The loggers that write files, and those that tell a server only if the user's own variables name it.
    "logger": (
        "bench.training.trackers",
        "pytorch_lightning.loggers.CSVLogger",
        "pytorch_lightning.loggers.TensorBoardLogger",
        "pytorch_lightning.loggers.csv_logs",
        "pytorch_lightning.loggers.tensorboard",
    ),
    # Hydra's own node: its launchers, sweepers and callbacks, and installed plugins.
    "hydra": ("hydra._internal.core_plugins", "hydra.experimental.callbacks", "hydra_plugins"),
}

RUNS_FILES = {"bench.features.script": "runs the code in the file that weights names"}
"""Our own modules that are refused unless the user trusts them by name, and why."""


def check_targets(config: Mapping[str, Any]) -> None:
    """Refuse every ``_target_`` outside the packages of its group and the user's trusted ones. Imports nothing.

    Raises:
        UserError: one line that says which name was refused and how to trust its package; or that a text is not
            resolved yet, and could become a ``_target_`` when it is.
    """
    by_user = trusted(config)
    for group, node in config.items():
        for path, text in _texts(node, group):
            if "${" in text:
                raise UserError(f"{path}: {text[:80]!r} is not resolved; write its value")
        for path, target in targets(node, group):
            check_runs_no_file(path, target, by_user)
            allowed = (*PACKAGES.get(group, ()), *by_user)
            if not lies_in(target, allowed):
                package = target.split(".")[0]
                listed = ", ".join(allowed) or "none"
                raise UserError(
                    f"{path}: _target_ {target!r} is not in the packages allowed there ({listed});"
                    f" if you trust it, add trust=[{package}]"
                )


def check_runs_no_file(path: str, target: str, by_user: tuple[str, ...]) -> None:
    """Refuse what runs the code of a file, unless the user trusts it by name.

    Raises:
        UserError: one line that says how to trust it.
    """
    for module, what in RUNS_FILES.items():
        if lies_in(target, (module,)) and not lies_in(target, by_user):
            raise UserError(f"{path}: {target} {what}; if you trust that file, add trust=[{module}]")


def look_here_too(trust: Iterable[str]) -> None:
    """Let trusted packages be found in the working folder, after everything that is installed.

    Nothing installed can be hidden by a folder there, and without trust nothing is found there at all.
    """
    if list(trust):
        find_here_too()


def targets(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every ``_target_`` below a node: the path of the node that holds it, and the name."""
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node)
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield path, str(value)
            else:
                yield from targets(value, f"{path}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from targets(value, f"{path}[{index}]")


def trusted(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Packages the user named, and installed ones that announce themselves under ``genbench.packages``."""
    return (*(config.get("trust") or ()), *announced())


def announced() -> list[str]:
    """Installed packages that announce themselves under the entry point ``genbench.packages``."""
    entries = importlib.metadata.entry_points(group="genbench.packages")
    return list(dict.fromkeys(entry.value.partition(":")[0].strip() for entry in entries))


def lies_in(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the packages or lies below one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


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
