"""Output that finds no taker: what the shell expects of every program."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_rows import make_row

from bench.cli.streams import write_text
from bench.rows.store import write_rows

COMMANDS = [
    ["--help"],
    ["--version"],
    ["list"],
    ["table", "rows.jsonl"],
    ["run", "--help"],
]
CASES = [(command, buffered) for command in COMMANDS for buffered in (True, False)]
CASES.append((["run", "model=vae", "--cfg", "job"], False))  # printed by Hydra


def run(arguments: list[str], *, buffered: bool, **streams: object) -> tuple[int, str]:
    """Exit code and what is said on standard error."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "bench", *arguments]
    done = subprocess.run(
        command, env=environment, text=True, check=False, **{"stderr": subprocess.PIPE, **streams}  # type: ignore
    )  # fmt: skip
    return done.returncode, done.stderr


def closed_pipe() -> int:
    """The writing end of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.fixture
def rows(workplace: Path) -> None:
    write_rows(workplace / "rows.jsonl", [make_row()])


@pytest.mark.parametrize(("arguments", "buffered"), CASES)
def test_a_reader_that_has_gone_ends_quietly_as_by_sigpipe(arguments: list[str], buffered: bool, rows: None) -> None:
    pipe = closed_pipe()
    assert run(arguments, buffered=buffered, stdout=pipe) == (141, "")
    os.close(pipe)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that Linux has")
@pytest.mark.parametrize(("arguments", "buffered"), CASES)
def test_a_full_disk_is_one_line_and_exit_code_2(arguments: list[str], buffered: bool, rows: None) -> None:
    with Path("/dev/full").open("w") as full:
        said = run(arguments, buffered=buffered, stdout=full)
    assert said == (2, "genbench: cannot write the output: No space left on device\n")


def test_a_reader_of_the_errors_that_has_gone_ends_quietly_too(workplace: Path) -> None:
    pipe = closed_pipe()
    assert run(["run", "model=nosuch"], buffered=True, stdout=pipe, stderr=pipe) == (141, None)
    os.close(pipe)


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_streams_that_nobody_wants_are_not_missed(closed: str, rows: None) -> None:
    command = f'"{sys.executable}" -m bench table rows.jsonl {closed}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_whose_table_nobody_reads_ends_quietly_and_is_kept(workplace: Path) -> None:
    """Printed by rich, which makes exit code 1 of it."""
    command = ["run", "model=gaussian", "data=two_moons", "metric=[likelihood]", "data.n_train=64", "data.n_val=64",
               "data.n_test=64", "evaluate.n_samples=8"]  # fmt: skip
    pipe = closed_pipe()
    code, said = run(command, buffered=True, stdout=pipe)
    os.close(pipe)
    assert code == 141
    assert "Traceback" not in said
    assert (workplace / "results" / "leaderboard" / "two_moons.csv").exists()


def test_characters_that_the_encoding_lacks_become_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    write_text("1 ± 2\n")
    stream.flush()
    assert stream.buffer.getvalue() == b"1 ? 2\n"  # type: ignore[attr-defined]
