"""Decoded arrays at the second start: not hashed again if nothing has changed, and never trusted if something has."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.data.bytes import arrays
from bench.data.bytes.arrays import complaints, decoded, is_there
from bench.errors import UserError

IMAGES = np.arange(4000, dtype=np.uint16).view(np.uint8).reshape(20, 400)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path))
    decoded("set", "k", lambda: {"images": IMAGES, "labels": IMAGES[:, 0]})
    return tmp_path / "set" / "decoded-k"


def load() -> NDArray[np.uint8]:
    def forbidden() -> dict[str, NDArray[np.uint8]]:
        raise AssertionError("decoded although the cache holds the arrays")

    return decoded("set", "k", forbidden)["images"]


@pytest.fixture
def hashed(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed since. As if some time had passed since they were written."""
    for file in home.glob("*.npy"):
        earlier = file.stat().st_mtime_ns - 10**9
        os.utime(file, ns=(earlier, earlier))
    load()
    names: list[str] = []
    hashing = arrays.sha256

    def watched(path: Path) -> str:
        names.append(path.name)
        return hashing(path)

    monkeypatch.setattr(arrays, "sha256", watched)
    return names


def rewrite(file: Path, content: bytes) -> None:
    """The same length at the same time: what only a hash can tell."""
    stat = file.stat()
    assert len(content) == stat.st_size
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def flipped(file: Path) -> bytes:
    content = file.read_bytes()
    return content[:-1] + bytes([content[-1] ^ 1])


def test_what_did_not_change_is_not_hashed_again(hashed: list[str]) -> None:
    assert np.array_equal(load(), IMAGES)
    assert hashed == []


def test_what_was_touched_is_hashed_once(home: Path, hashed: list[str]) -> None:
    os.utime(home / "images.npy", ns=(0, 0))
    assert np.array_equal(load(), IMAGES)
    assert sorted(hashed) == ["images.npy", "labels.npy"]
    assert np.array_equal(load(), IMAGES)
    assert len(hashed) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "gone"])
def test_what_was_changed_is_decoded_again(home: Path, hashed: list[str], damage: str) -> None:
    file = home / "images.npy"
    if damage == "gone":
        file.unlink()
    elif damage == "flip":
        file.write_bytes(flipped(file))
    else:
        file.write_bytes(file.read_bytes()[:-1] if damage == "cut" else file.read_bytes() + b"\0")
    with pytest.raises(AssertionError, match="decoded although"):
        load()
    again = decoded("set", "k", lambda: {"images": IMAGES, "labels": IMAGES[:, 0]})
    assert np.array_equal(again["images"], IMAGES)
    assert complaints(home) == []


def test_an_older_file_in_its_place_is_hashed(home: Path, hashed: list[str]) -> None:
    """Another time, be it later or earlier, is another file."""
    file = home / "images.npy"
    file.write_bytes(flipped(file))
    os.utime(file, ns=(0, 0))
    with pytest.raises(AssertionError, match="decoded although"):
        load()


def test_a_stamp_of_the_same_tick_is_not_trusted(home: Path, hashed: list[str]) -> None:
    """A clock has ticks: what is written once more within one keeps its time."""
    stamp = (home / "STAMPS").stat().st_mtime_ns
    for file in home.glob("*.npy"):
        os.utime(file, ns=(stamp, stamp))
    lines = "".join(f"{f.stat().st_size} {stamp} {f.name}\n" for f in sorted(home.glob("*.npy")))
    (home / "STAMPS").write_text(lines)
    os.utime(home / "STAMPS", ns=(stamp, stamp))
    rewrite(home / "images.npy", flipped(home / "images.npy"))
    with pytest.raises(AssertionError, match="decoded although"):
        load()
    assert "images.npy" in hashed


@pytest.mark.parametrize("content", [None, b"", b"1 2 images.npy\n", b"\xff\xfe", b"x y z"])
def test_without_good_stamps_everything_is_hashed(home: Path, hashed: list[str], content: bytes | None) -> None:
    (home / "STAMPS").unlink()
    if content is not None:
        (home / "STAMPS").write_bytes(content)
    assert np.array_equal(load(), IMAGES)
    assert len(hashed) == 2
    rewrite(home / "images.npy", flipped(home / "images.npy"))
    (home / "STAMPS").unlink()
    with pytest.raises(AssertionError, match="decoded although"):
        load()


def test_a_cache_that_cannot_be_written_is_read_all_the_same(
    home: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "STAMPS").unlink()

    def refused(folder: Path) -> None:
        raise UserError("cannot write into the cache folder")

    monkeypatch.setattr(arrays, "Staging", refused)
    for times in (1, 2):
        assert np.array_equal(load(), IMAGES)
        assert len(hashed) == 2 * times


def test_complaints_read_every_byte(home: Path, hashed: list[str]) -> None:
    assert complaints(home) == []
    assert is_there(home)
    rewrite(home / "images.npy", flipped(home / "images.npy"))
    load()  # as announced: decay of the disk is not seen at a start
    assert complaints(home) == [f"{home / 'images.npy'} holds other bytes than were written"]
    (home / "labels.npy").unlink()
    assert not is_there(home)
    (complaint,) = complaints(home)
    assert complaint.startswith(f"{home} is incomplete")
    (home / "SHA256SUMS").unlink()
    assert not is_there(home)
    assert len(complaints(home)) == 1
