"""Configuration files from outside our package: what they may hold, seen at the moment Hydra reads them.

A file on ``hydra.searchpath`` may be a stranger's. Hydra itself would let it install log handlers that run code, choose
folders to write to, and read the environment. Such a file may describe a run, and of ``hydra.*`` only a sweep.
"""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.limits import DEEPEST, LARGEST_FILE, MOST_ENTRIES
from bench.errors import UserError
from bench.regular import read_regular

__all__ = ["SCHEME", "ForeignFiles", "read_yaml", "use_foreign_files"]

SCHEME = "foreign"

# A reference to another key, ${KEY}. No resolver, and nothing of Hydra's own node.
_REFERENCE = re.compile(r"\$\{\.*(?!hydra\b)[A-Za-z_][\w.\[\]-]*\}")
_PARAMETER = re.compile(r"\+{0,2}[\w./-]+")


class ForeignFiles(FileConfigSource):
    """A folder on Hydra's search path whose files are checked whenever one is read: ``foreign:///FOLDER``."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def is_config(self, config_path: str) -> bool:
        """Whether there is a file of this name. No name leads out of its group."""
        return ".." not in config_path.split("/") and super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        """A file's content.

        Raises:
            UserError: The file cannot be read, or holds what only the user may say.
        """
        file = Path(self.path, self._normalize_file_name(config_path))
        text, config = read_yaml(file)
        try:
            header = self._get_header_dict(text[:512])
        except ValueError as error:
            raise UserError(f"{file}: {error}; write it as in conf/") from error
        _check(file, config_path, config, header["package"])
        return ConfigResult(provider=self.provider, path=self.full_path(), config=config, header=header)


def use_foreign_files() -> None:
    """Let Hydra know the scheme. To do so again changes nothing."""
    SourcesRegistry.instance().register(ForeignFiles)


def read_yaml(file: Path) -> tuple[str, DictConfig | ListConfig]:
    """The text of a YAML file, and its content, in which nothing is resolved.

    Raises:
        UserError: It cannot be read, is no regular file, or is or unfolds to more than a configuration can hold.
    """
    try:
        text = read_regular(file, LARGEST_FILE).decode()
        if _unfolded(yaml.compose(text, Loader=yaml.SafeLoader), {}, 0) > MOST_ENTRIES:
            raise UserError(f"{file}: has more than {MOST_ENTRIES:,} keys and values, aliases counted as often as used")
        return text, OmegaConf.load(io.StringIO(text))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())[:160]})") from error


def _unfolded(node: yaml.Node | None, known: dict[int, int], depth: int) -> int:
    """How many nodes there are where every alias is a copy. A shared node is visited once.

    Raises:
        ValueError: A node contains itself, or is nested too deeply.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} levels deep, or in itself")
    if id(node) not in known:
        pairs = isinstance(node, yaml.MappingNode)
        parts = [part for pair in node.value for part in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_unfolded(part, known, depth + 1) for part in parts)
    return known[id(node)]


def _check(file: Path, config_path: str, config: DictConfig | ListConfig, package: str | None) -> None:
    content = OmegaConf.to_container(config, resolve=False)
    named = content.get("defaults") if isinstance(content, dict) else None
    for default in named if isinstance(named, list) else []:
        text = next(iter(default), "") if isinstance(default, dict) else default
        path, _, into = str(text).rpartition(" ")[2].partition("@")
        if _leads_out(path) or "hydra" in into:
            raise UserError(f"{file}: defaults: {str(text)[:80]!r}: {_ONLY_THE_USER}")
    if _leads_out(config_path) or "hydra" in (package or ""):
        raise UserError(f"{file}: {_ONLY_THE_USER}")
    for path, text in _texts(content, ""):
        if not _refers_only(text):
            raise UserError(
                f"{file}: {path}: {text[:80]!r}: a file may refer to keys of the configuration, ${{KEY}}, and to "
                "nothing outside it; write the value, or give it on the command line"
            )
    if isinstance(content, dict) and "hydra" in content:
        _check_hydra(file, content["hydra"])


_ONLY_THE_USER = (
    "sets what only the command line may set; of Hydra's keys a file may set hydra.mode and hydra.sweeper.params"
)


def _check_hydra(file: Path, node: Any) -> None:
    """Refuse all of Hydra's own node but the mode, and parameters of a sweep that are not Hydra's in turn."""
    for keys, value in _leaves(node, ("hydra",)):
        is_params = keys[:3] == ("hydra", "sweeper", "params") and (len(keys) > 3 or not value)
        if keys != ("hydra", "mode") and not is_params:
            raise UserError(f"{file}: {'.'.join(keys)}: {_ONLY_THE_USER}")
        if is_params and len(keys) > 3 and (not _PARAMETER.fullmatch(keys[3]) or _is_hydras(keys[3])):
            raise UserError(f"{file}: {'.'.join(keys)}: {_ONLY_THE_USER}")
        if "${" in str(value):  # it would become part of a command line, and be resolved there
            raise UserError(f"{file}: {'.'.join(keys)}: {str(value)[:80]!r} is not resolved; write its value")


def _is_hydras(key: str) -> bool:
    return re.split(r"[./]", key.lstrip("+/"))[0] == "hydra"


def _leads_out(path: str) -> bool:
    """Whether the path of a group or file is Hydra's own, or has steps that a name has not."""
    return bool({"hydra", "..", "."} & set(path.split("/")))


def _leaves(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, (*keys, str(key)))
    else:
        yield keys, node


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            below = f"{path}.{key}" if path else str(key)
            yield below, str(key)
            yield from _texts(value, below)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, f"{path}[{index}]")
    elif isinstance(node, str):
        yield path, node


def _refers_only(text: str) -> bool:
    """Whether a text has no interpolation but references to keys: innermost first, they are taken out until none is."""
    while (shorter := _REFERENCE.sub("hydra", text)) != text:  # so that no reference makes a key of Hydra's
        text = shorter
    return "${" not in text
