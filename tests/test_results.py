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

import pandas as pd
import pytest
from helpers_rows import FAILED, make_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.files import durable_write, sweep_orphans
from bench.rows import migrate
from bench.rows.frame import load_rows, read_frame, to_frame
from bench.rows.store import collect, read_rows, write_rows
from bench.schema import Relation, ResultRow, Source, Status


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


def line_of(row: ResultRow) -> str:
    """Every stored field; a sampling seed of 0 is none."""
    left_out = {"more"} if row.sampling_seed else {"more", "sampling_seed"}
    return json.dumps({name: value for name, value in dataclasses.asdict(row).items() if name not in left_out})


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


# Versions

VERSION_1 = {
    "run_id": "r0", "config_hash": "c0", "group": "g0", "git_commit": "abc", "dirty": False, "model": "dcgan",
    "model_family": "gan", "n_params": 12, "dataset": "mnist5k", "data_revision": "d0", "split": "test", "seed": 0,
    "budget": "60000 examples", "examples_seen": 60000, "train_seconds": 12.5, "checkpoint": "best", "device": "cpu",
    "precision": "32", "versions": "torch 2.13.0", "metric": "fid[mnist-cnn]", "metric_title": "FID",
    "metric_version": 1, "extractor": "mnist-cnn", "extractor_hash": "e0", "n_real": 1000, "n_fake": 1000,
    "n_draws": None, "unit": "", "higher_is_better": False, "relation": None, "value": 12.25, "stderr": 0.5,
    "ci_low": 11.0, "ci_high": 13.5, "status": "ok", "reason": "", "source": "measured",
}  # fmt: skip


def test_a_row_of_version_1_is_read_and_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(VERSION_1) + "\n" + line_of(make_row(seed=1)) + "\n")
    rows = read_rows(path)
    assert rows == [make_row(), make_row(seed=1)]
    assert (rows[0].schema, rows[0].training_key, rows[0].measuring_key, rows[0].rank) == (3, "c0", "", 30)
    assert rows[0].stderr_test is rows[0].stderr_draws is None
    write_rows(path, rows)
    assert read_rows(path) == rows
    assert "config_hash" not in path.read_text()


def of_version_2(**changes: Any) -> str:
    row = json.loads(line_of(make_row()))
    return json.dumps({name: row[name] for name in row if name not in ("load", "config")} | {"schema": 2} | changes)


def test_rows_of_version_2_are_read_beside_those_of_today(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(of_version_2(seed=1) + "\n" + of_version_2(seed=2) + "\n")
    assert read_rows(path) == [make_row(seed=1), make_row(seed=2)]
    assert (make_row().schema, make_row().load, make_row().config) == (3, None, "")
    write_rows(tmp_path / "new.jsonl", [make_row(seed=3, load=0.75, config='{"model.hidden": 32}')])
    path.write_text(path.read_text() + (tmp_path / "new.jsonl").read_text())
    assert [row.load for row in read_rows(path)] == [None, None, 0.75]
    for change in ({"load": 1.0}, {"config": ""}, {"extra": 1}, {"seed": "0"}):
        path.write_text(of_version_2(**change) + "\n")
        with pytest.raises(UserError, match=r"rows\.jsonl:1: "):
            read_rows(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config_hash": None}, "training_key"), ({"seed": "0"}, "seed"), ({"value": math.nan}, "NaN"),
        ({"extra": 1}, "unknown"), ({"training_key": "t"}, "schema is missing"), ({"rank": 1}, "schema is missing"),
        ({"metric": 3}, "metric"), ({"higher_is_better": []}, "higher_is_better"),
    ],
)  # fmt: skip
def test_a_row_of_version_1_is_read_strictly(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(VERSION_1 | change) + "\n")
    with pytest.raises(UserError, match=rf"rows\.jsonl:1: .*{message}"):
        read_rows(tmp_path / "rows.jsonl")


def test_a_row_of_version_4_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    newer = {"energy": 1.5e-300, "tags": ["a: b", None, {"deep": -0.0}], "more": "ü", "large": 10**40}
    record = json.loads(line_of(make_row(metric="zeta", rank=7))) | {"schema": 4} | newer
    path.write_text(json.dumps(record) + "\n" + line_of(make_row()) + "\n")
    (row, plain) = read_rows(path)
    assert row == make_row(schema=4, metric="zeta", rank=7, more=row.more)
    assert json.loads(row.more) == newer
    assert plain.more == ""
    write_rows(path, [row, plain])
    assert read_rows(path) == [row, plain]
    assert json.loads(path.read_text().splitlines()[0]) == record
    assert to_frame([row, plain])["more"].tolist() == [row.more, ""]


def test_a_newer_row_must_still_be_a_row(tmp_path: Path) -> None:
    for record in ({"seed": "0"}, {"source": "dreamt"}, {"schema": 3}, {"schema": 2}):
        text = json.dumps(json.loads(line_of(make_row())) | {"schema": 4, "extra": 1} | record)
        (tmp_path / "rows.jsonl").write_text(text + "\n")
        with pytest.raises(UserError, match=r"rows\.jsonl:1: "):
            read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("more", ["{}", "[1]", "x", '{"seed": 1}', '{"a":1}', '{"a": NaN}', '{"a": 1, "a": 1}'])
def test_columns_that_would_not_come_back_are_not_written(tmp_path: Path, more: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the messages differ
        write_rows(tmp_path / "rows.jsonl", [make_row(schema=4, more=more)])
    with pytest.raises(ValueError, match="unknown"):
        write_rows(tmp_path / "rows.jsonl", [make_row(schema=3, more='{"a": 1}')])
    assert not (tmp_path / "rows.jsonl").exists()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COLUMNS = st.dictionaries(
    TEXTS.filter(lambda name: name not in ResultRow.columns()[:-1]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | NUMBERS | TEXTS,
        lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXTS, children, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)


@st.composite
def rows_of_any_kind(draw: st.DrawFn) -> ResultRow:
    columns = draw(COLUMNS)
    whole, maybe = st.integers(-(2**63) + 1, 2**63 - 1), st.none() | NUMBERS
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    status = draw(st.sampled_from(Status))
    return make_row(
        schema=draw(st.integers(4, 2**62)) if columns else draw(st.integers(3, 4)),
        **{name: draw(TEXTS) for name in ("run_id", "training_key", "measuring_key", "model", "metric", "reason")},
        **{name: draw(whole) for name in ("seed", "rank", "examples_seen", "metric_version")},
        **{name: draw(st.none() | whole) for name in ("n_params", "n_real", "n_draws")},
        **{name: draw(st.none() | st.booleans()) for name in ("dirty", "higher_is_better")},
        **{name: draw(maybe.map(lambda x: x and abs(x))) for name in ("stderr", "stderr_test", "stderr_draws")},
        relation=draw(st.none() | st.sampled_from(Relation)), source=draw(st.sampled_from(Source)),
        status=status, value=draw(NUMBERS) if status is Status.OK else None,
        ci_low=draw(st.sampled_from([None, low])), ci_high=draw(st.sampled_from([None, high])),
        more=json.dumps(columns, ensure_ascii=False) if columns else "",
    )  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows_of_any_kind(), max_size=3))
def test_what_is_written_is_read_whatever_the_rows(tmp_path: Path, rows: list[ResultRow]) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, rows)
    again = read_rows(path)
    assert again == rows
    assert [repr(row) for row in again] == [repr(row) for row in rows]  # -0.0 and 0.0 are equal
    content = path.read_bytes()
    write_rows(path, again)
    assert path.read_bytes() == content


def test_a_hand_made_row_may_leave_out_what_has_a_default(tmp_path: Path) -> None:
    record = {
        "schema": 2, "run_id": "paper", "training_key": "", "group": "paper", "model": "glow", "model_family": "flow",
        "dataset": "cifar10", "data_revision": "d0", "split": "test", "seed": 0, "metric": "bits_per_dim",
        "higher_is_better": False, "value": 3.35, "status": "ok", "source": "quoted",
    }  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(record) + "\n")
    (row,) = read_rows(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text(json.dumps(record | {"value": 3, "train_seconds": 7}) + "\n")
    (whole,) = read_rows(tmp_path / "rows.jsonl")
    assert (repr(whole.value), repr(whole.train_seconds)) == ("3.0", "7.0")
    assert (row.checkpoint, row.rank, row.metric_version, row.n_real, row.stderr) == ("best", 100, 1, None, None)
    for name in record:
        rest = {key: value for key, value in record.items() if key != name}
        (tmp_path / "rows.jsonl").write_text(json.dumps(rest) + "\n")
        with pytest.raises(UserError, match=rf"rows\.jsonl:1: .*missing.*{'' if name == 'schema' else name}"):
            read_rows(tmp_path / "rows.jsonl")


def test_the_committed_rows_are_of_this_version_and_migrating_them_changes_nothing(tmp_path: Path) -> None:
    files = sorted((Path(__file__).parents[1] / "results" / "rows").glob("*.jsonl"))
    assert files
    copies = [tmp_path / file.name for file in files]
    for file, copy in zip(files, copies, strict=True):
        copy.write_bytes(file.read_bytes())
    assert migrate.main(map(str, copies)) == 0  # type: ignore[arg-type]
    assert [copy.read_bytes() for copy in copies] == [file.read_bytes() for file in files]


def test_migration_rewrites_version_1_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, broken = tmp_path / "old.jsonl", tmp_path / "broken.jsonl"
    old.write_text(json.dumps(VERSION_1) + "\n")
    broken.write_text("{}\n")
    assert migrate.main([str(old)]) == 0
    migrated = old.read_bytes()
    assert json.loads(migrated)["schema"] == 3
    assert read_rows(old) == [make_row()]
    assert migrate.main([str(old), str(broken)]) == 2
    assert old.read_bytes() == migrated
    assert broken.read_text() == "{}\n"
    assert "broken.jsonl:1: " in capsys.readouterr().err


def test_migration_makes_the_resampler_a_control_and_changes_no_other_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    others = [make_row(run_id="a", model="gaussian", model_family="baseline"), make_row(run_id="b", model="resampler")]
    resampler = make_row(run_id="c", model="resampler", model_family="baseline")
    write_rows(file, [*others, resampler])
    assert migrate.main([str(file)]) == 0
    assert read_rows(file) == [*others, dataclasses.replace(resampler, model_family="control")]


def test_the_last_measurement_wins_whatever_its_run(tmp_path: Path) -> None:
    rows = [
        make_row(run_id="a", measuring_key="m", value=12.0), make_row(run_id="b", measuring_key="m", n_fake=7),
        make_row(run_id="b", measuring_key="m2"), make_row(run_id="b", measuring_key="m", checkpoint="final"),
        make_row(run_id="b", measuring_key="m", metric="kid"), make_row(training_key="t", measuring_key="m"),
        make_row(run_id="b"), make_row(run_id="b", source=Source.EXTERNAL_SAMPLES, value=13.0), make_row(run_id="c"),
    ]  # fmt: skip
    write_rows(tmp_path / "rows.jsonl", rows)
    kept = [*rows[1:6], *rows[7:]]  # the two rows without a key, of one run and protocol, are one number
    assert collect([tmp_path]) == kept
    pd.testing.assert_frame_equal(read_frame([tmp_path]), to_frame(kept), check_categorical=False)


# Frames


def test_a_frame_holds_what_rows_hold(tmp_path: Path) -> None:
    rows = [
        make_row(run_id=f"r{seed}", seed=seed, value=seed / 7 if seed % 3 else -0.0, n_real=[None, 2**62 + 1][seed % 2],
                 relation=[None, *Relation][seed % 5], dirty=[None, True, False][seed % 3], ci_low=None, ci_high=None)
        for seed in range(2000)
    ]  # fmt: skip
    write_rows(tmp_path / "a.jsonl", [make_row(**FAILED, reason="x: y", n_real=None), *rows[:1500]])
    write_rows(tmp_path / "b.jsonl", rows[1500:])
    frame = load_rows(tmp_path)
    assert list(frame.columns) == ResultRow.columns()
    everything = collect([tmp_path])
    assert len(frame) == len(everything) == 2000  # the failed row is the number of seed 0, measured again
    for name in ResultRow.columns():
        expected = [getattr(row, name) for row in everything]
        assert [None if pd.isna(value) else value for value in frame[name]] == expected, name
    assert {str(kind) for kind in frame.dtypes} <= {"str", "object", "int64", "Int64", "float64", "boolean"}
    assert all(type(text) is str for name in ("status", "source", "model") for text in frame[name])
    small = read_frame([tmp_path])
    assert {name for name in small if small[name].dtype == "category"} == {
        name for name in frame if str(frame[name].dtype) in ("str", "object")
    }


def test_mistakes_are_found_on_the_right_line_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [make_row(seed=seed, reason="x" * (seed % 5) * 1000) for seed in range(1000)]
    rows[500] = make_row(seed=500, reason="y" * 900_000)
    write_rows(path, rows)
    lines = path.read_bytes().splitlines(keepends=True)
    assert read_rows(path) == rows
    for place in (0, 1, 499, 501, 999):
        for mistake in (b"\n", b"{}\n", lines[3][:-2] + b', "seed": 3}\n', b"z" * (1 << 20) + b"\n"):
            path.write_bytes(b"".join([*lines[:place], mistake, *lines[place:]]))
            for read in (read_rows, load_rows):
                with pytest.raises(UserError, match=rf"rows\.jsonl:{place + 1}: "):
                    read(path)


@pytest.mark.parametrize("layout", ["{0}{1}\n", "{0} {1}\n", "\n{0}\n{1}\n", "{0}\n\n{1}\n", "{2}\n{0}{1}\n"])
def test_each_line_is_one_row(tmp_path: Path, layout: str) -> None:
    one, other, third = (line_of(make_row(seed=seed)) for seed in range(3))
    (tmp_path / "rows.jsonl").write_text(layout.format(one, other, third.replace('"group"', '\n"group"')))
    with pytest.raises(UserError, match=r"rows\.jsonl:\d: "):
        read_rows(tmp_path / "rows.jsonl")
