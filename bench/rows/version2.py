"""Rows of version 2, and what they mean in version 3.

Version 2 had no ``load`` and no ``config``: how busy the machine was and what was configured is unknown of its rows.
Nor had it a ``sampling_seed``: every run drew its samples from its own seed.
"""

from typing import Any

__all__ = ["SINCE", "upgraded"]

SINCE: dict[str, Any] = {"load": None, "config": "", "sampling_seed": 0}
"""The fields that version 3 added, and what stands for them in an older row."""


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """The stored fields of a row of version 2 as those of version 3. Wrong types stay, for the reader to refuse.

    Raises:
        ValueError: The record has fields that version 2 does not know.
    """
    foreign = sorted(record.keys() & SINCE)
    if foreign:
        raise ValueError(f"fields do not match the schema: unknown {foreign}, which belong to version 3 or later")
    return record | SINCE | {"schema": 3}
