"""Publishing: of many processes at once, the last one's leaderboard holds every run."""

import json
import multiprocessing
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers_locks import RUN

from bench.cli.main import main
from bench.files import durable_write
from bench.locks import hold
from bench.rows.store import read_rows
from bench.tables.leaderboard import publish


def finish_a_run(place: str, number: int, start: Any) -> None:
    """Copy a run under another name and publish, many processes at once."""
    os.chdir(place)
    source = Path("one.jsonl").read_text()
    start.wait()
    folder = Path("runs/name") / str(number)
    folder.mkdir(parents=True)
    lines = [json.loads(line) | {"run_id": f"r{number}", "training_key": f"t{number}"} for line in source.splitlines()]
    durable_write(folder / "rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    publish(Path("runs/name"), Path("results"), "name")


def test_the_last_of_many_publishers_sees_every_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(RUN) == 0
    (rows,) = workplace.glob("runs/*/*/rows.jsonl")
    lines = [line for line in rows.read_text().splitlines() if json.loads(line)["model_family"] != "data"]
    (workplace / "one.jsonl").write_text("\n".join(lines) + "\n")
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    processes = [context.Process(target=finish_a_run, args=(str(workplace), n, start)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    published = read_rows(workplace / "results" / "rows" / "name.jsonl")
    assert {row.run_id for row in published} == {"r0", "r1", "r2", "r3"}


def test_a_publisher_waits_for_the_one_before_and_then_gathers(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that ends after another publisher has gathered the rows, and before it has written them, is not lost."""
    assert main(RUN) == 0
    assert main([*RUN, "seed=1"]) == 0
    runs = sorted(path for path in workplace.glob("runs/two_moons/*") if path.is_dir())
    held = runs[1].rename(workplace / "later")
    lock = workplace / "results" / ".lock"
    with lock.open("w") as file, hold(lock, file.fileno()):
        publisher = threading.Thread(target=publish, args=(Path("runs/two_moons"), Path("results"), "two_moons"))
        publisher.start()
        publisher.join(0.5)
        assert publisher.is_alive(), "it waits"
        held.rename(runs[1])
    publisher.join(60)
    published = read_rows(workplace / "results" / "rows" / "two_moons.jsonl")
    assert {row.seed for row in published if row.model_family != "data"} == {0, 1}
