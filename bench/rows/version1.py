"""Rows of version 1, and what they mean in version 2.

Version 1 had no field ``schema``, called the training's key ``config_hash``, and knew columns by name instead of rank.
"""

from typing import Any

__all__ = ["rank_of", "upgraded"]

# The places of the columns of version 1; metrics declare theirs since.
_RANKS = {
    "log_likelihood": 10, "bits_per_dim": 20, "fid": 30, "is": 40, "support": 50,
    "parameters": 200, "train_seconds": 210, "train_examples_per_second": 220, "samples_per_second": 230,
    "nfe_log_weight": 240, "nfe_sample": 250, "series_terms": 260,
}  # fmt: skip
_DIRECTED, _UNDIRECTED = 100, 300


def rank_of(metric: str, higher_is_better: bool | None) -> int:
    """The rank of a metric of version 1; ``fid[mnist-cnn]`` has that of ``fid``."""
    return _RANKS.get(metric.split("[", 1)[0], _UNDIRECTED if higher_is_better is None else _DIRECTED)


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """The stored fields of a row of version 1 as those of version 2. Wrong types stay, for the reader to refuse.

    Raises:
        ValueError: The record has fields that version 1 does not know.
    """
    newer = {"schema": 2, "measuring_key": "", "stderr_test": None, "stderr_draws": None}
    foreign = sorted(record.keys() & {"training_key", "rank", *newer})
    if foreign:
        raise ValueError(f"the field schema is missing, but {foreign} belong to version 2 or later")
    made = record | newer
    if "config_hash" in made:
        made["training_key"] = made.pop("config_hash")
    metric, direction = made.get("metric"), made.get("higher_is_better")
    if isinstance(metric, str) and (direction is None or isinstance(direction, bool)):
        made["rank"] = rank_of(metric, direction)
    return made
