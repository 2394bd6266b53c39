"""What there is to choose from: the YAMLs of our conf and of every folder on the search path. Imports no torch.

The search path is ours first, then the folders that the user names (``hydra.searchpath=[file:///FOLDER, pkg://PACKAGE]``),
then the folder ``conf`` of every installed package that announces itself under the entry point ``genbench.packages``.
Nothing in a package is run to find its folder.
"""

import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import conf
from bench.config.foreign import SCHEME, read_yaml
from bench.config.limits import LARGEST_FILE
from bench.config.trust import announced
from bench.did_you_mean import nearest
from bench.errors import UserError
from bench.plain import plain
from bench.regular import read_regular

__all__ = ["GROUPS", "Catalogue", "describe", "is_name", "listing"]

GROUPS = {
    "models": "model", "data": "data", "metrics": "metric", "features": "features", "probes": "probe",
    "experiments": "experiment", "trainers": "trainer",
}  # fmt: skip
_CHOSEN = {"metrics": "metric=[NAME]", "features": "metric.fid.features=NAME", "probes": "probe=[NAME]"}

_LONGEST = 200  # characters; file systems allow 255 bytes
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


@dataclass(frozen=True)
class Catalogue:
    """The configuration files of a search path, the first folder first: where two hold one name, the first wins."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, searchpath: Iterable[str] = ()) -> "Catalogue":
        """The files of conf, of the entries of ``hydra.searchpath``, and of announced packages.

        Raises:
            UserError: An entry is no folder.
        """
        ours = Path(conf.__file__).parent
        named = {entry: _folder(entry) for entry in searchpath}
        for entry, folder in named.items():
            if folder is None:
                raise UserError(f"hydra.searchpath: {entry}: no such folder; give file:///FOLDER or pkg://PACKAGE.FOLDER"
                                " of an installed or trusted package")  # fmt: skip
        of_packages = [_folder(f"pkg://{package}.conf") for package in announced()]
        folders = [ours, *named.values(), *of_packages]
        return cls(tuple(dict.fromkeys(folder for folder in folders if folder is not None)))

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
        if not is_name(name):
            return None
        path = next((f for folder in self.folders if (f := folder / group / f"{name}.yaml").is_file()), None)
        if path is None:
            return None
        made = OmegaConf.to_container(read_yaml(path)[1])
        if not isinstance(made, dict):
            raise UserError(f"{path}: keys and values are expected")
        return {str(key): value for key, value in made.items()}


def is_name(name: str) -> bool:
    """Whether a text can be a file's name in a group, ``NAME`` or ``FOLDER/NAME``: it never leads out of the group."""
    return len(name) <= _LONGEST and _NAME.fullmatch(name) is not None


def _folder(entry: str) -> Path | None:
    """The folder of a search path's entry, absolute; None where there is none."""
    scheme, _, place = entry.rpartition("://")
    if scheme == "pkg":
        first, *rest = place.split(".")
        try:
            spec = importlib.util.find_spec(first)  # of a top-level package: imports nothing
        except (ImportError, ValueError):
            return None
        roots = [] if spec is None else [Path(root) for root in spec.submodule_search_locations or ()]
        return next((path for root in roots if (path := root.joinpath(*rest)).is_dir()), None)
    path = Path(place).expanduser().absolute()
    return path if scheme in ("", "file", SCHEME) and path.is_dir() else None


def describe(file: Path) -> str:
    """The first comment line of a configuration file that is not one of Hydra's ``# @`` headers."""
    try:
        content = read_regular(file, LARGEST_FILE).decode(errors="replace")
    except UserError as error:  # one file that cannot be read does not hide the others
        return f"({error})"
    for line in content.splitlines():
        text = line.strip()
        if text.startswith("#") and not text.lstrip("# ").startswith("@"):
            return plain(text.lstrip("# "))
        if text and not text.startswith("#"):
            break
    return ""


def listing(groups: list[str], catalogue: Catalogue) -> str:
    """A plain-text table of these groups, or of all groups where none is given.

    Raises:
        UserError: There is no such group.
    """
    for group in groups:
        if group not in GROUPS:
            raise UserError(f"list {group!r}: no such group{nearest(group, GROUPS)}; there are: {', '.join(GROUPS)}")
    blocks = []
    for group in groups or list(GROUPS):
        files = {plain(name): file for name, file in catalogue.files(GROUPS[group]).items()}
        width = max((len(name) for name in files), default=0)
        lines = [f"  {name:<{width}}  {describe(file)}" for name, file in files.items()]
        chosen = _CHOSEN.get(group, f"{GROUPS[group]}=NAME")
        blocks.append("\n".join([f"{group} ({chosen})", *lines]))
    return "\n\n".join(blocks)
