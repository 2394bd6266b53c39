"""Folders of pictures as people have them: splits, other files beside the pictures, rotated and unusual pictures."""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import check_data, complaint, encoded, examples
from PIL import Image

from bench.data.base import Split
from bench.data.folder import image_folder
from bench.data.formats.samples import read_samples
from bench.errors import UserError
from bench.schema import DataSpec

pytestmark = pytest.mark.usefixtures("cache")

IMAGES = examples(90, (3, 6, 5), 0)[0]
FILES = [encoded(image) for image in IMAGES]
COLOUR = DataSpec("mine", "0", (3, 6, 5), 256, 1, 1, 1, None, "none", "none")


def put(folder: Path, places: dict[str, range]) -> str:
    """Write the files of these numbers into these subfolders."""
    for place, numbers in places.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        for k in numbers:
            (folder / place / f"{k}.png").write_bytes(FILES[k])
    return str(folder)


def numbers(split: Split) -> list[int]:
    """Which of the images a split has."""
    of_image = {image.tobytes(): k for k, image in enumerate(IMAGES)}
    return [of_image[x.numpy().tobytes()] for x in split.x]


# Splits


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Train", "VALID", "Test"), ("TRAIN", "validation", "TEST"), ("train", "Val", "test")],
)
def test_folders_named_as_splits_are_splits(tmp_path: Path, train: str, val: str, test: str) -> None:
    places = {f"{train}/cat": range(20), f"{train}/dog": range(20, 40), f"{val}/cat": range(40, 43)}
    places |= {f"{val}/dog/old": range(43, 50), f"{test}/cat": range(50, 60), f"{test}/dog": range(60, 65)}
    data = image_folder(put(tmp_path / "mine", places))
    check_data(data, "image_folder")
    for split, first, middle, last in ((data.train, 0, 20, 40), (data.val, 40, 43, 50), (data.test, 50, 60, 65)):
        found = numbers(split)
        assert sorted(found) == list(range(first, last))
        assert split.y is not None
        assert split.y.tolist() == [int(k >= middle) for k in found]
    assert data.notes == ()


def test_validation_is_the_last_tenth_of_train(tmp_path: Path) -> None:
    data = image_folder(put(tmp_path / "mine", {"train": range(50), "test": range(50, 58)}))
    check_data(data, "image_folder")
    order = sorted(range(50), key=lambda k: hashlib.sha256(FILES[k]).hexdigest())
    assert numbers(data.train) == order[:45]
    assert numbers(data.val) == order[45:]
    assert sorted(numbers(data.test)) == list(range(50, 58))
    moved = image_folder(put(tmp_path / "other", {"train": range(49), "test": range(49, 58)}))
    assert moved.spec.revision != data.spec.revision


def test_an_image_of_two_splits_is_held_out(tmp_path: Path) -> None:
    places = {"train": range(30), "val": range(28, 36), "test": range(34, 40)}
    data = image_folder(put(tmp_path / "mine", places))
    check_data(data, "image_folder")
    splits = [sorted(numbers(split)) for split in (data.train, data.val, data.test)]
    assert splits == [list(range(28)), list(range(28, 34)), list(range(34, 40))]
    assert data.notes == ("4 images are in several splits; each counts only in test, or else in validation",)


def test_classes_must_be_complete(tmp_path: Path) -> None:
    places = {"train/cat": range(20), "train/dog": range(20, 30), "test": range(40, 50)}
    data = image_folder(put(tmp_path / "flat", places))
    assert data.spec.classes is None
    assert "so that there are no classes" in " ".join(data.notes)
    places = {"train/cat": range(20), "train/dog": range(20, 30), "test/cat": range(40, 50), "test/fox": range(50, 55)}
    assert "no images of the class fox in train" in complaint(image_folder, Path(put(tmp_path / "fox", places)))


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ({"train": range(20), "cat": range(20, 40)}, "has the split train and beside it the folder cat; leave only"),
        (
            {"Train": range(9), "test": range(9, 20), "new": range(20, 40)},
            "has the split Train, test and beside it the",
        ),
        ({"train": range(20), "test": range(20, 40), ".": range(40, 50)}, "beside it pictures in no folder"),
        ({"valid": range(20), "invalid": range(20, 40)}, "or rename the split if it is a class"),
        ({"train": range(20), "val": range(20, 40)}, "has the split train, val but no pictures in test"),
        ({"train/cat": range(20), "train/dog": range(20, 40)}, "mine/train to have it split"),
        ({"test": range(20)}, "no pictures in train; add a folder train"),
        (
            {"train": range(20), "test": range(20, 40), "val": range(2), "Valid": range(2)},
            "has Valid and val, which are",
        ),
        ({"train": range(9), "test": range(9, 40)}, "has too few images for val"),
        (
            {"cat/train": range(20), "cat/test": range(20, 30), "dog": range(30, 40)},
            "mine/cat has the splits train and",
        ),
        (
            {"photos/Train/cat": range(20), "photos/Test/cat": range(20, 30)},
            "mine/photos has the splits train and test",
        ),
    ],
)
def test_doubtful_splits_are_refused(tmp_path: Path, places: dict[str, range], reason: str) -> None:
    assert reason in complaint(image_folder, Path(put(tmp_path / "mine", places)))


# Files beside the pictures


def test_what_is_no_picture_is_passed_over_and_counted(tmp_path: Path) -> None:
    folder = Path(put(tmp_path / "mine", {"a": range(20), "b": range(20, 40)}))
    before = image_folder(str(folder))
    assert before.notes == ()
    for name, content in {
        "README.txt": b"two kinds", "a/Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(99), "b/desktop.ini": b"[x]",
        ".DS_Store": b"\0\0\0\1Bud1", "labels.csv": b"", "a/LICENSE": b"BMW pictures", "a/._1.png": b"x",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    (folder / "docs").mkdir()
    (folder / "docs" / "how.md").write_bytes(b"# How")  # and no class
    data = image_folder(str(folder))
    assert data.spec == before.spec
    (note,) = data.notes
    assert note.startswith("passed over 8 in ")
    assert note.endswith("that are hidden or no pictures: .DS_Store, README.txt, labels.csv, ...")
    (folder / "b" / "photo").write_bytes(FILES[50])  # a picture by its content
    assert image_folder(str(folder)).spec.n_train == before.spec.n_train + 1


def test_large_files_beside_the_pictures_are_not_read(tmp_path: Path) -> None:
    folder = Path(put(tmp_path / "mine", {".": range(20)}))
    with (folder / "mine.zip").open("wb") as stream:
        stream.truncate(1 << 30)
    assert len(image_folder(str(folder)).notes) == 1


def test_only_other_files_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.txt").write_text("none yet")
    assert "mine has no images; set data.path" in complaint(image_folder, tmp_path / "mine")


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut", "cut.txt"])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_truncated_picture_is_named(tmp_path: Path, name: str, form: str) -> None:
    folder = Path(put(tmp_path / "mine", {".": range(20)}))
    (folder / name).write_bytes(encoded(IMAGES[50], form)[:-30])
    assert f"{name} is no readable PNG or JPEG" in complaint(image_folder, folder)


# Pictures that are refused on both sides


def sixteen_bits(colour_type: int, channels: int) -> bytes:
    """A white opaque PNG of 16 bits per channel, 5 x 6."""
    rows = (b"\0" + b"\xff" * (10 * channels)) * 6
    header = struct.pack(">IIBBBBB", 5, 6, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def frames(form: str) -> bytes:
    stream = io.BytesIO()
    first, *others = (Image.fromarray(image.transpose(1, 2, 0)) for image in IMAGES[50:53])
    first.save(stream, form, save_all=True, append_images=others)
    return stream.getvalue()


BAD = {
    "16-bit grey": sixteen_bits(0, 1), "16-bit RGB": sixteen_bits(2, 3), "16-bit grey and alpha": sixteen_bits(4, 2),
    "16-bit RGBA": sixteen_bits(6, 4), "CMYK": encoded(IMAGES[50], "JPEG", "CMYK"),
    **{form: frames(form) for form in ("PNG", "GIF", "WEBP", "TIFF", "MPO")},
    "one GIF": encoded(IMAGES[50], "GIF"), "one WEBP": encoded(IMAGES[50], "WEBP"), "BMP": encoded(IMAGES[50], "BMP"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["bad.png", "bad"])
@pytest.mark.parametrize("kind", BAD)
def test_other_depths_modes_and_frames_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    folder = Path(put(tmp_path / "mine", {".": range(20)}))
    (folder / name).write_bytes(BAD[kind])
    assert f"{name} " in complaint(image_folder, folder)
    if name == "bad.png":
        with pytest.raises(UserError, match=r"bad\.png (is|has) "):
            read_samples(folder, COLOUR)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_fewer_bits_are_fine(tmp_path: Path, mode: str) -> None:
    folder = Path(put(tmp_path / "mine", {".": range(20)}))
    (folder / "more.png").write_bytes(encoded(IMAGES[50], mode=mode))
    data = image_folder(str(folder))
    assert data.spec.n_train + data.spec.n_val + data.spec.n_test == 21


# Rotation


def late(png: bytes) -> bytes:
    """The same PNG with its EXIF data behind the pixels."""
    at = png.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(png[at : at + 4], "big")
    return png[:at] + png[end:-12] + png[at:end] + png[-12:]


TURNS: dict[int, Callable[[Image.Image], Image.Image]] = {  # what undoes each orientation
    2: lambda seen: seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda seen: seen.transpose(Image.Transpose.ROTATE_180),
    4: lambda seen: seen.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda seen: seen.transpose(Image.Transpose.TRANSPOSE),
    6: lambda seen: seen.transpose(Image.Transpose.ROTATE_90),
    7: lambda seen: seen.transpose(Image.Transpose.TRANSVERSE),
    8: lambda seen: seen.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("place", [lambda png: png, late])
@pytest.mark.parametrize("turn", TURNS)
def test_pngs_are_turned_as_they_say(tmp_path: Path, turn: int, place: Callable[[bytes], bytes]) -> None:
    """Pictures that are stored turned are seen as they were, by both readers."""
    (tmp_path / "mine").mkdir()
    exif = Image.Exif()
    exif[0x0112] = turn
    for k in range(20):
        stream = io.BytesIO()
        TURNS[turn](Image.fromarray(IMAGES[k].transpose(1, 2, 0))).save(stream, "PNG", exif=exif)
        (tmp_path / "mine" / f"{k:02}.png").write_bytes(place(stream.getvalue()))
    data = image_folder(str(tmp_path / "mine"))
    assert sorted(k for split in (data.train, data.val, data.test) for k in numbers(split)) == list(range(20))
    assert torch.equal(read_samples(tmp_path / "mine", COLOUR), torch.from_numpy(IMAGES[:20]))


@pytest.mark.parametrize("turn", [0, 1, 9, 77])
def test_orientations_that_do_not_exist_turn_nothing(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    (tmp_path / "mine").mkdir()
    for k in range(12):
        (tmp_path / "mine" / f"{k:02}.png").write_bytes(encoded(IMAGES[k], exif=exif))
    assert torch.equal(read_samples(tmp_path / "mine", COLOUR), torch.from_numpy(IMAGES[:12]))
    assert np.isin(numbers(image_folder(str(tmp_path / "mine")).train), range(12)).all()


def test_a_png_without_rotation_is_not_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "mine", {".": range(20)})
    image_folder(folder)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert len(image_folder(folder).train) == 16  # read from the cache, though each header is read again
