"""Hydra's errors as one line for the user."""

import re
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException, MissingConfigException
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
        where = f"; there are: {', '.join(known)}" if known else ""
        if listed is not None:
            where = f"; `genbench list {listed}` shows all"
        return UserError(f"{group} {name!r}: no such {group}{nearest(name, known)}{where}")
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{error.full_key}: has no default; add {error.full_key}=VALUE")
    asked = re.search(r"Could not override '([^']+)'", text)
    if asked:
        key = asked.group(1)
        group = key.split(".")[0]
        swept = None if key == group else next((text for text in overrides if re.match(rf"{group}=.*,", text)), None)
        if swept is not None:
            return UserError(f"{key}: not a key of the default {group}; {_of_sweep(key, group, swept, catalogue)}")
        known = _known_keys(overrides)
        if key in known:
            return UserError(f"{key}: is a group of keys; {_choosing(key, catalogue)}")
        near = nearest(key, known)
        return UserError(f"{key}: no such key{near}; `genbench run --cfg job` shows all keys")
    again = re.search(
        r"Multiple values for ([\w/@]+)\.|force-add of config groups is not supported: '\+\+([\w/@]+)=", text
    )
    if again:
        key = again.group(1) or again.group(2)
        return UserError(f"{key}: is chosen already; without the + {_choosing(key, catalogue)}")
    gone = re.search(r"Could not delete '([^'=]+)(?:=([^']*))?'", text)
    if gone:
        key = gone.group(1)
        what = "there is nothing to take away" if gone.group(2) is None else f"{gone.group(2)} is not what is chosen"
        return UserError(f"~{key}: {what}; {_choosing(key, catalogue)}")
    container = re.search(r"node `([\w.]+)` is not a container and thus cannot contain `(\w+)`", text)
    if container:
        key, inner = container.groups()
        return UserError(f"{key}: keys and values are expected; write {key}.{inner}=VALUE")
    if any(re.match(r"\+{0,2}hydra=", text) for text in overrides):
        return UserError("hydra: is a group of keys; write hydra.KEY=VALUE, as in hydra.mode=MULTIRUN")
    if "must be a string or a list" in text:
        return UserError("a group cannot be null: give a name, as in model=vae, or names, as in metric=[likelihood]")
    if "Error merging override hydra.mode" in text:
        return UserError("hydra.mode: RUN or MULTIRUN is expected; -m is short for hydra.mode=MULTIRUN")
    words = " ".join(text.split())[:300]
    if isinstance(error, HydraException | OmegaConfBaseException):
        return UserError(words)
    return UserError(
        f"cannot compose {' '.join(overrides)[:200]} ({type(error).__name__}: {words}); leave out what is new"
    )


def _of_sweep(key: str, group: str, swept: str, catalogue: Catalogue) -> str:
    """What to do where a sweep over a group has a key that the default lacks. A file with defaults may have any key."""
    names = [name for name in re.split(r"[,()]|^\w+=|\bchoice\b", swept) if name in catalogue.files(group)]
    nodes = {name: catalogue.stored(group, name) or {} for name in names}
    inner = key.split(".")[1]
    have = [name for name, node in nodes.items() if inner in node or "defaults" in node]
    if have and len(have) < len(names):
        return f"of the sweep only {', '.join(have)} can have it; with it, run only that"
    if names and not have:
        known = [f"{group}.{one}" for node in nodes.values() for one in node]
        return (
            f"none of the sweep has it{nearest(key, known)}; `genbench run {group}={names[0]} --cfg job` shows its keys"
        )
    return f"if all of the sweep have it, write ++{key}=VALUE"


def _choosing(key: str, catalogue: Catalogue) -> str:
    """How another value of a key is chosen."""
    names = catalogue.files(key.partition("@")[0])
    if not names:
        return f"write {key}.KEY=VALUE; `genbench run --cfg job` shows all keys"
    listed = next((f"; `genbench list {name}` shows all" for name, folder in GROUPS.items() if folder == key), "")
    several = key in ("metric", "probe")
    return f"write {key}={'[NAME]' if several else 'NAME'}, as in {key}={_first(names, several)}{listed}"


def _first(names: dict[str, Path], several: bool) -> str:
    name = next((name for name in ("likelihood", "vae", "mnist5k") if name in names), next(iter(names)))
    return f"[{name}]" if several else name


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
