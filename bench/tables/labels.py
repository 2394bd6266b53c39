"""What lines are called: the model's name, and what tells apart the lines that share it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.tables.model import Line

__all__ = ["labelled"]

_LONGEST = 60  # characters that tell configurations apart; the hash is shorter


def labelled(lines: list[Line], configs: Mapping[str, list[str]]) -> tuple[Line, ...]:
    """Lines with labels that tell them apart: ``realnvp hidden=32``, or ``realnvp #a801f2`` where rows do not say.

    Arguments:
        configs: The configurations that the rows of each group state, as in ``ResultRow.config``.
    """
    show_checkpoint = len({line.checkpoint for line in lines if not line.external}) > 1
    groups: dict[str, list[str]] = {line.model: [] for line in lines}
    for line in lines:
        if line.group not in groups[line.model]:
            groups[line.model].append(line.group)
    telling = {model: _telling(names, configs) for model, names in groups.items()}
    made = []
    for line in lines:
        external = " (external samples)" if line.external else ""
        checkpoint = f" ({line.checkpoint})" if show_checkpoint and not line.external else ""
        made.append(replace(line, label=line.model + telling[line.model][line.group] + external + checkpoint))
    return tuple(made)


def _telling(groups: list[str], configs: Mapping[str, list[str]]) -> dict[str, str]:
    """What is added to the name of each group of one model."""
    if len(groups) == 1:
        return {groups[0]: ""}
    stated = {group: _stated(configs.get(group, [])) for group in groups}
    length = _distinct_length(groups)
    hashes = {group: f" #{group[:length]}" for group in groups}
    known = [group for group in groups if stated[group]]
    texts = _differences({group: stated[group] for group in known})
    listed = list(texts.values())
    # Two groups may state the same, and what they state may be long.
    return {
        group: texts[group]
        if group in texts and listed.count(texts[group]) == 1 and len(texts[group]) <= _LONGEST
        else hashes[group]
        for group in groups
    }


def _differences(stated: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The keys in which configurations differ, each with its value, those first that all of them have."""
    values = {key: [one.get(key, _ABSENT) for one in stated.values()] for one in stated.values() for key in one}
    differing = [key for key, found in values.items() if any(value != found[0] for value in found)]
    shared = [key for key in differing if _ABSENT not in values[key]]
    for keys in (shared, differing):
        last = [key.rpartition(".")[2] for key in keys]
        short = {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}
        texts = {
            group: "".join(f" {short[key]}={_shown(one[key])}" for key in keys if key in one)
            for group, one in stated.items()
        }
        if len(set(texts.values())) == len(texts):
            return texts
    return texts


_ABSENT = object()


def _stated(configs: list[str]) -> dict[str, Any]:
    """The keys of configurations of one group together; empty where none is stated, or it is no JSON object."""
    together: dict[str, Any] = {}
    for text in sorted(configs):
        try:
            found = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        together |= found
    return together


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _distinct_length(names: list[str]) -> int:
    """How many first characters, 6 or more, tell the names apart."""
    length = 6
    while len({name[:length] for name in names}) < len(names):
        length += 1
    return length
