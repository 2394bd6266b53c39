"""Samples of others and memory: about twice the array for what is read, next to nothing for what is refused."""

import io
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_samples import COLOUR, GREY, noise, refusal, spec_of

from bench.data.formats import samples as module
from bench.data.formats.samples import read_samples


def peak_of(act: Callable[[], object]) -> int:
    """Most bytes that Python held at a time."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_about_twice_the_array(tmp_path: Path) -> None:
    spec = spec_of(1, 64, 64)
    values = noise(256, spec)
    for dtype, channels_last in (("u1", False), ("u1", True), ("f2", False), ("f8", True), (">i4", False)):
        stored = values.astype(dtype)
        stored = stored.transpose(0, 2, 3, 1) if channels_last else stored
        np.save(tmp_path / "a.npy", stored)
        np.savez_compressed(tmp_path / "a.npz", stored)
        for name in ("a.npy", "a.npz"):
            peak = peak_of(partial(read_samples, tmp_path / name, spec))
            assert peak < 2.1 * stored.nbytes + (1 << 20), (dtype, channels_last, name)


def test_pictures_with_channels_last_are_in_memory_once(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (4000, 32, 32, 3), dtype=np.uint8)
    for name in ("a.npy", "a.npz"):
        (np.save if name == "a.npy" else np.savez)(tmp_path / name, stored)
        peak = peak_of(partial(read_samples, tmp_path / name, spec_of(3, 32, 32)))
        assert peak < 1.2 * stored.nbytes, name


def with_header(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """An npy file that claims this shape, whatever is in it."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def test_a_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    content = with_header((10**8, 1, 4, 5), bytes(100))
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("samples.npy", content)
    for name in ("a.npy", "a.npz"):
        text = ""

        def act(path: Path = tmp_path / name) -> None:
            nonlocal text
            text = refusal(path)

        assert peak_of(act) < 1 << 20
        assert "an array of 2000000000 bytes in 100 bytes" in text


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """A small npz that unpacks to 16 MB of samples of the right shape."""
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples.npy", with_header((800_000, 1, 4, 5), bytes(16_000_000)))
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    return tmp_path / "bomb.npz"


def test_a_zip_bomb_is_refused_before_it_is_unpacked(bomb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(*args: object, **kwargs: object) -> None:
        raise AssertionError("an entry is opened")

    monkeypatch.setattr(module, "_MAX_BYTES", 15_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "open", unpack)
    assert "unpacks to 16000128 bytes, more than 15000000" in refusal(bomb)


def test_a_zip_bomb_beyond_the_true_cap(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples.npy", with_header((9 << 30, 1, 1, 1)))
        archive.filelist[0].file_size = (9 << 30) + 128  # as the directory of a file that unpacks to so much says
    assert "unpacks to 9663676544 bytes, more than 8589934592" in refusal(tmp_path / "bomb.npz", spec_of(1, 1, 1))


def test_a_zip_bomb_of_another_shape_is_not_unpacked(bomb: Path) -> None:
    assert peak_of(lambda: refusal(bomb, COLOUR)) < 2 << 20
    assert peak_of(lambda: read_samples(bomb, GREY)) > 15 << 20, "the measure sees what is unpacked"


def test_a_directory_that_lies_is_refused(bomb: Path, tmp_path: Path) -> None:
    """It says 148 bytes, and so does the array's header; the entry is 16 MB."""
    with zipfile.ZipFile(tmp_path / "lie.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples.npy", with_header((2, 1, 4, 5), bytes(16_000_000)))
        archive.filelist[0].file_size = len(with_header((2, 1, 4, 5))) + 40
    assert peak_of(lambda: refusal(tmp_path / "lie.npz")) < 2 << 20
    assert "Bad CRC" in refusal(tmp_path / "lie.npz")


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
            archive.writestr("samples.npy", with_header((2, 1, 4, 5), bytes(40)))
        assert "in a way that numpy does not write" in refusal(tmp_path / "a.npz")


def test_large_files_are_refused_unread(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz", "a.pt"):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate((8 << 30) + 1)  # takes no room on the disk
        assert "has 8589934593 bytes, more than 8589934592" in refusal(tmp_path / name)
        (tmp_path / name).unlink()


def test_torch_files_that_unpack_to_more_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"samples": torch.zeros(2, 1, 4, 5), "other": torch.zeros(10_000)}, path)
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in old.infolist():
            packed.writestr(entry.filename, old.read(entry))
    assert "claim more than the file holds" in refusal(tmp_path / "packed.pt")
    shutil.copy(path, tmp_path / "piled.pt")
    with zipfile.ZipFile(tmp_path / "piled.pt", "a") as piled:
        large = max(piled.filelist, key=lambda entry: entry.file_size)
        piled.filelist += [large] * 3  # three more names for one place
        piled.comment = b"changed"  # so that the directory is written again
    assert "claim more than the file holds" in refusal(tmp_path / "piled.pt")
