"""Disks that cannot flush or are full: files are written all the same, no run is lost, and it is said once."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from helpers_locks import RUN

from bench import files
from bench.cli.main import main
from bench.errors import UserError
from bench.files import durable_write
from bench.rows.store import read_rows
from bench.schema import Status


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_said", set())


CANNOT_FLUSH = [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF]


@pytest.mark.parametrize("number", CANNOT_FLUSH, ids=errno.errorcode.get)
def test_a_file_system_that_cannot_flush_is_written_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    for text in ("first", "second"):
        durable_write(tmp_path / "x", text)
        assert (tmp_path / "x").read_text() == text
    (record,) = caplog.records
    assert "cannot flush to disk" in record.getMessage()


def refuse_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    opened = os.open

    def fails(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_DIRECTORY:
            raise OSError(number, os.strerror(number))
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", fails)


@pytest.mark.parametrize("number", [*CANNOT_FLUSH, errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_opened_is_written_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_folders(monkeypatch, number)
    for text in ("first", "second"):
        durable_write(tmp_path / "x", text)
        assert (tmp_path / "x").read_text() == text
    (record,) = caplog.records
    assert "cannot flush to disk" in record.getMessage()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_after_the_rename_a_failure_says_that_the_file_is_written(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def fails(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), tmp_path.stat()):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    if call == "open":
        refuse_folders(monkeypatch, number)
    else:
        monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(UserError, match="is written, but a power cut may undo it") as caught:
        durable_write(tmp_path / "x", "new")
    assert "free space" not in str(caught.value)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "new")]


@pytest.mark.parametrize("when", ["opened", "written"])
def test_a_full_disk_costs_the_log_and_not_the_run(
    when: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> Any:
        if when == "opened":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open("/dev/full", "w")

    monkeypatch.setattr("bench.runs.log.open_here", full)
    assert main(RUN) == 0
    said = capfd.readouterr()
    assert said.err.count("No space left on device; the run goes on, its log is incomplete") == 1
    assert "Traceback" not in said.out + said.err
    (rows,) = workplace.glob("runs/*/*/rows.jsonl")
    assert all(row.status is not Status.FAILED for row in read_rows(rows))
