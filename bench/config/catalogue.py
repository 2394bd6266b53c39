"""What there is to choose from: every YAML in conf with its one-line description. Imports no torch, reads no Python."""

from pathlib import Path

import conf
from bench.did_you_mean import nearest
from bench.errors import UserError

__all__ = ["GROUPS", "describe", "listing"]

GROUPS = {"models": "model", "data": "data", "metrics": "metric", "experiments": "experiment", "trainers": "trainer"}


def describe(file: Path) -> str:
    """The first comment line of a configuration file that is not one of Hydra's ``# @`` headers."""
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#") and not text.lstrip("# ").startswith("@"):
            return text.lstrip("# ")
        if text and not text.startswith("#"):
            break
    return ""


def listing(groups: list[str], folder: Path | None = None) -> str:
    """A plain table of the asked groups (all without any)."""
    root = Path(conf.__file__).parent if folder is None else folder
    for group in groups:
        if group not in GROUPS:
            raise UserError(f"list {group!r}: no such group{nearest(group, GROUPS)}; there are: {', '.join(GROUPS)}")
    blocks = []
    for group in groups or list(GROUPS):
        files = sorted((root / GROUPS[group]).glob("*.yaml"))
        width = max((len(file.stem) for file in files), default=0)
        lines = [f"  {file.stem:<{width}}  {describe(file)}" for file in files]
        blocks.append("\n".join([f"{group} ({GROUPS[group]}=NAME)", *lines]))
    return "\n\n".join(blocks)
