"""A user's own pictures: the right pixels, splits by content, and one line for whatever else a folder may hold."""

import hashlib
import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import Bytes, cached, check_data, complaint, encoded, examples, resized
from numpy.random import RandomState
from PIL import Image

from bench.data import folder as module
from bench.data.folder import image_folder
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")

N = 43
IMAGES = examples(N, (3, 6, 5), 0)[0]
FILES = [encoded(image) for image in IMAGES]
DIGESTS = [hashlib.sha256(content).hexdigest() for content in FILES]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """43 PNGs of 5 x 6 pixels."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for k, content in enumerate(FILES):
        (folder / f"{k}.png").write_bytes(content)
    return folder


def damaged(mine: Path, content: bytes) -> Path:
    """The folder with other content in one of its files."""
    (mine / "7.png").write_bytes(content)
    return mine


# What it makes


def test_pixels_and_splits(mine: Path) -> None:
    data = image_folder(str(mine))
    check_data(data, "image_folder")
    order = sorted(range(N), key=DIGESTS.__getitem__)
    n_train = N - 2 * (N // 10)
    assert (len(data.train), len(data.val), len(data.test)) == (n_train, 4, 4)
    assert (data.spec.shape, data.spec.levels, data.spec.classes) == ((3, 6, 5), 256, None)
    assert np.array_equal(data.train.x.numpy(), IMAGES[order[:n_train]])
    assert np.array_equal(data.val.x.numpy(), IMAGES[order[n_train : n_train + 4]])
    assert np.array_equal(data.test.x.numpy(), IMAGES[order[n_train + 4 :]])


def test_a_title_names_it_and_changes_nothing_else(mine: Path) -> None:
    plain, flowers = image_folder(str(mine)).spec, image_folder(str(mine), title="flowers").spec
    assert flowers.name == "image_folder-flowers"
    assert flowers.revision == plain.revision
    with pytest.raises(UserError, match="may hold only letters"):
        image_folder(str(mine), title="my flowers")


def test_names_and_copies_change_nothing(mine: Path, tmp_path: Path) -> None:
    data = image_folder(str(mine))
    other = tmp_path / "other"
    (other / "deep" / "er").mkdir(parents=True)
    for k in range(N):
        content = FILES[N - 1 - k]
        (other / "deep" / ("er" if k % 2 else "") / f"{k}.jpeg").write_bytes(content)  # a PNG by its content
    shutil.copy(mine / "3.png", other / "copy of 3")
    (other / ".DS_Store").write_bytes(b"no picture")
    (other / ".git").mkdir()
    (other / ".git" / "HEAD").write_bytes(b"no picture")
    same = image_folder(str(other))
    assert same.spec.revision == data.spec.revision
    assert torch.equal(same.train.x, data.train.x)
    assert torch.equal(same.test.x, data.test.x)


def test_the_second_time_nothing_is_decoded(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_folder(str(mine))
    monkeypatch.setattr(module, "_pixels", None)
    assert torch.equal(image_folder(str(mine)).train.x, data.train.x)


def test_another_image_is_another_revision(mine: Path) -> None:
    before = image_folder(str(mine)).spec.revision
    (mine / "new.png").write_bytes(encoded(255 - IMAGES[0]))
    after = image_folder(str(mine))
    assert after.spec.revision != before
    assert sum(map(len, (after.train, after.val, after.test))) == N + 1


def test_subfolders_are_classes(tmp_path: Path) -> None:
    for k, content in enumerate(FILES[:40]):
        place = tmp_path / "mine" / ("zebra", "ape")[k % 2] / f"{k // 4}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{k}.png").write_bytes(content)
    data = image_folder(str(tmp_path / "mine"))
    check_data(data, "image_folder")
    assert data.spec.classes == 2
    of_image = {image.tobytes(): 1 - k % 2 for k, image in enumerate(IMAGES[:40])}  # ape is 0, zebra is 1
    for split in (data.train, data.val, data.test):
        assert split.y is not None
        assert [of_image[x.numpy().tobytes()] for x in split.x] == split.y.tolist()

    shutil.copy(tmp_path / "mine" / "ape" / "0" / "1.png", tmp_path / "mine" / "zebra" / "0" / "1.png")
    text = complaint(image_folder, tmp_path / "mine")
    assert "are the same image, which would be of two classes" in text
    assert "zebra/0/1.png" in text
    (tmp_path / "mine" / "top.png").write_bytes(FILES[41])  # then subfolders are no classes, and a copy is a copy
    plain = image_folder(str(tmp_path / "mine"))
    assert plain.spec.classes is None
    assert sum(map(len, (plain.train, plain.val, plain.test))) == 41
    assert plain.spec.revision != data.spec.revision


def test_one_subfolder_is_no_class(tmp_path: Path, mine: Path) -> None:
    mine.rename(tmp_path / "images")
    (tmp_path / "mine").mkdir()
    (tmp_path / "images").rename(tmp_path / "mine" / "images")
    assert image_folder(str(tmp_path / "mine")).spec.classes is None


# Grey and colour


def put(folder: Path, contents: list[bytes]) -> Path:
    folder.mkdir()
    for k, content in enumerate(contents):
        (folder / f"{k}").write_bytes(content)
    return folder


def grey(n: int) -> Bytes:
    """Images with three equal planes."""
    return np.repeat(examples(n, (1, 6, 5), 1)[0], 3, axis=1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_is_seen_in_the_pixels_not_in_the_format(tmp_path: Path, mode: str) -> None:
    images = grey(20)
    if mode == "P":  # at most 256 colours, here of the 30 pixels
        contents = [encoded(image, mode="RGB") for image in images[:10]]
        for image in images[10:]:
            stream = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).quantize(256).save(stream, "PNG")
            contents.append(stream.getvalue())
    else:
        contents = [encoded(image, mode=mode) for image in images]
    data = image_folder(str(put(tmp_path / "mine", contents)))
    assert data.spec.shape == (1, 6, 5)
    found = {x.numpy().tobytes() for split in (data.train, data.val, data.test) for x in split.x}
    assert found == {image[0].tobytes() for image in images}


def test_black_and_white_is_grey(tmp_path: Path) -> None:
    images = [RandomState(k).randint(2, size=(6, 5)).astype(np.uint8) * 255 for k in range(12)]
    contents = [encoded(np.stack([image] * 3), mode="1") for image in images]
    data = image_folder(str(put(tmp_path / "mine", contents)))
    assert data.spec.shape == (1, 6, 5)
    assert set(data.train.x.unique().tolist()) == {0, 255}


def test_one_pixel_of_colour_makes_three_channels(tmp_path: Path) -> None:
    images = grey(20)
    images[13, 2, 5, 4] ^= 1
    folder = put(tmp_path / "mine", [encoded(image) for image in images])
    data = image_folder(str(folder))
    assert data.spec.shape == (3, 6, 5)
    found = {x.numpy().tobytes() for split in (data.train, data.val, data.test) for x in split.x}
    assert found == {image.tobytes() for image in images}


def test_colour_as_told(mine: Path, tmp_path: Path) -> None:
    data = image_folder(str(mine), colour=False)
    assert data.spec.shape == (1, 6, 5)
    order = sorted(range(N), key=DIGESTS.__getitem__)[: len(data.train)]
    luma = np.tensordot(IMAGES[order].astype(np.float64), [0.299, 0.587, 0.114], axes=(1, 0))
    assert np.abs(data.train.x[:, 0].numpy() - luma).max() <= 0.51  # to the nearest level
    images = grey(20)
    data = image_folder(str(put(tmp_path / "grey", [encoded(image, mode="L") for image in images])), colour=True)
    assert data.spec.shape == (3, 6, 5)
    assert torch.equal(data.train.x[:, 0], data.train.x[:, 2])


# Sizes


def test_images_are_reduced_without_aliases(tmp_path: Path) -> None:
    """Of stripes finer than the new pixels the mean remains; without antialiasing one of the two colours would."""
    stripes = np.zeros((3, 64, 96), np.uint8)
    stripes[:, :, ::2] = 200
    contents = []
    for k in range(10):
        image = stripes.copy()
        image[0, :, :16] = k  # outside the square in the middle
        contents.append(encoded(image))
    data = image_folder(str(put(tmp_path / "mine", contents)), size=16)
    assert data.spec.shape == (1, 16, 16)
    inner = data.train.x[:, :, 2:-2, 2:-2].int()  # at the border the filter is cut off
    assert (inner - 100).abs().max() <= 2


def test_the_square_in_the_middle(tmp_path: Path) -> None:
    made = [np.full((3, 8, 20), k, np.uint8) for k in range(10)]
    for k, image in enumerate(made):
        image[:, :, 6:14] = 100 + k
    data = image_folder(str(put(tmp_path / "mine", [encoded(image) for image in made])), size=8)
    values = sorted(x.unique().tolist() for split in (data.train, data.val, data.test) for x in split.x)
    assert values == [[100 + k] for k in range(10)]


def test_images_of_the_size_asked_for_are_kept_as_they_are(tmp_path: Path) -> None:
    images = examples(12, (3, 8, 8), 2)[0]
    folder = put(tmp_path / "mine", [encoded(image) for image in images])
    assert torch.equal(image_folder(str(folder), size=8).train.x, image_folder(str(folder)).train.x)


def test_jpegs_are_turned_as_they_say(tmp_path: Path) -> None:
    wide = np.zeros((3, 8, 16), np.uint8)
    wide[:, :, 8:] = 255  # the right half is white
    contents = []
    for k in range(10):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        image = wide.copy()
        image[:, 0, 0] = 8 * k
        contents.append(encoded(image, "JPEG", quality=100, exif=exif))
    data = image_folder(str(put(tmp_path / "mine", contents)))
    assert data.spec.shape == (1, 16, 8)
    assert data.train.x[:, :, 9:].min() > 250, "right has become below"
    assert data.train.x[:, :, 2:7].max() < 5


# What it refuses


def sixteen_bits() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(IMAGES[7, 0].astype(np.uint16) * 257).save(stream, "PNG")
    return stream.getvalue()


def test_nothing_to_read(tmp_path: Path, cache: Path) -> None:
    text = complaint(image_folder, tmp_path / "nowhere")
    assert "nowhere is no folder that can be read (No such file or directory); set data.path" in text
    (tmp_path / "file.png").write_bytes(FILES[0])
    assert "file.png is no folder" in complaint(image_folder, tmp_path / "file.png")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    assert "empty has no images; set data.path" in complaint(image_folder, tmp_path / "empty")
    (tmp_path / "empty" / ".hidden.png").write_bytes(FILES[0])
    assert "empty has no images" in complaint(image_folder, tmp_path / "empty")
    few = put(tmp_path / "few", [*FILES[:9], *FILES[:9]])
    assert "few has 9 different images, too few" in complaint(image_folder, few)
    assert cached(cache) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "7.png is no readable PNG or JPEG (UnidentifiedImageError)"),
        (b"no picture", "7.png is no readable PNG or JPEG"),
        (FILES[7][:40], "7.png is no readable PNG or JPEG"),
        (FILES[7][:70], "7.png is no readable PNG or JPEG"),
        (FILES[7][:60] + b"\xff" + FILES[7][61:], "7.png is no readable PNG or JPEG"),
        (encoded(IMAGES[7], "JPEG")[:-300], "7.png is no readable PNG or JPEG"),
        (encoded(IMAGES[7], "GIF"), "7.png is no readable PNG or JPEG"),
        (encoded(IMAGES[7], "TIFF"), "7.png is no readable PNG or JPEG"),
        (encoded(IMAGES[7], "JPEG", "CMYK"), "7.png has pixels of the kind CMYK"),
        (sixteen_bits(), "7.png has pixels of the kind I;16"),
        (resized(FILES[7], 1 << 20, 1 << 20), "(DecompressionBombError)"),
        (resized(FILES[7], 10_000, 10_000), "(DecompressionBombWarning)"),
        (resized(FILES[7], 8400, 8000), "7.png has 8400 x 8000 pixels, too many"),
        (encoded(IMAGES[7][:, :5]), "0.png is 5 x 6 and"),
    ],
)
def test_bad_images_are_refused(mine: Path, cache: Path, content: bytes, reason: str) -> None:
    text = complaint(image_folder, damaged(mine, content))
    assert reason in text
    assert cached(cache) == []


def test_transparent_images_are_refused(mine: Path, cache: Path) -> None:
    pixels = np.dstack([IMAGES[7].transpose(1, 2, 0), np.full((6, 5), 255, np.uint8)])
    for alpha, fine in ((255, True), (254, False)):
        pixels[3, 2, 3] = alpha
        stream = io.BytesIO()
        Image.fromarray(pixels, "RGBA").save(stream, "PNG")
        damaged(mine, stream.getvalue())
        if fine:
            data = image_folder(str(mine))
            pixels_of_all = torch.cat([data.train.x, data.val.x, data.test.x]).numpy()
            assert (pixels_of_all == IMAGES[7]).all((1, 2, 3)).sum() == 1
        else:
            assert "7.png is transparent; put it on a background" in complaint(image_folder, mine)


def test_sizes(mine: Path, cache: Path) -> None:
    damaged(mine, encoded(np.zeros((3, 4, 9), np.uint8)))
    assert "7.png 9 x 4; set data.size=N" in complaint(image_folder, mine)
    assert "7.png is 9 x 4, smaller than data.size=5" in complaint(partial(image_folder, size=5), mine)
    assert image_folder(str(mine), size=4).spec.shape == (3, 4, 4)
    for size in (0, -3, 2.5, "8", True):
        text = complaint(partial(image_folder, size=size), mine)  # type: ignore[arg-type]
        assert "set data.size to a number above 0" in text
    assert "set data.colour to true, false or null" in complaint(partial(image_folder, colour="grey"), mine)  # type: ignore[arg-type]


def test_links_pipes_and_locked_files_are_refused(mine: Path, cache: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(FILES[0])
    for target in (secret, mine / "3.png", tmp_path / "nothing"):
        (mine / "link.png").symlink_to(target)
        assert "link.png is a link; put the images themselves" in complaint(image_folder, mine)
        (mine / "link.png").unlink()
    for target in (tmp_path, mine):  # out of the folder, and a circle
        (mine / "link").symlink_to(target, target_is_directory=True)
        assert "link is a link" in complaint(image_folder, mine)
        (mine / "link").unlink()
    os.mkfifo(mine / "pipe.png")
    assert "pipe.png is no regular file" in complaint(image_folder, mine)
    (mine / "pipe.png").unlink()
    assert cached(cache) == []
    (tmp_path / "by link").symlink_to(mine)  # the user names the folder itself as he likes
    assert len(image_folder(str(tmp_path / "by link")).train) == N - 8


def test_what_cannot_be_read_is_said(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(path: object, *args: object, **kwargs: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as context:  # root may read everything
        context.setattr(module.os, "open", locked)
        assert "0.png cannot be read (Permission denied); mend its permissions" in complaint(image_folder, mine)


@pytest.mark.parametrize(
    ("cap", "value", "reason"),
    [
        ("_MAX_FILES", N - 1, "has more than 42 files"),
        ("_MAX_BYTES", 100, ".png has more than 0 MiB"),
        ("_MAX_PIXELS", 29, "has 5 x 6 pixels, too many"),
        ("_MAX_DECODED", N * 90 - 1, "43 images of 5 x 6 take more than 0 GiB"),
    ],
)
def test_caps(mine: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, cap: str, value: int, reason: str) -> None:
    image_folder(str(mine), size=5)
    shutil.rmtree(cache)
    monkeypatch.setattr(module, cap, value)
    assert reason in complaint(image_folder, mine)
    assert cached(cache) == []


def test_a_folder_that_changes_meanwhile(mine: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = list(module._files(mine, []))
    damaged(mine, encoded(255 - IMAGES[7]))
    monkeypatch.setattr(module, "_files", lambda folder, notes: known)
    assert "7.png changed while it was read" in complaint(image_folder, mine)
    assert cached(cache) == []


@pytest.mark.parametrize(
    "name", ["two\nlines.png", "\x1b[31mred.png", b"\xff\xfe.png".decode(errors="surrogateescape")]
)
def test_names_of_any_characters(mine: Path, name: str) -> None:
    (mine / name).write_bytes(b"no picture")
    text = complaint(image_folder, mine)
    text.encode()
    assert "is no readable PNG or JPEG" in text
    (mine / name).unlink()
    (mine / name).mkdir()
    (mine / "other").mkdir()
    for k in range(N):
        (mine / f"{k}.png").rename(mine / (name, "other")[k % 2] / f"{k}.png")
    assert image_folder(str(mine)).spec.classes == 2


def text_bomb() -> bytes:
    """A PNG with 4 MB of compressed text in it."""
    packed = zlib.compress(bytes(4 << 20), 9)
    chunk = b"zTXt" + b"Comment\0\0" + packed
    return (
        FILES[7][:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + FILES[7][33:]
    )


def test_a_bomb_of_text_is_refused(mine: Path, cache: Path) -> None:
    assert "7.png is no readable PNG or JPEG (ValueError)" in complaint(image_folder, damaged(mine, text_bomb()))
    assert cached(cache) == []


@pytest.mark.parametrize("make", [encoded, partial(encoded, form="JPEG")])
def test_damage_anywhere_is_one_line_or_none(mine: Path, make: Callable[..., bytes]) -> None:
    """80 files with some bytes changed, cut out or doubled: each loads, or is refused in one line."""
    for k in range(11, N):
        (mine / f"{k}.png").unlink()
    rng = RandomState(0)
    whole = make(IMAGES[7])
    refusals = []
    for _ in range(80):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            at = rng.randint(len(content))
            kind = rng.randint(4)
            if kind == 0:
                content[at] = rng.randint(256)
            elif kind == 1:
                del content[at : at + rng.randint(1, 20)]
            elif kind == 2:
                content[at:at] = content[max(0, at - 20) : at]
            else:
                content[at] ^= 1 << rng.randint(8)
        try:
            assert len(image_folder(str(damaged(mine, bytes(content)))).train) == 9
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert all(text.isprintable() for text in refusals)
