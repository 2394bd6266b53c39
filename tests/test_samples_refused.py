"""Samples of others that do not fit, are damaged or would run code: refused in one line that says why."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_samples import COLOUR, GREY, REALS, no_hang, noise, refusal, spec_of

from bench.data.formats.samples import read_samples
from bench.errors import UserError
from bench.schema import DataSpec


@no_hang()
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    assert "pipe.npy is no regular file; give a .npy" in refusal(tmp_path / "pipe.npy")
    (tmp_path / "device.npz").symlink_to("/dev/zero")
    assert "device.npz is no regular file" in refusal(tmp_path / "device.npz")


def test_no_such_file(tmp_path: Path) -> None:
    for path in (
        tmp_path / "none.npy",
        "https://example.org/a.npy",
        "a\0b.npy",
        "two\nlines.npy",
        "~nobody-here/a.npy",
    ):
        assert "no such file or folder" in refusal(path)


def test_another_suffix(tmp_path: Path) -> None:
    for name in ("a.csv", "a", "a.npy.gz", "a.\x1b"):
        (tmp_path / name).write_bytes(b"1,2")
        assert "has the suffix" in refusal(tmp_path / name)
    np.save(tmp_path / "A.npy", noise(3, GREY))
    (tmp_path / "A.npy").rename(tmp_path / "A.NPY")
    assert len(read_samples(tmp_path / "A.NPY", GREY)) == 3


def put_every_kind(folder: Path, values: Any) -> list[Path]:
    np.save(folder / "a.npy", values)
    np.savez_compressed(folder / "a.npz", values)
    torch.save(torch.from_numpy(values), folder / "a.pt")
    return [folder / "a.npy", folder / "a.npz", folder / "a.pt"]


@pytest.mark.parametrize(
    ("values", "spec", "reason"),
    [
        (noise(3, COLOUR), GREY, "shape (3, 3, 4, 5); fakes wants (N, 1, 4, 5) or (N, 4, 5, 1) or (N, 4, 5)"),
        (noise(3, GREY).reshape(3, 20), GREY, "has the shape (3, 20)"),
        (noise(3, GREY)[0], GREY, "has 1 samples"),
        (noise(3, COLOUR)[0], COLOUR, "has the shape (3, 4, 5)"),
        (noise(3, GREY).swapaxes(2, 3), GREY, "has the shape (3, 1, 5, 4)"),
        (np.array(1.0), spec_of(1, levels=None), "has the shape (); fakes wants (N, 1) or (N)"),
        (noise(1, GREY), GREY, "has 1 samples; bring at least 2"),
        (noise(0, GREY), GREY, "has 0 samples"),
        (noise(3, GREY) * 1j, GREY, "type complex128; fakes wants levels 0..255"),
        (noise(3, REALS) * 1j, REALS, "fakes wants real numbers"),
        (np.array([[0, 1, 256]] * 2), spec_of(3), "int64 values from 0 to 256; levels 0..255 are wanted"),
        (np.array([[0, 1, -1]] * 2), spec_of(3), "from -1 to 1; levels 0..255 are wanted; bring the samples as"),
        (np.array([[0, 1, 32]] * 2), spec_of(3, levels=32), "from 0 to 32; levels 0..31 are wanted"),
        (np.array([[0, 0.5, 1]] * 2), spec_of(3), "from 0 to 1; levels 0..255 are wanted; store (x * 255).round()"),
        (np.array([[0, 1.0, 1]] * 2), spec_of(3, levels=32), "levels 0..31 are wanted; store (x * 31).round()"),
        (np.zeros((2, 3)), spec_of(3), "from 0 to 0; levels 0..255 are wanted; store (x * 255).round()"),
        (np.array([[0, -1, 1.0]] * 2), spec_of(3), "from -1 to 1; levels 0..255 are wanted; store ((x + 1) / 2 * 255)"),
        (np.array([[0, 1, 7.5]] * 2), spec_of(3), "from 0 to 7.5; levels 0..255 are wanted; they are not all whole"),
        (np.array([[0, 1, 256.0]] * 2), spec_of(3), "from 0 to 256; levels 0..255 are wanted; store (x * 255).round()"),
        (np.array([[0, 1, -3.0]] * 2), spec_of(3), "or ((x + 1) / 2 * 255).round() of x in [-1, 1]"),
        (np.array([[0, 1, np.nan]] * 2), spec_of(3), "has NaN or infinite values"),
        (np.array([[0, 1, np.nan]] * 2), REALS, "has NaN or infinite values"),
        (np.array([[0, -np.inf, 1]] * 2, np.float32), REALS, "has NaN or infinite values"),
        (np.array([[0, 1, 1e39]] * 2), REALS, "some beyond float32"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(values: Any, spec: DataSpec, reason: str, tmp_path: Path) -> None:
    for path in put_every_kind(tmp_path, values):
        assert reason in refusal(path, spec)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([["a", "b"]] * 2), "type <U1"),
        (np.array([[b"a", b"b"]] * 2), r"type \|S1"),
        (np.zeros((2, 2), [("x\n", "u1")]), "type .*; fakes wants levels"),
        (np.zeros((2, 2), "M8[s]"), "type datetime64"),
    ],
)
def test_arrays_of_no_numbers_are_refused(values: Any, reason: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", values)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UserError, match=reason):
            read_samples(tmp_path / name, spec_of(2))
        assert refusal(tmp_path / name, spec_of(2))


class Touch:
    """Unpickling this makes a folder: what a stranger's samples must not be able to do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("forced", ["0", "1"])
def test_pickles_are_refused_and_nothing_runs(forced: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)  # makes torch.load unsafe by default
    trap = tmp_path / "ran"
    objects = np.array([Touch(trap)] * 6).reshape(2, 3)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", samples=objects)
    torch.save({"samples": torch.zeros(2, 3), "extra": Touch(trap)}, tmp_path / "a.pt")
    for name in ("raw.npy", "raw.npz", "raw.pt", "raw.pth"):
        (tmp_path / name).write_bytes(pickle.dumps(Touch(trap)))
    for name in ("a.npy", "a.npz"):
        assert "type object" in refusal(tmp_path / name, REALS)
    assert "more than tensors and plain values" in refusal(tmp_path / "a.pt", REALS)
    for name in ("raw.npy", "raw.npz", "raw.pt", "raw.pth"):
        assert "is damaged or of another kind" in refusal(tmp_path / name, REALS)
    assert not trap.exists()
    pickle.loads((tmp_path / "raw.pt").read_bytes())
    assert trap.exists(), "the trap works"


def test_which_array_of_several(tmp_path: Path) -> None:
    images = noise(3, GREY)
    np.savez(tmp_path / "a.npz", fakes=images, labels=np.zeros(3))
    assert "has the arrays: fakes, labels; save the samples as the array named samples" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", images[:2], samples=images)
    assert len(read_samples(tmp_path / "a.npz", GREY)) == 3, "a name that says so comes first"
    np.savez(tmp_path / "a.npz")
    assert "has the arrays: none" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **{"two\nlines": images, "other": images})
    assert "lines" in refusal(tmp_path / "a.npz")


def test_what_a_torch_file_may_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for payload, reason in (
        ({"fakes": torch.zeros(2), "step": 1}, "has the entries: fakes, step; save the samples as the entry named"),
        ({"samples": [torch.zeros(2)]}, "holds a list; save a tensor"),
        ([torch.zeros(2)], "holds a list; save a tensor"),
        (torch.zeros(1).expand(10**6, 1, 4, 5), "claims more than is stored"),
        (torch.zeros(2, 20).to_sparse(), "sparse"),
        (torch.zeros(2, 1, 4, 5).to(torch.float8_e4m3fn), "damaged or of another kind"),
    ):
        torch.save(payload, path)
        assert reason in refusal(path)
    torch.save(torch.zeros(2, 20).to_sparse(), tmp_path / "two\nlines.pt")
    assert "sparse" in refusal(tmp_path / "two\nlines.pt")
    torch.save(torch.zeros(2, 1, 4, 5), path, _use_new_zipfile_serialization=False)
    assert "damaged or of another kind" in refusal(path)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt"])
def test_damage_anywhere_is_one_line_or_none(name: str, tmp_path: Path) -> None:
    """Each file cut short or with bytes changed is refused in one line, or read as samples of the right kind."""
    put_every_kind(tmp_path, noise(20, GREY))
    whole = (tmp_path / name).read_bytes()
    damaged = tmp_path / f"damaged{Path(name).suffix}"
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        damaged.write_bytes(whole[:length])
        assert "damaged" in refusal(damaged)
    rng = np.random.default_rng(0)
    refusals = []
    for _ in range(150):
        content = bytearray(whole)
        for at in rng.integers(len(content), size=rng.integers(1, 6)):
            content[at] ^= 1 << rng.integers(8)
        damaged.write_bytes(content)
        try:
            read = read_samples(damaged, GREY)
        except UserError as error:
            refusals.append(str(error))
        else:
            assert read.dtype == torch.uint8
            assert read.shape[1:] == GREY.shape
    assert len(refusals) > 10
    assert all(text.isprintable() for text in refusals)


def test_more_than_one_array_in_an_npy_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as stream:
        np.save(stream, noise(3, GREY))
        np.save(stream, noise(3, GREY))
    assert "an array of 60 bytes in 248 bytes" in refusal(tmp_path / "a.npy")
