"""Runs of seconds from the command line, and what one leaves: its folder, rows, checkpoints and lines in the table."""

from pathlib import Path
from typing import Any

from bench.rows.store import read_rows
from bench.schema import ResultRow

__all__ = ["RUN", "TINY", "lines", "raising", "rows_of", "the_run", "trained_files"]

RUN = ["run", "model=linear", "data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64",
       "train.examples=640", "train.batch_size=32", "train.validate_every=320", "evaluate.n_samples=60"]  # fmt: skip
TINY = ["data=two_moons", "data.n_train=512", "data.n_val=64", "data.n_test=64", "metric=[likelihood,cost]",
        "train.examples=640", "train.validate_every=320", "evaluate.n_samples=32"]  # fmt: skip


def the_run(workplace: Path) -> Path:
    """The folder of the only run."""
    (folder,) = [path.parent for path in workplace.glob("runs/*/*/config.json")]
    return folder


def rows_of(folder: Path, model: str = "linear") -> list[ResultRow]:
    return [row for row in read_rows(folder / "rows.jsonl") if row.model == model]


def trained_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.ckpt")} | {
        "trained.json": (folder / "trained.json").read_bytes()
    }


def lines(workplace: Path, model: str = "linear") -> list[str]:
    text = (workplace / "results" / "leaderboard" / "two_moons.md").read_text()
    return [line for line in text.splitlines() if line.startswith(f"| {model}")]


def raising(error: BaseException | type[BaseException]) -> Any:
    """A function that raises this, whatever it is called with."""

    def stop(*_: Any) -> None:
        raise error

    return stop
