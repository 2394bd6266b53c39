"""What is counted in bench_reliability.py, and how a folder of runs and their leaderboard is looked at."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.checkpoint import load_checkpoint
from bench.rows.store import read_rows
from bench.schema import ResultRow

__all__ = ["Result", "leftovers", "readable", "rows_of"]


@dataclass
class Result:
    """A line of the result; see bench_reliability.py."""

    test: str
    cases: int = 0
    lost: int = 0
    doubled: int = 0
    tracebacks: int = 0
    unreadable: int = 0
    silent: int = 0
    stuck: int = 0
    orphans: int = 0

    @property
    def bad(self) -> int:
        return sum(value for name, value in asdict(self).items() if name not in ("test", "cases"))


def numbers(rows: list[ResultRow]) -> Counter[tuple[object, ...]]:
    """What must come back: every row, with its value where that is no time."""
    return Counter(
        (row.training_key, row.checkpoint, row.metric, row.status, None if "second" in row.metric else row.value)
        for row in rows
    )


def readable(path: Path) -> bool:
    try:
        if path.suffix == ".ckpt":
            load_checkpoint(path)
        elif path.suffix == ".jsonl":
            read_rows(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                return all(arrays[name].size for name in arrays.files)
        elif path.suffix in (".csv", ".md", ".tex", ".png"):
            return path.stat().st_size > 0
    except Exception:
        return False
    return True


def leftovers(folder: Path) -> int:
    return sum(path.suffix in (".tmp", ".owner", ".taking") or ".staging-" in path.name for path in folder.rglob("*"))


def rows_of(folder: Path) -> tuple[Counter[tuple[object, ...]], Counter[tuple[object, ...]]]:
    """The rows in the runs' folders, and those of the leaderboard."""
    runs: list[ResultRow] = []
    for path in folder.glob("runs/*/*/rows.jsonl"):
        runs += [row for row in read_rows(path) if row.model_family != "data"]
    board = [row for path in folder.glob("results/rows/*.jsonl") for row in read_rows(path)]
    return numbers(runs), numbers([row for row in board if row.model_family != "data"])
