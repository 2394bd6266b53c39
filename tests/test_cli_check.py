"""genbench check as it is typed: files, exit codes, reports, and what strangers' files do."""

import argparse
import csv
import fcntl
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from helpers_gate import board, failed, rows_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.cli.check import add_arguments
from bench.cli.main import main
from bench.errors import UserError
from bench.gate.as_csv import from_csv, to_csv
from bench.gate.history import change_point
from bench.gate.items import items_of
from bench.gate.report import MOST_BYTES, to_summary
from bench.gate.verdict import judge
from bench.rows.store import read_rows, write_rows
from bench.schema import Source

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_rows("base.jsonl", board())
    write_rows("same.jsonl", board(stream=1))
    write_rows("worse.jsonl", board(stream=1, worse=12.0))
    return tmp_path


def check(*arguments: str) -> int:
    return main(["check", *arguments])


def test_exit_codes_and_lines(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("same.jsonl", "--baseline", "base.jsonl") == 0
    assert check("worse.jsonl", "--baseline", "base.jsonl") == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("regression ") and "model0 on mnist5k: fid[mnist-cnn]" in line for line in lines)
    assert lines[-1] == "4 regression"
    judged = [line for line in lines if line.startswith(("pass ", "regression "))]
    assert len(judged) == 8
    assert all("would be seen in 80 of 100 cases" in line for line in judged)
    write_rows("half.jsonl", [row for row in board(stream=1) if row.model == "model0"])
    assert check("half.jsonl", "--baseline", "base.jsonl") == 3
    assert check("half.jsonl", "--baseline", "base.jsonl", "--allow-inconclusive") == 0
    assert check("worse.jsonl", "--baseline", "base.jsonl", "--margin", "fid=30", "--margin", "log_likelihood=60") == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no rows"), (b"{}\n", "missing"), (b"\x89PNG\r\n", "UTF-8"), (b'{"schema": NaN}\n', "NaN"),
        (b"[" * 100_000 + b"\n", "nested"),
    ],
)  # fmt: skip
def test_baselines_of_strangers_are_one_line(
    base: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    for name in ("strange.jsonl", "strange.csv"):
        (base / name).write_bytes(content)
        assert check("same.jsonl", "--baseline", name) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert said in captured.err or name.endswith("csv")


def test_mistakes_in_the_command_are_one_line(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(4):
        write_rows(f"past{k}.jsonl", board())
    for arguments in (
        ["same.jsonl", "--baseline", "none.jsonl"], ["none.jsonl", "--baseline", "base.jsonl"],
        ["--baseline", "base.jsonl"], ["same.jsonl", "--baseline", "base.jsonl", "--margin", "fid=5%"],
        ["same.jsonl", "--baseline", "base.jsonl", "--junit", "base.jsonl"],
        ["same.jsonl", "--baseline", "base.jsonl", "--summary", "same.jsonl"],
        ["same.jsonl", "--baseline", "base.jsonl", "--junit", "x", "--summary", "x"],
        ["same.jsonl", "--baseline", "base.jsonl", "--history", "past*.jsonl", "--junit", "past0.jsonl"],
        ["same.jsonl", "--baseline", "same.jsonl", "--update"], ["same.jsonl", "--baseline", "new.txt", "--update"],
        ["same.jsonl", "--baseline", "base.jsonl", "--self-test"],
    ):  # fmt: skip
        before = {file.name: file.read_bytes() for file in base.iterdir()}
        assert check(*arguments) == 2, arguments
        assert len(capsys.readouterr().err.splitlines()) == 1, arguments
        assert {file.name: file.read_bytes() for file in base.iterdir()} == before


def test_update_says_what_moved_and_both_forms_give_the_same_verdicts(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("worse.jsonl", "--baseline", "base.jsonl", "--update") == 0
    assert "4 regression" in capsys.readouterr().out
    assert read_rows("base.jsonl") == read_rows("worse.jsonl")
    assert check("worse.jsonl", "--baseline", "new.csv", "--update") == 0
    assert check("worse.jsonl", "--baseline", "new.csv") == 0
    assert check("same.jsonl", "--baseline", "base.jsonl") == check("same.jsonl", "--baseline", "new.csv") == 0
    by_jsonl, by_csv = capsys.readouterr().out.split("4 improved\n")[:2]
    assert by_jsonl.splitlines()[-4:] == by_csv.splitlines()[-4:]
    write_rows("lost.jsonl", failed(range(3)))
    assert check("lost.jsonl", "--baseline", "new.csv", "--update") == 2
    assert check("worse.jsonl", "--baseline", "new.csv") == 0


def test_a_second_gate_does_not_write_at_the_same_time(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    descriptor = os.open(base, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert check("worse.jsonl", "--baseline", "base.jsonl", "--update") == 75
    finally:
        os.close(descriptor)
    assert "another gate" in capsys.readouterr().err
    assert read_rows("base.jsonl") == board()


def test_reports(base: Path) -> None:
    arguments = ["--baseline", "base.jsonl", "--junit", "gate.xml", "--summary", "gate.md"]
    assert check("worse.jsonl", *arguments) == 1
    suite = ElementTree.parse("gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "4", "0")
    assert {case.get("classname") for case in suite} == {"model0 on mnist5k", "model1 on mnist5k"}
    assert "| regression | model0 on mnist5k | fid[mnist-cnn] |" in Path("gate.md").read_text()
    write_rows("half.jsonl", [row for row in board(stream=1) if row.model == "model0"])
    for allowed, kind in ((["--allow-inconclusive"], "skipped"), ([], "error")):
        check("half.jsonl", *arguments, *allowed)
        assert len(ElementTree.parse("gate.xml").getroot().findall(f".//{kind}")) == 2


def test_a_summary_is_small_however_many_rows_and_says_what_it_leaves_out() -> None:
    rows = [row for k in range(1500) for row in rows_of([1.0], model=f"model{k}|<b>" + "x" * 800, group=f"g{k}")]
    findings = judge(items_of(rows, "A"), items_of(rows, "B"))
    text = to_summary(findings, "t")
    assert len(text.encode()) < MOST_BYTES
    assert "more are left out" in text
    assert "<b>" not in text


def test_self_test(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--self-test", "--baseline", "base.jsonl") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "false alarms" in head
    assert [line.split()[0] for line in lines] == ["fid[mnist-cnn]", "log_likelihood"]
    for line in lines:
        alarms, _, power, _ = (float(text.rstrip("%")) for text in line.split()[-4:])
        assert alarms <= 6
        assert power >= 75


def test_sequential_prints_the_command_that_makes_the_seeds(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows("base.jsonl", board(1, 8))
    write_rows("three.jsonl", board(1, 3, 1.0, stream=1))
    assert check("three.jsonl", "--baseline", "base.jsonl", "--sequential") == 3
    assert "  genbench run -m model=model0 data=mnist5k seed=3,4\n" in capsys.readouterr().out
    write_rows("two.jsonl", board(1, 2, stream=1))
    assert check("two.jsonl", "--baseline", "base.jsonl", "--sequential", "--allow-inconclusive") == 3


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Cf", "Zs", "Cn", "Co"]), max_size=8) | (
    st.sampled_from(["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "'quoted", '"', ",", "1e999", "true", "", "＝x"])
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=4, max_size=4), st.floats(-1e300, 1e300))
def test_csv_gives_the_rows_back_and_no_cell_is_a_formula(tmp_path: Path, texts: list[str], value: float) -> None:
    model, reason, unit, config = texts
    rows = rows_of([value, -value], model=model, reason=reason, unit=unit, config=config, dirty=None)
    path = tmp_path / "base.csv"
    path.write_text(to_csv(rows))
    again = from_csv(path)
    assert [repr(row) for row in again] == [repr(row) for row in rows]
    header, *lines = csv.reader(io.StringIO(path.read_text()))
    for line in lines:
        for name, cell in zip(header, line, strict=True):
            assert name == "value" or not cell.lstrip().startswith(tuple("=+-@＝"))


def test_csv_keeps_every_configuration_of_a_group(tmp_path: Path) -> None:
    """A later version adds a key to the configuration, and the group, a hash of what was changed, stays the same."""
    path = tmp_path / "base.csv"
    configs = ["", "a", "a", "b", "a", "a", "", "", "b", "'"]
    rows = [row for seed, config in enumerate(configs) for row in rows_of([1.0], [seed], config=config)]
    path.write_text(to_csv(rows))
    assert from_csv(path) == rows
    assert to_csv(rows_of([1.0, 2.0, 3.0], config="a long one")).count("a long one") == 1


def test_a_csv_of_before_a_field_was_added_is_read_and_one_with_foreign_fields_is_not(tmp_path: Path) -> None:
    rows = rows_of([1.0, 2.0], load=None)
    header, *lines = csv.reader(io.StringIO(to_csv(rows)))
    place = header.index("load")
    path = tmp_path / "base.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([line[:place] + line[place + 1 :] for line in [header, *lines]])
    assert from_csv(path) == rows
    for foreign in ("seed", "colour"):
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([[*header, foreign], *([*line, "1"] for line in lines)])
        with pytest.raises(UserError, match="is not a CSV file"):
            from_csv(path)


@pytest.mark.parametrize("cut", [0.01, 0.3, 0.7, 0.9, 0.97])
def test_a_csv_that_was_cut_or_changed_is_refused(tmp_path: Path, cut: float) -> None:
    whole = to_csv(rows_of([1.0, 2.0]))
    path = tmp_path / "base.csv"
    path.write_text(whole[: int(cut * len(whole))])
    with pytest.raises(UserError, match=r"base\.csv: "):
        from_csv(path)
    for old, new in (("ok", "fine"), ("1.0,", "nan,"), ("1.0,", "one,"), ("1.0,", ",")):
        path.write_text(whole.replace(old, new, 1))
        with pytest.raises(UserError, match=r"base\.csv: record 2"):
            from_csv(path)


def test_it_starts_without_torch(base: Path) -> None:
    code = (
        "import sys; from bench.cli.main import main; code = main(['check', 'same.jsonl', '--baseline', 'base.jsonl']);"
        "print(sorted({'torch', 'hydra', 'pandas', 'scipy.stats'} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_committed_rows_pass_against_themselves() -> None:
    for file in sorted((ROOT / "results" / "rows").glob("*.jsonl")):
        quoted = all(row.source is Source.QUOTED for row in read_rows(file))  # nothing of ours to compare
        assert check(str(file), "--baseline", str(file)) == (3 if quoted else 0), file.name


def test_the_projects_own_baseline_is_green_on_itself_and_small() -> None:
    file = str(ROOT / "results" / "baselines" / "gate.csv")
    assert check(file, "--baseline", file) == 0
    assert len({row.seed for row in from_csv(Path(file))}) >= 5


def test_drift_over_past_rows_is_advisory(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(12):
        write_rows(f"past{k:02}.jsonl", board(1, 5, 3.0 * (k >= 7), stream=10 + k))
    write_rows("now.jsonl", board(1, 5, 3.0, stream=30))
    write_rows("base.jsonl", board(1, 5, 3.0, stream=40))
    assert check("now.jsonl", "--baseline", "base.jsonl", "--history", "past*.jsonl") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("advisory: drift")]
    assert len(lines) == 2
    assert all("since past07.jsonl" in line for line in lines)
    assert check("now.jsonl", "--baseline", "base.jsonl", "--history", "past00.jsonl") == 2


def test_a_history_without_a_change_rarely_shows_one() -> None:
    rng = np.random.default_rng(0)
    false = [change_point(rng.standard_exponential(9), rng)[1] <= 0.05 for _ in range(100)]
    assert np.mean(false) <= 0.11  # 0.05 and three standard errors
    steps = np.repeat([0.0, 4.0], [4, 6])
    found = [change_point(steps + rng.normal(size=10), rng) for _ in range(10)]
    assert np.mean([k == 4 and p <= 0.05 for k, p in found]) >= 0.8


@pytest.mark.parametrize("file", [".github/workflows/gate.yml", "docs/gate_workflow.yml"])
def test_workflows_are_safe_and_their_commands_exist(file: str) -> None:
    text = (ROOT / file).read_text()
    flow = yaml.safe_load(text)
    assert list(flow[True]) == ["pull_request"]  # YAML reads ``on`` as true
    assert flow["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    steps = {name: job["steps"] for name, job in flow["jobs"].items()}
    assert all("@v" in step["uses"] for job in steps.values() for step in job if "uses" in step)
    assert all(step["with"]["persist-credentials"] is False for job in steps.values() for step in job
               if step.get("uses", "").startswith("actions/checkout"))  # fmt: skip
    checkout = next(step for step in steps["gate"] if step.get("uses", "").startswith("actions/checkout"))
    assert checkout["with"]["ref"] == "${{ github.event.pull_request.base.sha }}"
    commands = [line.strip() for job in steps.values() for step in job for line in step.get("run", "").splitlines()]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    (judge_command,) = [line for line in commands if line.startswith("genbench check")]
    arguments = parser.parse_args(shlex.split(judge_command)[2:])
    assert (arguments.junit, arguments.summary) == ("gate.xml", "gate.md")
    (sweep,) = [line for line in commands if line.startswith("genbench run")]
    assert "name=gate" in sweep
    assert "seed=0,1,2,3,4" in sweep
