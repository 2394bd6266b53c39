"""Pictures from idx files, binary records, packages and MATLAB files: the right pixels and fixed splits."""

import gzip
import hashlib
import io
import json
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import Bytes, cached, complaint, examples, pinned, resized, tarball
from PIL import Image
from scipy.io import savemat

from bench.data import cifar, fashion, svhn
from bench.data.base import Data
from bench.data.bytes.arrays import revision
from bench.data.bytes.sources import ArchiveDownload
from bench.data.cifar import CIFAR10_FILES, PicturePackage, read_records
from bench.data.digits import MNIST_FILES, mnist
from bench.data.fashion import FASHION_MNIST_FILES
from bench.data.formats import idx
from bench.data.svhn import SVHN_FILES, read_mat
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


def check_splits(data: Data, train: tuple[Bytes, Bytes], test: tuple[Bytes, Bytes], n_val: int) -> None:
    """Train and validation are the beginning and the end of the published training set; test is the published one."""
    n = len(train[0]) - n_val
    for split, images, labels in (
        (data.train, train[0][:n], train[1][:n]), (data.val, train[0][n:], train[1][n:]), (data.test, *test),
    ):  # fmt: skip
        assert split.x.dtype == torch.uint8
        assert split.y is not None
        assert split.y.dtype == torch.int64
        assert np.array_equal(split.x.numpy(), images)
        assert split.y.tolist() == labels.tolist()
    spec = data.spec
    assert (spec.n_train, spec.n_val, spec.n_test) == (n, n_val, len(test[0]))
    assert (spec.shape, spec.levels, spec.classes) == (train[0].shape[1:], 256, 10)


# Fashion-MNIST


def idx_bytes(array: Bytes) -> bytes:
    """The format as its authors describe it."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def small_fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    files = []
    for prefix, (images, labels) in (("train", examples(30, (28, 28), 1)), ("t10k", examples(20, (28, 28), 2))):
        for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
            files.append(pinned(name, idx_bytes(array)))
    monkeypatch.setattr(fashion, "FASHION_MNIST_FILES", tuple(files))
    monkeypatch.setattr(idx, "_VAL", 10)
    return folder


def test_fashion_mnist_splits(small_fashion: Path) -> None:
    data = fashion.fashion_mnist(str(small_fashion))
    train, test = examples(30, (28, 28), 1), examples(20, (28, 28), 2)
    check_splits(data, (train[0][:, None], train[1]), (test[0][:, None], test[1]), 10)
    assert data.spec.name == "fashion_mnist"


def test_mnist_is_not_taken_for_fashion_mnist(
    small_fashion: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [(file.name, file.size) for file in FASHION_MNIST_FILES] == [(file.name, file.size) for file in MNIST_FILES]
    assert len({file.sha256 for file in (*FASHION_MNIST_FILES, *MNIST_FILES)}) == 8
    monkeypatch.setattr(fashion, "FASHION_MNIST_FILES", MNIST_FILES)
    assert "unpacks to other bytes" in complaint(fashion.fashion_mnist, small_fashion)
    (small_fashion / "train-labels-idx1-ubyte.gz").unlink()
    (small_fashion / "train-images-idx3-ubyte").write_bytes(b"")
    assert "train-images-idx3-ubyte holds other bytes" in complaint(fashion.fashion_mnist, small_fashion)
    assert cached(cache) == []


# CIFAR-10: two archives, one data set


PER_FILE = 8
TRAIN, TEST = examples(5 * PER_FILE, (3, 32, 32), 3), examples(PER_FILE + 2, (3, 32, 32), 4)
PARTS = {
    **{f"data_batch_{k + 1}": tuple(part[PER_FILE * k : PER_FILE * (k + 1)] for part in TRAIN) for k in range(5)},
    "test_batch": TEST,
}


def records(images: Bytes, labels: Bytes) -> bytes:
    """The binary version as its author describes it: the label, then the red, green and blue plane, row by row."""
    return b"".join(
        bytes([int(label)]) + b"".join(plane.tobytes() for plane in image)
        for image, label in zip(images, labels, strict=True)
    )


def picture(images: Bytes, mode: str = "RGB") -> bytes:
    """An image a row, its pixels in C order, as the package holds them."""
    rows = images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3)
    stream = io.BytesIO()
    Image.fromarray(rows).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def package_members() -> dict[str, bytes]:
    members = {f"package/{name}.png": picture(images) for name, (images, _) in PARTS.items()}
    members["package/train_lables.json"] = json.dumps(TRAIN[1].tolist()).encode()
    members["package/test_lables.json"] = json.dumps(TEST[1].tolist()).encode()
    return members


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with look-alikes: the binary files, the archive of them and the package of pictures."""
    folder = tmp_path / "mine"
    folder.mkdir()
    contents = {f"{name}.bin": records(*part) for name, part in PARTS.items()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(cifar, "CIFAR10_FILES", tuple(pinned(name, content) for name, content in contents.items()))
    monkeypatch.setattr(cifar, "_VAL", 5)
    members = {f"cifar-10-batches-bin/{name}": content for name, content in contents.items()}
    digest = tarball(tmp_path / "binary.tar.gz", members | {"cifar-10-batches-bin/readme.html": b"<p>"})
    size = (tmp_path / "binary.tar.gz").stat().st_size
    monkeypatch.setattr(
        cifar,
        "_SOURCES",
        (
            ArchiveDownload("http://127.0.0.1:1/binary.tar.gz", digest, size, "cifar-10-batches-bin"),
            PicturePackage("npm", "thing", "1.0.0", tarball(tmp_path / "thing.tgz", package_members()), "package"),
        ),
    )
    return folder


@pytest.mark.parametrize("place", ["mine", "binary.tar.gz", "thing.tgz"])
def test_cifar10_is_the_same_from_everywhere(small_cifar: Path, cache: Path, place: str) -> None:
    for _ in range(2):
        check_splits(cifar.cifar10(str(small_cifar.parent / place)), TRAIN, TEST, 5)
    assert cifar.cifar10(str(small_cifar)).spec.name == "cifar10"
    # From here on no source is needed, not even the raw files.
    for file in (cache / "cifar10").glob("*.bin"):
        file.unlink()
    check_splits(cifar.cifar10(), TRAIN, TEST, 5)


def test_cifar10_bad_files_are_refused(small_cifar: Path, cache: Path) -> None:
    target = small_cifar / "data_batch_3.bin"
    whole = target.read_bytes()
    for bad in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        target.write_bytes(bad)
        assert "data_batch_3.bin holds other bytes" in complaint(cifar.cifar10, small_cifar)
    target.unlink()
    assert "has neither data_batch_3.bin nor data_batch_3.bin.gz" in complaint(cifar.cifar10, small_cifar)
    assert "none of the published archives" in complaint(cifar.cifar10, small_cifar / "test_batch.bin")
    assert cached(cache) == []


@pytest.mark.parametrize(
    ("member", "content", "reason"),
    [
        ("data_batch_2.png", picture(TRAIN[0][:PER_FILE], "L"), "data_batch_2.png is L"),
        ("data_batch_2.png", picture(TRAIN[0][: PER_FILE - 1]), "data_batch_2.png is RGB (1024, 7)"),
        ("data_batch_2.png", picture(TRAIN[0][:PER_FILE]), "another data_batch_2.bin"),
        ("data_batch_2.png", b"no picture", "data_batch_2.png is no readable PNG"),
        ("data_batch_2.png", picture(TRAIN[0][:PER_FILE])[:-3000], "data_batch_2.png is no readable PNG"),
        ("data_batch_2.png", resized(picture(TRAIN[0][:PER_FILE]), 10_000, 10_000), "DecompressionBombWarning"),
        ("data_batch_2.png", resized(picture(TRAIN[0][:PER_FILE]), 1 << 20, 1 << 20), "DecompressionBombError"),
        ("data_batch_2.png", bytes(1 << 20), "data_batch_2.png is longer than"),
        ("data_batch_2.png", None, "no regular file package/data_batch_2.png"),
        ("train_lables.json", b"[1, 2", "train_lables.json is no list"),
        ("train_lables.json", b'{"0": 1}', "train_lables.json is no list"),
        ("train_lables.json", b"[" * 100_000, "train_lables.json is no list"),
        ("train_lables.json", b"[1, 2, 10]", "train_lables.json is no list"),
        ("train_lables.json", b"[true]", "train_lables.json is no list"),
        ("train_lables.json", b"[1, 2, 3]", "3 labels for the 8 images of data_batch_1.bin"),
        ("test_lables.json", None, "no regular file package/test_lables.json"),
    ],
)
def test_cifar10_bad_packages_are_refused(
    small_cifar: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, member: str, content: bytes | None, reason: str
) -> None:
    members = package_members()
    del members[f"package/{member}"]
    if content is not None:
        members[f"package/{member}"] = content
    path = small_cifar.parent / "thing.tgz"
    package = PicturePackage("npm", "thing", "1.0.0", tarball(path, members), "package")
    monkeypatch.setattr(cifar, "_SOURCES", (package,))
    assert reason in complaint(cifar.cifar10, path)
    assert not any("data_batch_2" in name or "decoded" in name for name in cached(cache))


def test_cifar10_nowhere_to_be_had(small_cifar: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PATH", "")
    text = complaint(cifar.cifar10, None)
    for part in ("ConnectionError at binary.tar.gz", "npm is not installed", "data_batch_1.bin", "data.path"):
        assert part in text
    assert cached(cache) == []


@pytest.mark.parametrize("content", [b"", bytes(3072), bytes(3074), bytes([10]) + bytes(3072)])
def test_read_records_refuses_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file has"):
        read_records(tmp_path / "file")


def test_cifar10_pinned_sizes_are_those_of_the_format() -> None:
    assert [file.size for file in CIFAR10_FILES] == [10_000 * 3073] * 6
    assert len({file.sha256 for file in CIFAR10_FILES}) == 6


# SVHN


def write_mat(path: Path, images: Bytes, digits: Bytes, **other: object) -> None:
    """X (32, 32, 3, N) and y (N, 1), where the digit 0 has the label 10."""
    y = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
    savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": y} | other, do_compression=True)


@pytest.fixture
def small_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    write_mat(folder / "train_32x32.mat", *TRAIN)
    write_mat(folder / "test_32x32.mat", *TEST)
    files = tuple(pinned(name, (folder / name).read_bytes()) for name in ("train_32x32.mat", "test_32x32.mat"))
    monkeypatch.setattr(svhn, "SVHN_FILES", files)
    monkeypatch.setattr(svhn, "_VAL", 5)
    return folder


def test_svhn_splits(small_svhn: Path) -> None:
    for path in (str(small_svhn), None):  # the second time from the decoded arrays
        check_splits(svhn.svhn(path), TRAIN, TEST, 5)


def test_svhn_bad_files_are_refused(small_svhn: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = small_svhn / "test_32x32.mat"
    whole = target.read_bytes()
    for bad in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        target.write_bytes(bad)
        assert "test_32x32.mat holds other bytes" in complaint(svhn.svhn, small_svhn)
    target.unlink()
    assert "has neither test_32x32.mat" in complaint(svhn.svhn, small_svhn)
    monkeypatch.setattr(svhn, "SVHN_FILES", SVHN_FILES)
    assert "435e94d69a87fde4" in complaint(svhn.svhn, small_svhn)
    assert cached(cache) == []


def test_read_mat_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "file.mat"
    write_mat(path, *TEST)
    whole = path.read_bytes()
    for bad in (b"", b"no MATLAB file", whole[:200], whole[: len(whole) // 2]):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"file\.mat"):
            read_mat(path)
    images, digits = TEST
    for wrong in (
        {"X": images}, {"X": images.transpose(2, 3, 1, 0).astype(float)}, {"y": np.ones((3, 1), np.uint8)},
        {"y": np.full((len(digits), 1), 11, np.uint8)}, {"y": np.zeros((len(digits), 1), np.uint8)},
    ):  # fmt: skip
        write_mat(path, images, digits, **wrong)
        with pytest.raises(ValueError, match=r"file\.mat"):
            read_mat(path)


# Fewer levels


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_five_bits_are_another_data_set(name: str, request: pytest.FixtureRequest, cache: Path) -> None:
    folder = str(request.getfixturevalue(f"small_{name.rstrip('10')}"))
    load = {"cifar10": cifar.cifar10, "svhn": svhn.svhn}[name]
    fine, coarse = load(folder), load(folder, bits=5)
    assert (fine.spec.name, fine.spec.levels) == (name, 256)
    assert (coarse.spec.name, coarse.spec.levels) == (f"{name}-5bit", 32)
    assert fine.spec.revision != coarse.spec.revision
    for whole, part in ((fine.train, coarse.train), (fine.val, coarse.val), (fine.test, coarse.test)):
        assert torch.equal(part.x, whole.x // 8)
        assert part.y is not None
        assert whole.y is not None
        assert torch.equal(part.y, whole.y)
    assert int(coarse.train.x.max()) == 31
    for bits in (0, 3, 9, -8):
        assert f"not {bits}; set data.bits" in complaint(partial(load, bits=bits), Path(folder))


def test_eight_bits_have_the_revision_of_published_rows(small_cifar: Path) -> None:
    """A hash of the files and of what is done with them: nothing else may move it."""
    hashes = [file.sha256 for file in cifar.CIFAR10_FILES]
    expected = revision("cifar10", *hashes, "validation: the last 5,000 of train")
    assert cifar.cifar10(str(small_cifar)).spec.revision == expected


def whole(data: Data) -> tuple[Bytes, Bytes]:
    assert data.train.y is not None
    assert data.val.y is not None
    return torch.cat([data.train.x, data.val.x]).numpy(), torch.cat([data.train.y, data.val.y]).numpy()


def test_whole_puts_the_published_training_set_together(small_svhn: Path) -> None:
    images, labels = whole(svhn.svhn(str(small_svhn)))
    assert np.array_equal(images, TRAIN[0])
    assert np.array_equal(labels, TRAIN[1])


# The real ones, fetched from wherever they can be had: pytest -m slow


def real(load: Callable[[], Data], cache: Path) -> Data:
    try:
        return load()
    except UserError as error:
        pytest.skip(f"its bytes cannot be had here: {error}")


@pytest.mark.slow
@pytest.mark.parametrize(("load", "mean", "std"), [(fashion.fashion_mnist, 0.2860, 0.3530), (mnist, 0.1307, 0.3081)])
def test_real_idx_data(cache: Path, load: Callable[[], Data], mean: float, std: float) -> None:
    data = real(load, cache)
    images, labels = whole(data)
    assert images.shape == (60_000, 1, 28, 28)
    assert images.mean() / 255 == pytest.approx(mean, abs=5e-5)  # the published figures have four digits
    assert images.std() / 255 == pytest.approx(std, abs=5e-5)
    if load is fashion.fashion_mnist:
        assert np.bincount(labels).tolist() == [6000] * 10
        assert data.test.y is not None
        assert torch.bincount(data.test.y).tolist() == [1000] * 10


@pytest.mark.slow
def test_real_cifar10(cache: Path) -> None:
    data = real(cifar.cifar10, cache)
    images, labels = whole(data)
    assert data.spec.revision == "65965f88e4aef316"
    assert images.shape == (50_000, 3, 32, 32)
    assert (images.mean((0, 2, 3)) / 255).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert (images.std((0, 2, 3)) / 255).tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)
    assert np.bincount(labels).tolist() == [5000] * 10
    assert data.test.y is not None
    assert torch.bincount(data.test.y).tolist() == [1000] * 10
    # The decoded bytes, whatever the source: images in the order CHW, labels as unsigned bytes.
    test = data.test.x.numpy(), data.test.y.numpy()
    digests = [hashlib.sha256(array.astype(np.uint8).tobytes()).hexdigest()[:16] for array in (images, labels, *test)]
    assert digests == ["9d5c2eddadb0deff", "2b7cd2f244873176", "177777c33ba79825", "cec8a24a1e92aa2e"]
    # MD5s of the binary version that other projects publish.
    md5s = [hashlib.md5((cache / "cifar10" / file.name).read_bytes()).hexdigest() for file in CIFAR10_FILES]
    assert (md5s[0], md5s[5]) == ("5dd7e06a14cb22eb9f671a540d1b7c25", "803d5f7f4d78ea53de84dbe85f74fb6d")
    start = time.perf_counter()
    cifar.cifar10()
    assert time.perf_counter() - start < 1
