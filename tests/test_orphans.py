"""Temporary files and folders: those of ended processes are swept, those of running ones and of other hosts kept."""

import errno
import os
import time
from pathlib import Path

import pytest
from helpers_locks import RUN, grow_old, refuse_flock, started

from bench.cli.main import main
from bench.data.bytes.cache import Staging
from bench.files import sweep_orphans
from bench.locks import is_abandoned

WRITER = """
import errno, fcntl, os, sys, time
from bench.files import durable_write
def refused(*_): raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refused
os.replace = lambda *_: (print("in", flush=True), time.sleep(60))
durable_write(sys.argv[1], "new")
"""


@pytest.fixture
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_flock(monkeypatch, request.param)


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
def test_a_running_writers_file_is_kept_without_flock(tmp_path: Path, no_flock: None) -> None:
    with started(WRITER, tmp_path / "x") as writer:
        (temporary,) = tmp_path.iterdir()
        grow_old(temporary, 10**6)
        assert sweep_orphans(tmp_path) == []
        writer.kill()
        writer.wait()
    assert sweep_orphans(tmp_path) == [temporary]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
@pytest.mark.parametrize("owner", ["0123abcd-1-2-", "", "x-"])
def test_a_file_of_another_host_is_kept_for_an_hour(owner: str, tmp_path: Path, no_flock: None) -> None:
    temporary = tmp_path / f".genbench-{owner}0123456789abcdef.tmp"
    temporary.write_text("half")
    grow_old(temporary, 3000)
    assert sweep_orphans(tmp_path) == []
    grow_old(temporary, 4000)
    assert sweep_orphans(tmp_path) == [temporary]


STAGER = """
import sys, time
from pathlib import Path
from bench.data.bytes.cache import Staging
with Staging(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    print("in", flush=True)
    time.sleep(60)
"""


def test_staging_folders_of_the_killed_are_swept_and_those_of_the_running_kept(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_text("precious")
    with started(STAGER, tmp_path) as stager:
        with Staging(tmp_path) as mine:
            assert {path.name for path in tmp_path.glob(".staging-*/*")} == {"half"}
            with Staging(tmp_path):
                assert mine.is_dir()
        stager.kill()
        stager.wait()
    assert len(list(tmp_path.iterdir())) == 2
    with Staging(tmp_path) as mine:
        assert set(tmp_path.iterdir()) == {tmp_path / "data.bin", mine}


@pytest.mark.parametrize("name", [".staging-k3x9_2ab", ".staging-0123abcd-1-2-k3x9_2ab"])
def test_a_staging_folder_of_another_host_is_kept_for_a_day_after_its_last_file(name: str, tmp_path: Path) -> None:
    staging = tmp_path / name
    staging.mkdir()
    (staging / "half").write_text("half")
    grow_old(staging, 10**6)
    with Staging(tmp_path):
        assert staging.exists()
    grow_old(staging / "half", 10**6)
    grow_old(staging, 10**6)
    with Staging(tmp_path):
        assert not staging.exists()


def test_a_link_is_no_staging_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "home").mkdir()
    link = tmp_path / "home" / ".staging-k3x9_2ab"
    link.symlink_to(tmp_path / "precious")
    os.utime(link, (0, 0), follow_symlinks=False)
    with Staging(tmp_path / "home"):
        assert (tmp_path / "precious").is_dir()


def test_orphans_in_results_are_swept(workplace: Path) -> None:
    orphans = [workplace / "results" / folder / ".genbench-0123.tmp" for folder in ("rows", "leaderboard")]
    for orphan in orphans:
        orphan.parent.mkdir(parents=True)
        orphan.write_text("half")
    assert main(RUN) == 0
    assert not any(orphan.exists() for orphan in orphans)


def test_is_abandoned_minds_the_file_systems_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("")
    monkeypatch.setattr(time, "time", lambda: 1e12)  # this host's clock is wrong
    assert not is_abandoned(tmp_path / "x", "0123abcd-1-2")
