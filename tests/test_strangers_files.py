"""Links, pipes and folders in place of files: nothing is read from them, written through them or waited for."""

import os
from pathlib import Path

import pytest
from helpers_runs import TINY

from bench.checkpoint import load_checkpoint
from bench.cli.main import main
from bench.config.build import build_logger, check_arguments
from bench.config.compose import compose_runs
from bench.config.spec import RunSpec
from bench.errors import UserError
from bench.regular import check_output, read_regular
from bench.runs.folder import RunFolder, open_here


def test_curves_never_leave_the_folder_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "run" / "curves").symlink_to(tmp_path / "victim")
    node = {"_target_": "pytorch_lightning.loggers.CSVLogger", "name": None, "version": "curves"}
    check_arguments({"logger": node})
    with pytest.raises(UserError, match="outside the run's folder"):
        build_logger(node, str(tmp_path / "run"))
    (tmp_path / "run" / "curves").unlink()
    assert build_logger(node, str(tmp_path / "run")) is not None


def place(kind: str, folder: Path) -> Path:
    """Something that is no new or regular file."""
    path = folder / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        (folder / "target").write_text("kept")
        path.symlink_to(folder / "target")
    elif kind == "dangling":
        path.symlink_to(folder / "nowhere")
    elif kind == "link-to-fifo":
        os.mkfifo(folder / "pipe")
        path.symlink_to(folder / "pipe")
    elif kind == "input":
        path.write_text("kept")
    elif kind == "second-name":
        (folder / "input").write_text("kept")
        os.link(folder / "input", path)
    return path


KINDS = ["fifo", "folder", "link", "dangling", "link-to-fifo", "input", "second-name"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_is_new_or_a_regular_file_that_nothing_is_read_from(kind: str, tmp_path: Path) -> None:
    path = place(kind, tmp_path)
    before = os.lstat(path)
    with pytest.raises(UserError, match=rf"--out .*{kind}: is "):
        check_output("--out", path, [tmp_path / "input"])
    assert os.lstat(path).st_ino == before.st_ino
    check_output("--out", tmp_path / "new", [tmp_path / "input"])
    (tmp_path / "old").write_text("")
    check_output("--out", tmp_path / "old", [tmp_path / "input", tmp_path / "gone"])
    with pytest.raises(UserError, match="is read by this command"):
        check_output("--out", tmp_path / "old", [tmp_path])
    with pytest.raises(UserError, match="there is no folder"):
        check_output("--out", tmp_path / "none" / "x")


@pytest.mark.parametrize("kind", KINDS)
def test_table_and_evaluate_refuse_such_an_output(
    kind: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place(kind, workplace)
    rows = Path(__file__).resolve().parent.parent / "results" / "rows" / "toys.jsonl"
    (workplace / "input").write_bytes(rows.read_bytes())
    assert main(["table", "input", "--out", kind]) == 2
    assert main(["evaluate", "input", f"out={kind}"]) == 2
    assert capsys.readouterr().err.count(f"{kind}: is ") == 2
    assert (workplace / "input").read_bytes() == rows.read_bytes()
    assert not (workplace / "nowhere").exists()


@pytest.mark.parametrize("kind", ["fifo", "folder", "link-to-fifo"])
def test_what_is_read_is_a_regular_file(kind: str, tmp_path: Path) -> None:
    path = place(kind, tmp_path)
    with pytest.raises(UserError, match="not a regular file"):
        read_regular(path, 100)
    with pytest.raises(UserError):
        load_checkpoint(path)
    (tmp_path / "large").write_bytes(bytes(101))
    with pytest.raises(UserError, match="at most 100 are read"):
        read_regular(tmp_path / "large", 100)


@pytest.mark.parametrize("name", [".lock", "run.log"])
@pytest.mark.parametrize("kind", ["fifo", "link", "dangling", "link-to-fifo"])
def test_a_file_of_a_strangers_folder_is_opened_through_no_link_and_no_pipe(
    name: str, kind: str, tmp_path: Path
) -> None:
    place(kind, tmp_path).rename(tmp_path / name)
    with pytest.raises(OSError, match=r"."):
        open_here(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["done.json", "trained.json", "rows.jsonl", "config.json"])
def test_pipes_in_a_strangers_folder_are_not_waited_for(name: str, workplace: Path) -> None:
    spec = RunSpec.parse(compose_runs(["model=gaussian", *TINY])[0])
    spec.folder.mkdir(parents=True)
    os.mkfifo(spec.folder / name)
    folder = RunFolder(spec.folder)
    assert not folder.finished(spec)
    assert folder.missing(spec)
    assert main(["evaluate", str(spec.folder)]) == 2
