"""Hydra's errors as one line for the user."""

import re
from typing import Any

from hydra import compose
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from bench.config.catalogue import GROUPS, Catalogue
from bench.did_you_mean import nearest
from bench.errors import UserError

__all__ = ["explained"]


def explained(error: Exception, overrides: list[str], catalogue: Catalogue) -> UserError:
    """Turn an error of Hydra's into one line for the user."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = list(catalogue.files(group))
        listed = next((name for name, folder in GROUPS.items() if folder == group), None)
        where = f"there are: {', '.join(known)}" if listed is None else f"`genbench list {listed}` shows all"
        return UserError(f"{group} {name!r}: no such {group}{nearest(name, known)}; {where}")
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{error.full_key}: has no default; add {error.full_key}=VALUE")
    if isinstance(error, OverrideParseException):
        reason = text.splitlines()[1] if "\n" in text else text
        return UserError(f"cannot read {error.override!r} ({reason}); write KEY=VALUE, and quote spaces and brackets")
    asked = re.search(r"Could not override '([^']+)'", text)
    if asked:
        key = asked.group(1)
        group = key.split(".")[0]
        if any(re.match(rf"{group}=.*,", text) for text in overrides):
            advice = f"if all of the sweep have it, write ++{key}=VALUE"
            return UserError(f"{key}: not a key of the default {group}; {advice}")
        near = nearest(key, _known_keys(overrides))
        return UserError(f"{key}: no such key{near}; `genbench run --cfg job` shows all keys")
    if "must be a string or a list" in text:
        return UserError("a group cannot be null: give a name, as in model=vae, or names, as in metric=[likelihood]")
    if "Ambiguous value" in text or "--multirun" in text:
        return UserError(f"{text.splitlines()[0]}: add -m to run each of these values, or write KEY=[A,B] for a list")
    return UserError(" ".join(text.split())[:300])


def _known_keys(overrides: list[str]) -> list[str]:
    """Every key of the configuration, with the model and data set that were chosen."""
    chosen_by = ("model", "data", "trainer", "experiment", "hydra.searchpath")
    groups = [text for text in overrides if text.split("=")[0] in chosen_by]
    for chosen in (groups, []):
        try:
            config = compose("run", [text for text in chosen if "," not in text or text.startswith("hydra.")])
        except (HydraException, OmegaConfBaseException):
            continue
        keys: list[str] = []
        _collect_keys(OmegaConf.to_container(config), "", keys)
        return keys
    return []


def _collect_keys(node: Any, path: str, keys: list[str]) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            name = f"{path}.{key}" if path else str(key)
            keys.append(name)
            _collect_keys(value, name, keys)
