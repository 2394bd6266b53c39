"""Rows on disk: round trips, strict reading, torn tails, many writers, durable replacement."""

import dataclasses
import errno
import fcntl
import json
import logging
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers_rows import FAILED, line_of, make_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.files import durable_write, sweep_orphans
from bench.rows.frame import read_frame
from bench.rows.store import collect, read_rows, write_rows
from bench.schema import Relation, ResultRow, Status


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    rows = [
        make_row(),
        make_row(value=0.1 + 0.2, stderr=5e-324, ci_low=None, ci_high=None, relation=Relation.LOWER_BOUND, n_draws=64),
        make_row(value=0.0, stderr=0.0, ci_low=-0.0, ci_high=1.7976931348623157e308, seed=-1, dirty=None),
        make_row(**FAILED, reason='ein "Grund"\nmit ≥ und \\ und \u2028', n_params=None, higher_is_better=None),
    ]
    path = tmp_path / "rows.jsonl"
    write_rows(path, rows)
    again = read_rows(path)
    assert again == rows
    assert repr(again[2].ci_low) == "-0.0"
    assert isinstance(again[1].relation, Relation)
    assert isinstance(again[3].status, Status)
    # Columns of newer versions, in the last field, are stored as columns.
    without = [name for name in ResultRow.columns() if name != "sampling_seed"]  # 0 is left out
    assert [*json.loads(path.read_text().splitlines()[0]), "more"] == without


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    value=st.floats(allow_nan=False, allow_infinity=False),
    seed=st.integers(-(2**63) + 1, 2**63 - 1),
)
def test_round_trip_of_any_row(tmp_path: Path, text: str, value: float, seed: int) -> None:
    row = make_row(model=text, reason=text, value=value, seed=seed)
    write_rows(tmp_path / "rows.jsonl", [row])
    assert read_rows(tmp_path / "rows.jsonl") == [row]


@pytest.mark.parametrize(
    "changes",
    [
        {"value": math.nan}, {"stderr": math.inf}, {"ci_low": -math.inf}, {"train_seconds": math.nan}, {"value": None},
        {"status": Status.FAILED}, {"status": "ok"}, {"seed": True}, {"seed": 1.0}, {"seed": 2**63}, {"dirty": 1},
        {"model": None}, {"model": b"x"}, {"model": "\ud800"}, {"relation": "exact"}, {"stderr": -1.0},
        {"ci_low": 2.0, "ci_high": 1.0}, {"value": "1"}, {"value": True}, {"reason": "x" * (1 << 20)},
    ],
)  # fmt: skip
def test_a_row_that_breaks_the_schema_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [make_row()])
    with pytest.raises(ValueError):  # noqa: PT011 - the messages differ, what matters is that nothing is written
        write_rows(path, [make_row(), make_row(**changes)])
    assert read_rows(path) == [make_row()]


def edited(**changes: Any) -> str:
    write = {name: str(value) if isinstance(value, Status) else value for name, value in changes.items()}
    return json.dumps(json.loads(line_of(make_row())) | write)


BAD_LINES = {
    "empty line": "",
    "not JSON": "model,value",
    "array": "[1, 2]",
    "number": "3",
    "NaN": edited(value=math.nan),
    "infinity": edited(stderr=-math.inf),
    "overflow": line_of(make_row()).replace("12.25", "1e999"),
    "huge integer": line_of(make_row()).replace('"seed": 0', '"seed": 1' + "0" * 40),
    "endless integer": line_of(make_row()).replace('"seed": 0', '"seed": 1' + "0" * 5000),
    "huge integer value": line_of(make_row()).replace("12.25", "1" + "0" * 400),
    "value of a failure": edited(status="failed"),
    "ok without value": edited(value=None),
    "unknown status": edited(status="fine"),
    "list for status": edited(status=[]),
    "unknown relation": edited(relation="≥"),
    "null source": edited(source=None),
    "string for number": edited(value="12.25"),
    "bool for integer": edited(seed=False),
    "float for integer": edited(seed=0.0),
    "integer for bool": edited(dirty=0),
    "nested": edited(reason={"a": 1}),
    "lone surrogate": edited(reason="\ud800"),
    "doubled key": line_of(make_row())[:-1] + ', "seed": 1}',
    "missing field": json.dumps({k: v for k, v in json.loads(line_of(make_row())).items() if k != "group"}),
    "unknown field": edited(extra=1),
    "columns of newer versions in a text": edited(more='{"extra": 1}'),
    "version of the past": edited(schema=1),
    "version that is no number": edited(schema="4", extra=1),
    "infinity in a newer column": edited(schema=4, extra=0).replace('"extra": 0', '"extra": [1e999]'),
    "doubled key in a newer column": edited(schema=4, extra=0).replace('"extra": 0', '"extra": {"a": 1, "a": 1}'),
    "doubled key behind an escape": line_of(make_row())[:-1] + ', "se\\u0065d": 1}',
    "doubled key with colons in the texts": edited(reason="a: b: c")[:-1] + ', "seed": 1}',
    "doubled key and a missing field": line_of(make_row()).replace('"device": "cpu"', '"seed": 0'),
    "standard error below 0": edited(stderr_draws=-1e-9),
    "deep": "[" * 200_000,
    "deep object": '{"a":' * 100_000,
    "long": edited(reason="x" * (1 << 20)),
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
@pytest.mark.parametrize("after", ["", line_of(make_row()) + "\n"], ids=["last", "within"])
def test_strict_reading_names_file_and_line(tmp_path: Path, line: str, after: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line_of(make_row()) + "\n" + line + "\n" + after)
    with pytest.raises(UserError, match=r"rows\.jsonl:2: ") as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("content", [b"hello", b"\xff\xfe", b"[1"])
def test_what_never_was_a_row_is_no_torn_row(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.jsonl:1"):
        read_rows(tmp_path / "x.jsonl")


def test_truncation_at_every_byte_keeps_every_whole_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [make_row(seed=seed, reason="≥ ü 漢 \U0001d52d") for seed in range(2)]
    path = tmp_path / "rows.jsonl"
    write_rows(path, rows)
    content = path.read_bytes()
    lengths = [len(line) for line in content.split(b"\n")[:-1]]
    torn = tmp_path / "torn.jsonl"
    for cut in range(len(content) + 1):
        whole, rest = 0, cut
        while whole < 2 and rest >= lengths[whole]:
            rest -= lengths[whole] + 1
            whole += 1
        caplog.clear()
        torn.write_bytes(content[:cut])
        with caplog.at_level(logging.WARNING):
            assert read_rows(torn) == rows[:whole], cut
        assert len(caplog.records) == (rest > 0), cut


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ["missing.jsonl", "pipe", "."]:
        with pytest.raises(UserError, match=r"cannot be read|is not a regular file"):
            read_rows(tmp_path / name)
    with open(tmp_path / "huge.jsonl", "wb") as file:
        file.truncate((1 << 28) + 1)
    with pytest.raises(UserError, match="at most 268,435,456 are read"):
        read_rows(tmp_path / "huge.jsonl")
    for nothing in ["missing", "missing*", "n" * 5000]:
        with pytest.raises(UserError, match="no such file"):
            collect([tmp_path / nothing])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \*.jsonl"):
        collect([tmp_path / "empty"])


def test_collect_takes_files_folders_and_patterns_each_file_once(tmp_path: Path) -> None:
    for seed in range(3):
        (tmp_path / f"run{seed}").mkdir()
        write_rows(tmp_path / f"run{seed}" / "rows.jsonl", [make_row(run_id=f"r{seed}", seed=seed)])
    everything = collect([tmp_path])
    assert sorted(row.seed for row in everything) == [0, 1, 2]
    assert collect([tmp_path / "run*"]) == everything
    assert collect([tmp_path / "run?" / "rows.jsonl", tmp_path, tmp_path / "run1" / ".." / "run0"]) == everything
    assert collect([tmp_path / "run1" / "rows.jsonl"]) == [make_row(run_id="r1", seed=1)]


def test_one_training_under_two_models_names_is_kept_under_both(tmp_path: Path) -> None:
    rows = [make_row(model=model, run_id=model, measuring_key="m", training_key="t") for model in ("wgan", "mine")]
    for row in rows:
        (tmp_path / row.model).mkdir()
        write_rows(tmp_path / row.model / "rows.jsonl", [row])
    assert sorted(row.model for row in collect([tmp_path])) == ["mine", "wgan"]
    assert sorted(read_frame([tmp_path])["model"]) == ["mine", "wgan"], "genbench table reads a frame"


def test_the_last_row_of_a_run_wins(tmp_path: Path) -> None:
    rows = [make_row(value=1.0), make_row(value=2.0), make_row(value=3.0, n_fake=500), make_row(checkpoint="final")]
    rows = [dataclasses.replace(row, ci_low=None, ci_high=None) for row in rows]
    write_rows(tmp_path / "a.jsonl", rows)
    assert collect([tmp_path]) == rows[1:]


def test_ten_thousand_rows_are_read_in_well_under_a_second(tmp_path: Path) -> None:
    rows = [make_row(seed=seed, value=seed / 7, ci_low=None, ci_high=None) for seed in range(10_000)]
    start = time.process_time()
    write_rows(tmp_path / "rows.jsonl", rows)
    written = time.process_time()
    assert read_rows(tmp_path / "rows.jsonl") == rows
    # Four times what it takes on a quiet core.
    assert written - start < 2.5
    assert time.process_time() - written < 2.5


def write_own_file(folder: Path, writer: int) -> None:
    for count in range(1, 21):
        rows = [make_row(run_id=f"w{writer}", seed=seed) for seed in range(count)]
        write_rows(folder / f"{writer}.jsonl", [dataclasses.replace(r, run_id=f"w{writer}-{r.seed}") for r in rows])
        sweep_orphans(folder)


def test_eight_writers_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_own_file, args=(tmp_path, writer)) for writer in range(8)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert [process.exitcode for process in writers] == [0] * 8
    assert {row.run_id for row in collect([tmp_path])} == {f"w{w}-{s}" for w in range(8) for s in range(20)}
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.parametrize("call", ["open", "fsync", "replace", "write"])
def test_an_error_leaves_the_old_file_and_no_orphan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "x"
    durable_write(path, "old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if call == "write":
        import resource

        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            with pytest.raises(UserError, match="too large"):
                durable_write(path, "new" * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
    else:
        monkeypatch.setattr(os, call, fail)
        with pytest.raises(UserError, match="No space left"):
            durable_write(path, b"new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_flushed_before_the_rename_and_its_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(descriptor: int) -> None:
        events.append("directory" if os.path.samestat(os.fstat(descriptor), os.stat(tmp_path)) else "file")
        fsync(descriptor)

    def watch_replace(source: Path, target: Path) -> None:
        assert Path(source).parent == Path(target).parent
        assert Path(source).read_text() == "new"
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    durable_write(tmp_path / "x", "new")
    assert events == ["file", "rename", "directory"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    durable_write(tmp_path / "durable", "")
    assert (tmp_path / "durable").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        durable_write(tmp_path / "missing" / "x", "")


KILLED_WRITER = """
import os, sys, time
from bench.files import durable_write
os.replace = lambda *_: (print("in", flush=True), time.sleep(60))
durable_write(sys.argv[1], "new")
"""


def test_orphans_of_the_killed_are_swept_and_living_writers_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    durable_write(path, "old")
    (tmp_path / ".genbench-notes").write_text("not a temporary file")
    with subprocess.Popen([sys.executable, "-c", KILLED_WRITER, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert sweep_orphans(tmp_path) == []
        writer.kill()
    assert len(list(tmp_path.iterdir())) == 3
    assert len(sweep_orphans(tmp_path)) == 1
    assert path.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == [".genbench-notes", "x"]


def test_a_sweeper_that_comes_before_the_lock_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock
    swept: list[None] = []

    def sweep_first(descriptor: int, operation: int) -> None:
        if not swept:
            swept.append(None)
            monkeypatch.setattr(fcntl, "flock", lock)
            assert len(sweep_orphans(tmp_path)) == 1
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    durable_write(tmp_path / "x", "new")
    assert swept
    assert (tmp_path / "x").read_text() == "new"


def test_a_table_is_not_taken_for_rows(tmp_path: Path) -> None:
    (tmp_path / "board.csv").write_text("dataset,model\nmnist,vae\n")
    with pytest.raises(UserError, match=r"is a table made from rows; give the rows"):
        collect([tmp_path / "board.csv"])
