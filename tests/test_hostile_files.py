"""Files of strangers, made at random: the first of those that tests/benchmarks/bench_fuzz.py has ten thousand of."""

import collections
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmarks"))

import hostile
from bench_fuzz import write
from hostile import check_file, write_file

from bench.data.formats.samples import read_samples
from bench.errors import UserError

COUNT = 300


def made(index: int, top: Path) -> Path:
    folder = top / str(index)
    folder.mkdir()
    return write_file(index, folder)


def test_no_file_ends_in_a_traceback_or_does_anything(tmp_path: Path) -> None:
    wrong = {index: check_file(made(index, tmp_path)) for index in range(COUNT)}
    assert {index: text for index, text in wrong.items() if text} == {}


def test_files_depend_on_the_seed_and_their_number_alone(tmp_path: Path) -> None:
    for index in range(40):
        first, second = (made(index, top) for top in (tmp_path / "a", tmp_path / "b") if not top.mkdir(exist_ok=True))
        assert first.name == second.name
        if first.is_file() and not first.is_symlink():
            # torch.save draws nothing, but zip archives hold the time.
            assert first.stat().st_size == second.stat().st_size


def test_they_are_many_kinds_of_bad_and_some_are_good(tmp_path: Path) -> None:
    """A corpus that is refused for one reason alone would show nothing."""
    said: collections.Counter[str] = collections.Counter()
    for index in range(COUNT):
        path = made(index, tmp_path)
        try:
            read_samples(path, hostile.PICTURES)
            said["read"] += 1
        except UserError as error:
            said[str(error).replace(str(path), "").replace(ascii(str(path)), "")[:60]] += 1
    assert said["read"] >= 5
    assert len(said) > 40


def unpickles(path: Path) -> object:
    return pickle.loads(pickle.dumps(hostile.Payload.__reduce__))


def writes(path: Path) -> None:
    (path.parent / "more").write_text("x")


def changes(path: Path) -> None:
    os.utime(path, (1, 1))


def raises(path: Path) -> None:
    raise KeyError("x")


def refuses_in_two_lines(path: Path) -> None:
    error = UserError("one")
    error.args = ("one\ntwo",)
    raise error


def fills_memory(path: Path) -> int:
    return int(torch.ones(2**20 * 300).sum())  # more than a process keeps of what earlier tests have freed


@pytest.mark.parametrize(
    ("reader", "wrong"),
    [
        (unpickles, "pickle.find_class"),
        (writes, "writes"),
        (changes, "the files were changed"),
        (raises, "KeyError"),
        (refuses_in_two_lines, "no printable line"),
        (fills_memory, "MB"),
    ],
)
def test_the_check_sees(
    reader: Callable[[Path], object], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile, "READERS", {"it": reader})
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a.npy"
    file.write_bytes(b"x")
    assert wrong in check_file(file)


def test_figures_of_other_kinds_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "fuzz.csv"
    write(file, [("files", 0, 10, 1, 2), ("in process", 0, 20, 0, 3)])
    write(file, [("files", 1, 30, 0, 4)])
    assert file.read_text().splitlines() == [
        "kind,seed,lines,failures,seconds", "in process,0,20,0,3", "files,1,30,0,4"
    ]  # fmt: skip
