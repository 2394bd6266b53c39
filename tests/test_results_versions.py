"""Rows on disk: older and newer versions, migration, frames."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers_rows import FAILED, line_of, make_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.rows import migrate
from bench.rows.frame import load_rows, read_frame, to_frame
from bench.rows.store import collect, read_rows, write_rows
from bench.schema import Relation, ResultRow, Source, Status

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
