"""What there is to choose from: the YAMLs of our conf and of every folder on the search path. Imports no torch.

The search path is ours first, then the folders that the user names (``hydra.searchpath=[file:///FOLDER, pkg://PACKAGE]``),
then the folder ``conf`` of every installed package that announces itself under the entry point ``genbench.packages``.
Nothing in a package is run to find its folder.
"""

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import conf
from bench.did_you_mean import nearest
from bench.errors import UserError

__all__ = ["GROUPS", "Catalogue", "announced_folders", "describe", "listing"]

GROUPS = {
    "models": "model", "data": "data", "metrics": "metric", "features": "features", "probes": "probe",
    "experiments": "experiment", "trainers": "trainer",
}  # fmt: skip

_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


@dataclass(frozen=True)
class Catalogue:
    """The configuration files of a search path, the first folder first: where two hold one name, the first wins."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, searchpath: Iterable[str] = ()) -> "Catalogue":
        """The files of conf, of the entries of ``hydra.searchpath``, and of announced packages."""
        ours = Path(conf.__file__).parent
        named = [folder for entry in searchpath if (folder := _folder(entry)) is not None]
        return cls(tuple(dict.fromkeys([ours, *named, *announced_folders()])))

    def files(self, group: str) -> dict[str, Path]:
        """Every file of a group by its name (``model=NAME``), sorted."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            root = folder / group
            for file in root.rglob("*.yaml"):
                found.setdefault(file.relative_to(root).with_suffix("").as_posix(), file)
        return dict(sorted(found.items()))

    def stored(self, group: str, name: str) -> dict[str, Any] | None:
        """A file's content as it stands: nothing is composed, and mandatory keys keep Hydra's ``???`` marker.

        None where there is no such file. A name never leads out of the search path.

        Raises:
            UserError: The file cannot be read as keys and values.
        """
        if _NAME.fullmatch(name) is None:
            return None
        path = next((f for folder in self.folders if (f := folder / group / f"{name}.yaml").is_file()), None)
        if path is None:
            return None
        try:
            made = OmegaConf.to_container(OmegaConf.load(path))
        except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})") from error
        if not isinstance(made, dict):
            raise UserError(f"{path}: keys and values are expected")
        return {str(key): value for key, value in made.items()}


def announced_folders() -> list[Path]:
    """The folder ``conf`` of every announced package that has one."""
    entries = importlib.metadata.entry_points(group="genbench.packages")
    folders = [_folder(f"pkg://{entry.value}.conf") for entry in entries]
    return [folder for folder in folders if folder is not None]


def _folder(entry: str) -> Path | None:
    """The folder of a search path's entry; None where there is none (Hydra warns of it)."""
    scheme, _, place = entry.rpartition("://")
    if scheme == "pkg":
        first, *rest = place.split(".")
        try:
            spec = importlib.util.find_spec(first)  # of a top-level package: imports nothing
        except (ImportError, ValueError):
            return None
        roots = [] if spec is None else [Path(root) for root in spec.submodule_search_locations or ()]
        return next((path for root in roots if (path := root.joinpath(*rest)).is_dir()), None)
    path = Path(place)
    return path if path.is_dir() else None


def describe(file: Path) -> str:
    """The first comment line of a configuration file that is not one of Hydra's ``# @`` headers."""
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#") and not text.lstrip("# ").startswith("@"):
            return text.lstrip("# ")
        if text and not text.startswith("#"):
            break
    return ""


def listing(groups: list[str], catalogue: Catalogue) -> str:
    """A plain table of the asked groups (all without any).

    Raises:
        UserError: There is no such group.
    """
    for group in groups:
        if group not in GROUPS:
            raise UserError(f"list {group!r}: no such group{nearest(group, GROUPS)}; there are: {', '.join(GROUPS)}")
    blocks = []
    for group in groups or list(GROUPS):
        files = catalogue.files(GROUPS[group])
        width = max((len(name) for name in files), default=0)
        lines = [f"  {name:<{width}}  {describe(file)}" for name, file in files.items()]
        blocks.append("\n".join([f"{group} ({GROUPS[group]}=NAME)", *lines]))
    return "\n\n".join(blocks)
