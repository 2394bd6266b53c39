"""Samples of others as a folder of pictures: which files are read, in which order, and which are refused."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_samples import COLOUR, GREY, no_hang, noise, put_pictures, refusal, spec_of
from PIL import Image

from bench.data.formats import samples as module
from bench.data.formats.samples import read_samples
from bench.errors import UserError
from bench.schema import DataSpec


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    images = noise(4, COLOUR)
    for name, image in zip(["b/1.PNG", "c.png", "a/2.png", "a/10.png"], images, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / name)
    assert torch.equal(read_samples(tmp_path, COLOUR), torch.from_numpy(images[[3, 2, 0, 1]]))


def test_what_is_no_picture_is_passed_over(tmp_path: Path) -> None:
    images = noise(4, GREY)
    folder = put_pictures(tmp_path / "mine", images)
    for name in ("README.txt", "Thumbs.db", ".DS_Store", "z/._000.png", "z/fid.json", "none"):
        (folder / name).write_bytes(b"text")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "old.png").write_bytes(b"text")
    os.mkfifo(folder / "pipe")
    assert torch.equal(read_samples(folder, GREY), torch.from_numpy(images))


@pytest.mark.parametrize("name", ["a1", "0001.0", "a.bak"])
def test_a_picture_is_one_whatever_its_name(name: str, tmp_path: Path) -> None:
    images = noise(4, GREY)
    folder = put_pictures(tmp_path / "mine", images)
    (folder / "000.png").rename(folder / name)
    found = read_samples(folder, GREY)
    assert sorted(x.numpy().tobytes() for x in found) == sorted(image.tobytes() for image in images)
    (folder / name).write_bytes(b"GIF89a" + bytes(30))
    assert f"{name} is no readable PNG or JPEG" in refusal(folder)


def test_palettes_opaque_alpha_and_jpegs_are_read(tmp_path: Path) -> None:
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 8:] = 255  # the right half is white
    Image.fromarray(image).save(tmp_path / "0.png")
    Image.fromarray(image).convert("P").save(tmp_path / "1.png")
    Image.fromarray(image).convert("RGBA").save(tmp_path / "2.png")
    Image.fromarray(image).save(tmp_path / "3.jpg", quality=100)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what is below becomes left
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 0, 2)[::-1])).save(tmp_path / "4.jpeg", exif=exif)
    read = read_samples(tmp_path, spec_of(3, 8, 16)).numpy()
    for samples in read[:4]:
        assert np.array_equal(samples, image.transpose(2, 0, 1))
    assert np.abs(read[4].astype(int) - image.transpose(2, 0, 1)).max() < 5


def test_grey_pictures_saved_in_colour_are_grey(tmp_path: Path) -> None:
    """As torchvision saves digits."""
    folder = tmp_path / "grey"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(256, size=(3, 4, 5), dtype=np.uint8)
    for number, frame in enumerate(frames):
        Image.fromarray(np.repeat(frame[..., None], 3, axis=2)).save(folder / f"{number}.png")
    read = read_samples(folder, GREY)
    assert torch.equal(read, torch.from_numpy(frames)[:, None])


@pytest.mark.parametrize(
    ("spec", "other", "reason"),
    [
        (GREY, spec_of(1, 5, 4), r"000\.png is 4 x 5 of the kind L; pictures of fakes are 5 x 4, 8-bit grey \(L\)"),
        (GREY, COLOUR, r"000\.png is coloured; pictures of fakes are grey"),
        (COLOUR, GREY, r"000\.png is 5 x 4 of the kind L; pictures of fakes are 5 x 4, 8-bit RGB"),
        (spec_of(4, 4, 5), COLOUR, "fakes is no data of pictures"),
        (spec_of(20), GREY, r"fakes is no data of pictures; give a \.npy"),
        (spec_of(1, 4, 5, levels=None), GREY, "fakes is no data of pictures"),
        (spec_of(1, 4, 5, levels=2), GREY, r"uint8 values from \d+ to \d+; levels 0\.\.1 are wanted"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(spec: DataSpec, other: DataSpec, reason: str, tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "mine", noise(3, other))
    with pytest.raises(UserError, match=reason):
        read_samples(folder, spec)


def test_the_first_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "mine", noise(6, GREY))
    for name in ("z/004.png", "z/005.png"):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / name)
    assert "004.png is 9 x 9" in refusal(folder)


def saved(pixels: Any, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


FRAME = np.arange(20, dtype=np.uint8).reshape(4, 5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "000.png is no readable PNG or JPEG"),
        (b"text", "000.png is no readable PNG or JPEG"),
        (saved(FRAME)[:50], "000.png is no readable PNG or JPEG"),
        (saved(FRAME, "GIF"), "000.png is no readable PNG or JPEG"),
        (saved(FRAME.astype(np.uint16)), "000.png is 5 x 4 of the kind I;16"),
        (saved(FRAME, save_all=True, append_images=[Image.fromarray(255 - FRAME)]), "000.png has more than one frame"),
        (saved(np.stack([FRAME, FRAME], -1)), "000.png is transparent"),
    ],
)
def test_bad_pictures_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "mine", noise(4, GREY))
    (folder / "000.png").write_bytes(content)
    assert reason in refusal(folder)


def test_pictures_of_another_format_are_not_passed_over(tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "mine", noise(4, GREY))
    (folder / "more.gif").write_bytes(saved(FRAME, "GIF"))
    assert "more.gif is no readable PNG or JPEG" in refusal(folder)


@no_hang()
def test_links_and_pipes_among_pictures_are_refused(tmp_path: Path) -> None:
    folder = put_pictures(tmp_path / "mine", noise(4, GREY))
    (folder / "link.png").symlink_to(folder / "000.png")
    assert "link.png is a link" in refusal(folder)
    (folder / "link.png").unlink()
    (folder / "link").symlink_to(folder, target_is_directory=True)
    assert "link is a link" in refusal(folder)
    (folder / "link").unlink()
    os.mkfifo(folder / "pipe.png")
    assert "pipe.png is no regular file" in refusal(folder)
    (folder / "pipe.png").unlink()
    (tmp_path / "by link").symlink_to(folder)  # the user names the folder itself as he likes
    assert len(read_samples(tmp_path / "by link", GREY)) == 4


def test_folders_with_too_little_or_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.txt").write_text("none")
    assert "has no pictures" in refusal(tmp_path / "empty")
    assert "has 1 samples; bring at least 2" in refusal(put_pictures(tmp_path / "one", noise(1, GREY)))
    folder = put_pictures(tmp_path / "mine", noise(4, GREY))
    monkeypatch.setattr(module, "_MAX_PICTURE_BYTES", 20)
    assert "000.png has more than 20 bytes" in refusal(folder)
    monkeypatch.setattr(module, "_MAX_BYTES", 79)
    assert "4 pictures, more than 79 bytes" in refusal(folder)
