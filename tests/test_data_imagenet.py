"""The two publications of ImageNet, from archives of the true formats at small size."""

import io
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import Bytes, cached, check_data, complaint, encoded, examples, pinned, resized, zipped
from numpy.random import RandomState

from bench.data import imagenet
from bench.data.base import Data
from bench.data.imagenet import IMAGENET_FILES, IMAGENET_SIZES

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


N_TRAIN, N_TEST, N_VAL = 30, 9, 6
TARS, ZIPS = ("imagenet32", "imagenet64"), ("imagenet32_chrabaszcz", "imagenet64_chrabaszcz")


def side_of(name: str) -> int:
    return 64 if "64" in name else 32


def pictures(name: str) -> tuple[Bytes, Bytes, list[int], list[int]]:
    side = side_of(name)
    train, test = examples(N_TRAIN, (3, side, side), 1)[0], examples(N_TEST, (3, side, side), 2)[0]
    return train, test, RandomState(3).randint(1000, size=N_TRAIN).tolist(), list(range(991, 1000))


def put_imagenet(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> None:
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    monkeypatch.setitem(imagenet.IMAGENET_FILES, name, tuple(pinned(*item) for item in contents.items()))
    monkeypatch.setitem(imagenet.IMAGENET_SIZES, name, (N_TRAIN, N_TEST))
    monkeypatch.setattr(imagenet, "_VAL", N_VAL)
    monkeypatch.setattr(imagenet, "_ROWS", 4)
    monkeypatch.setattr(imagenet, "_CHRABASZCZ_SOURCES", ())


def npz(images: Bytes, labels: list[int], save: Callable[..., None] = np.savez) -> bytes:
    """As its authors made it: data (n, 3 s^2), labels from 1, and in training files the mean."""
    stream = io.BytesIO()
    save(stream, data=images.reshape(len(images), -1), labels=labels, mean=images.reshape(len(images), -1).mean(0))
    return stream.getvalue()


def png_members(top: str, images: Bytes) -> dict[str, bytes]:
    return {f"{top}/{k + 1:07d}.png": encoded(image) for k, image in enumerate(images)}


def tar(members: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo("train")
        folder.type = tarfile.DIRTYPE
        for info in (folder, *others):
            archive.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def archives(name: str) -> dict[str, bytes]:
    """The archives of a data set, of the names and in the formats of the published ones."""
    train, test, labels, test_labels = pictures(name)
    side = side_of(name)
    if name in TARS:
        return {
            f"train_{side}x{side}.tar": tar(png_members(f"train_{side}x{side}", train)),
            f"valid_{side}x{side}.tar": tar(png_members(f"valid_{side}x{side}", test)),
        }
    # Ten files, and their order in the archive is not that of their numbers.
    batches = {
        f"train_data_batch_{k}.npz": npz(
            train[3 * k - 3 : 3 * k], [label + 1 for label in labels[3 * k - 3 : 3 * k]],
            np.savez if k % 2 == 0 else np.savez_compressed,
        )
        for k in (10, 2, 1, 3, 4, 5, 6, 7, 8, 9)
    }  # fmt: skip
    val = {"val_data.npz": npz(test, [label + 1 for label in test_labels])}
    if name == "imagenet32_chrabaszcz":
        return {"Imagenet32_train_npz.zip": zipped(batches), "Imagenet32_val_npz.zip": zipped(val)}
    first = {file: content for file, content in batches.items() if file[17:-4] in "12345"}
    second = {f"Imagenet64_train_part2_npz/{file}": content for file, content in batches.items() if file not in first}
    return {
        "Imagenet64_train_part1_npz.zip": zipped(first, zipfile.ZIP_STORED),
        "Imagenet64_train_part2_npz.zip": zipped(second),
        "Imagenet64_val_npz.zip": zipped(val),
    }


def load(name: str, path: str | None, bits: int = 8) -> Data:
    made = getattr(imagenet, name)(path, bits=bits)
    assert isinstance(made, Data)
    return made


@pytest.mark.parametrize("name", [*TARS, *ZIPS])
def test_imagenet_splits(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_imagenet(name, folder, monkeypatch, archives(name))
    train, test, labels, test_labels = pictures(name)
    held_out = sorted(RandomState(20250601).permutation(N_TRAIN)[:N_VAL])
    kept = [k for k in range(N_TRAIN) if k not in held_out]
    for path in (str(folder), None):  # the second time from the decoded arrays
        data = load(name, path)
        for split, images, classes in (
            (data.train, train[kept], [labels[k] for k in kept]),
            (data.val, train[held_out], [labels[k] for k in held_out]),
            (data.test, test, test_labels),
        ):
            assert split.x.dtype == torch.uint8
            assert np.array_equal(split.x.numpy(), images)
            assert (None if split.y is None else split.y.tolist()) == (classes if name in ZIPS else None)
        spec = data.spec
        assert (spec.n_train, spec.n_val, spec.n_test) == (N_TRAIN - N_VAL, N_VAL, N_TEST)
        assert (spec.shape, spec.levels) == (train.shape[1:], 256)
        assert spec.classes == (1000 if name in ZIPS else None)
    if name in TARS:  # of 1000 classes a small look-alike cannot have all
        check_data(data, name)


@pytest.mark.parametrize("name", ["imagenet32", "imagenet32_chrabaszcz"])
def test_imagenet_of_five_bits(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_imagenet(name, folder, monkeypatch, archives(name))
    fine, coarse = load(name, str(folder)), load(name, str(folder), bits=5)
    assert (coarse.spec.name, coarse.spec.levels) == (f"{name}-5bit", 32)
    assert coarse.spec.revision != fine.spec.revision
    for whole, part in ((fine.train, coarse.train), (fine.val, coarse.val), (fine.test, coarse.test)):
        assert torch.equal(part.x, whole.x // 8)
        assert (part.y is None) == (whole.y is None)
        assert part.y is None or torch.equal(part.y, whole.y)


def test_the_publications_of_imagenet_are_different_data() -> None:
    assert len({file.sha256 for files in IMAGENET_FILES.values() for file in files}) == 9
    for name in TARS:
        assert IMAGENET_SIZES[name] == (1_281_149, 49_999)
        # Tars of whole blocks.
        assert all(file.size % 10_240 == 0 for file in IMAGENET_FILES[name])
    for name in ZIPS:
        assert IMAGENET_SIZES[name] == (1_281_167, 50_000)


@pytest.mark.parametrize("name", ["imagenet32", "imagenet64_chrabaszcz"])
def test_imagenet_bad_files_are_refused(name: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_imagenet(name, folder, monkeypatch, archives(name))
    first = imagenet.IMAGENET_FILES[name][0]
    target = folder / first.name
    right = target.read_bytes()
    for bad in (b"", right[:-1], right[:-1] + bytes([right[-1] ^ 1])):
        target.write_bytes(bad)
        assert f"{first.name} holds other bytes" in complaint(partial(load, name), folder)
    target.unlink()
    assert f"has neither {first.name}" in complaint(partial(load, name), folder)
    assert f"could not get {first.name}" in complaint(partial(load, name), None)
    assert cached(cache) == []


def refused(name: str, contents: dict[str, bytes], folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said about archives that have the right hashes and the wrong content; nothing of them stays."""
    put_imagenet(name, folder, monkeypatch, contents)
    text = complaint(partial(load, name), folder)
    assert "cannot be decoded" in text
    assert cached(cache) == []
    return text


IMAGE = pictures("imagenet32")[0][7]
SEVENTH = "train_32x32/0000008.png"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there are 29 images instead of the published 30"),
        (b"", f"{SEVENTH} is no readable PNG"),
        (encoded(IMAGE)[:-500], f"{SEVENTH} is no readable PNG"),
        (encoded(IMAGE, "JPEG"), f"{SEVENTH} is no readable PNG"),
        (encoded(IMAGE, mode="L"), f"{SEVENTH} is L (32, 32) instead of RGB (32, 32)"),
        (encoded(IMAGE[:, :, :31]), f"{SEVENTH} is RGB (31, 32) instead of RGB (32, 32)"),
        (resized(encoded(IMAGE), 1 << 20, 1 << 20), "DecompressionBombError"),
        (resized(encoded(IMAGE), 10_000, 10_000), "DecompressionBombWarning"),
        (encoded(IMAGE) + bytes(20_000), f"{SEVENTH} has"),
    ],
)
def test_imagenet_bad_pictures_are_refused(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str
) -> None:
    contents = archives("imagenet32")
    members = png_members("train_32x32", pictures("imagenet32")[0])
    del members[SEVENTH]
    if content is not None:
        members[SEVENTH] = content
    assert reason in refused("imagenet32", contents | {"train_32x32.tar": tar(members)}, folder, cache, monkeypatch)


def test_imagenet_too_many_pictures_are_refused(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = png_members("train_32x32", examples(N_TRAIN + 1, (3, 32, 32), 1)[0])
    text = refused("imagenet32", archives("imagenet32") | {"train_32x32.tar": tar(members)}, folder, cache, monkeypatch)
    assert "more images than the published 30" in text
    members = png_members("valid_32x32", examples(N_TEST - 1, (3, 32, 32), 1)[0])
    text = refused("imagenet32", archives("imagenet32") | {"valid_32x32.tar": tar(members)}, folder, cache, monkeypatch)
    assert "valid_32x32.tar cannot be decoded (ValueError: there are 8 images instead of the published 9)" in text


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_imagenet_links_and_devices_are_no_pictures(
    kind: bytes, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = folder.parent / "secret.png"
    secret.write_bytes(encoded(IMAGE))
    link = tarfile.TarInfo("train_32x32/0000030.png")
    link.type, link.linkname = kind, str(secret)
    members = png_members("train_32x32", pictures("imagenet32")[0][:29])
    text = refused(
        "imagenet32", archives("imagenet32") | {"train_32x32.tar": tar(members, link)}, folder, cache, monkeypatch
    )
    assert "there are 29 images" in text


def test_nothing_leaves_an_archive_by_its_names(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture called ../../x.png is a picture; no file of such a name is written."""
    members = png_members("../../../outside", pictures("imagenet32")[0])
    put_imagenet("imagenet32", folder, monkeypatch, archives("imagenet32") | {"train_32x32.tar": tar(members)})
    before = set(folder.parent.parent.rglob("*.png"))
    assert len(load("imagenet32", str(folder)).train) == N_TRAIN - N_VAL
    assert set(folder.parent.parent.rglob("*.png")) == before
    assert {Path(name).suffix for name in cached(cache)} == {".npy", ""}


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


class Trap:
    """Unpickling this prints a line."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return print, ("a pickle was opened",)


FIRST = npz(pictures("imagenet32")[0][:3], [1, 2, 3])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "BadZipFile"),
        (FIRST[:-100], "BadZipFile"),
        (FIRST[:3000] + bytes([FIRST[3000] ^ 1]) + FIRST[3001:], "Bad CRC-32"),
        (npz(pictures("imagenet32")[0][:3], [0, 2, 3]), "is none of 1 to 1000"),
        (npz(pictures("imagenet32")[0][:3], [1, 2, 1001]), "is none of 1 to 1000"),
        (npz(pictures("imagenet32")[0][:3], [1, 2]), "data of train_data_batch_1.npz are uint8 (3, 3072)"),
        (npz(pictures("imagenet32")[0][:3, :, :16], [1, 2, 3]), "are uint8 (3, 1536)"),
        (npz(pictures("imagenet32")[0][:3].astype(np.int16), [1, 2, 3]), "are int16 (3, 3072)"),
        (npz(pictures("imagenet32")[0][:2], [1, 2]), "there are 29 images"),
        (zipped({"data.npy": npy(np.zeros((3, 3072), np.uint8))}), "KeyError"),
        (zipped({"labels.npy": npy(np.array([1, 2, 3]))}), "KeyError"),
        (zipped({"labels.npy": npy(np.array([1, 2, 3])), "data.npy": b"no array"}), "magic string"),
        (
            zipped({"labels.npy": npy(np.array([1, 2, 3])), "data.npy": npy(np.zeros((3, 3072), np.uint8))[:-1]}),
            "ends before its row 3",
        ),
        (
            zipped({"labels.npy": npy(np.array([1, 2, 3])), "data.npy": npy(np.zeros((3, 3072), np.uint8, order="F"))}),
            "Fortran",
        ),
        (zipped({"labels.npy": npy(np.array([Trap()], dtype=object))}), "object was not expected"),
        (zipped({"labels.npy": npy(np.zeros(10, int)).replace(b"(10,)", b"(10000000000000,)")}), "have the shape"),
    ],
)
def test_imagenet_bad_arrays_are_refused(
    folder: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    reason: str,
) -> None:
    name = "imagenet32_chrabaszcz"
    contents = archives(name)
    with zipfile.ZipFile(io.BytesIO(contents["Imagenet32_train_npz.zip"])) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    members["train_data_batch_1.npz"] = content
    text = refused(name, contents | {"Imagenet32_train_npz.zip": zipped(members)}, folder, cache, monkeypatch)
    assert reason in text
    assert capsys.readouterr().out == "", "a pickle was opened"


def test_decoding_keeps_some_images_in_memory_not_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,500 images of 12 KB each are 18 MB decoded; 4 at a time are in memory."""
    side, n = 64, 1500
    noise = RandomState(0).randint(256, size=(8, 3, side, side)).astype(np.uint8)
    flat = np.repeat(np.arange(n) % 251, 3 * side * side).astype(np.uint8).reshape(n, 3, side, side)
    flat[:8] = noise
    contents = {"train_64x64.tar": tar(png_members("t", flat)), "valid_64x64.tar": tar(png_members("v", noise))}
    del flat
    put_imagenet("imagenet64", folder, monkeypatch, contents)
    del contents
    monkeypatch.setitem(imagenet.IMAGENET_SIZES, "imagenet64", (n, 8))
    tracemalloc.start()
    try:
        data = load("imagenet64", str(folder))
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()
    assert len(data.train) == n - N_VAL
