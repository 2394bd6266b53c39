"""Publishing: of many processes at once, the last one's leaderboard holds every run; what it shows of each."""

import dataclasses
import json
import multiprocessing
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers_locks import RUN
from helpers_rows import make_row

from bench.cli.main import main
from bench.files import durable_write
from bench.locks import hold
from bench.rows.store import read_rows, write_rows
from bench.schema import Relation, ResultRow
from bench.tables.aggregate import make_table
from bench.tables.leaderboard import _checkpoint, _main_numbers, _samples, publish


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


def test_a_comparison_shows_the_checkpoint_of_its_table(tmp_path: Path) -> None:
    row = make_row(config="")
    (tmp_path / "run").mkdir()
    write_rows(tmp_path / "run" / "rows.jsonl", [row])
    for name in ("final", "best"):
        (tmp_path / "run" / f"samples-{name}.npz").touch()
    files = [tmp_path / "run" / "rows.jsonl"]
    assert _samples(files, make_table([row])) == {("dcgan", "mnist5k"): tmp_path / "run" / "samples-best.npz"}
    both = [row, dataclasses.replace(row, checkpoint="final")]
    found = _samples(files, make_table(both, "both"))
    assert {label: path.stem for (label, _), path in found.items()} == {
        "dcgan (best)": "samples-best", "dcgan (final)": "samples-final"
    }  # fmt: skip


def test_both_checkpoints_are_lines_where_all_seeds_of_a_configuration_have_both() -> None:
    def row(group: str, seed: int, checkpoint: str) -> ResultRow:
        return make_row(group=group, seed=seed, training_key=f"{group}{seed}", checkpoint=checkpoint)

    whole = [row("a", 0, "best"), row("a", 0, "final"), row("a", 1, "best"), row("a", 1, "final")]
    other = [row("b", 0, "best")]
    assert _checkpoint([*whole, *other]) == "both"
    assert _checkpoint([*whole[:3], *other]) == "best"
    assert _checkpoint(other) == _checkpoint(whole[1::2]) == "best"


def test_the_number_below_a_picture_is_the_first_that_most_models_have() -> None:
    shared = {"extractor": "", "extractor_hash": "", "ci_low": None, "ci_high": None}
    rows = [
        make_row(metric="log_likelihood", metric_title="log-likelihood", unit="nats", higher_is_better=True,
                 value=-3.25, relation=Relation.EXACT, n_fake=None, **shared),
        make_row(metric="fid[pixels]", metric_title="FID[pixels]", value=7.0, relation=Relation.ESTIMATE, **shared),
    ]  # fmt: skip
    assert _main_numbers(make_table(rows)) == {("dcgan", "mnist5k"): "nats -3.25"}
    more = dataclasses.replace(rows[1], model="vae", group="v", run_id="v")
    assert set(_main_numbers(make_table([*rows, more])).values()) == {"FID ≈ 7"}
