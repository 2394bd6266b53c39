"""Runs that are made up, and running several at a time."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from bench.config.launching import Launching
from bench.config.spec import RunSpec
from bench.runs.board import Board
from bench.runs.folder import Outcome
from bench.runs.jobs import run_jobs

__all__ = ["made_up", "run_all"]


def made_up(does: str, seed: int = 0, accelerator: str = "cpu", **launching: object) -> RunSpec:
    """The specification of a run that does something."""
    node = {"_target_": "x.Y"}
    config = {
        "name": does, "seed": seed, "rerun": False, "data": node, "model": node, "metric": {"a": node}, "train": {},
        "trainer": {"accelerator": accelerator}, "evaluate": {}, "logger": None, "trust": [], "runs_dir": "runs",
        "results_dir": "results", "choices": {"model": "m", "data": "d"},
    }  # fmt: skip
    return replace(RunSpec.parse(config), launching=Launching(**launching))  # type: ignore[arg-type]


def run_all(specs: list[RunSpec], jobs: int) -> dict[str, Outcome]:
    """Run them side by side, without a picture of it; the outcomes by run id."""
    return run_jobs(specs, jobs, Board(specs, specs, jobs, Console(file=StringIO())))
