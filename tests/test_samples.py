"""Samples of others: one tensor and one hash from every kind of file, and one line for whatever does not fit."""

import io
import math
import os
import pickle
import shutil
import signal
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from bench.data.formats import samples as module
from bench.data.formats.samples import as_samples, read_samples, sha256_of
from bench.errors import UserError
from bench.evaluation.pictures import draw_samples
from bench.schema import DataSpec
from bench.subjects.base import Origin
from bench.subjects.samples import GivenSamples


def spec_of(*shape: int, levels: int | None = 256) -> DataSpec:
    return DataSpec("fakes", "0", shape, levels, 10, 10, 10)


GREY, COLOUR, REALS = spec_of(1, 4, 5), spec_of(3, 4, 5), spec_of(3, levels=None)


def noise(n: int, spec: DataSpec, seed: int = 0) -> Any:
    """Samples as the data's own space has them."""
    rng = np.random.default_rng(seed)
    if spec.levels is None:
        return rng.standard_normal((n, *spec.shape)).astype(np.float32)
    return rng.integers(spec.levels, size=(n, *spec.shape), dtype=np.uint8)


def refusal(path: Path | str, spec: DataSpec = GREY) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as caught:
        read_samples(path, spec)
    text = str(caught.value)
    assert text.isprintable()
    return text


def put_pictures(folder: Path, images: Any, **options: Any) -> Path:
    """A folder of PNGs of ``(N, C, H, W)``, a half of them in a subfolder that is sorted last."""
    (folder / "z").mkdir(parents=True)
    for k, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        parent = folder if 2 * k < len(images) else folder / "z"
        Image.fromarray(np.ascontiguousarray(pixels)).save(parent / f"{k:03}.png", **options)
    return folder


def put_npy(folder: Path, values: Any) -> Path:
    np.save(folder / "a.npy", values)
    return folder / "a.npy"


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Waiting for a pipe's other end becomes an error."""

    def wake(signum: int, frame: object) -> None:
        raise TimeoutError("still waiting after 10 s")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# What it reads


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 5),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5)),
    levels=st.sampled_from([2, 32, 256]),
    seed=st.integers(0, 99),
)
def test_images_are_the_same_from_every_kind(n: int, shape: tuple[int, ...], levels: int, seed: int) -> None:
    spec = spec_of(*shape, levels=levels)
    images = noise(n, spec, seed)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        np.save(home / "a.npy", images)
        np.savez(home / "one.npz", theirs=images)
        np.savez_compressed(home / "several.npz", samples=images, other=np.zeros(3))
        np.savez(home / "unnamed.npz", images, np.zeros(3))
        torch.save(torch.from_numpy(images), home / "a.pt")
        torch.save({"samples": torch.from_numpy(images), "step": 3}, home / "a.pth")
        put_pictures(home / "pictures", images)
        kinds = ["a.npy", "one.npz", "several.npz", "unnamed.npz", "a.pt", "a.pth", "pictures"]
        read = [read_samples(home / kind, spec) for kind in kinds]
    for samples in read:
        assert samples.dtype == torch.uint8
        assert torch.equal(samples, torch.from_numpy(images))
    assert len({sha256_of(samples) for samples in read}) == 1


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 6),
    shape=st.sampled_from([(1,), (2,), (7,), (2, 3), (3, 2, 4)]),
    order=st.sampled_from(["C", "F"]),
    dtype=st.sampled_from(["<f4", ">f4", "<f8", ">f8", "<f2", "<i8", ">i2", "|u1"]),
    seed=st.integers(0, 99),
)
def test_reals_are_the_same_from_every_kind(n: int, shape: Any, order: Any, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 100, (n, *shape)).astype(dtype, order=order) / np.dtype(dtype).type(1)
    values = values.astype(dtype, order=order)
    spec = spec_of(*shape, levels=None)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        np.save(home / "a.npy", values)
        np.savez_compressed(home / "a.npz", samples=values)
        torch.save(torch.from_numpy(values.astype(values.dtype.newbyteorder("="))), home / "a.pt")
        read = [read_samples(home / kind, spec) for kind in ("a.npy", "a.npz", "a.pt")]
    for samples in read:
        assert samples.dtype == torch.float32
        assert samples.is_contiguous()
        assert np.array_equal(samples.numpy(), values.astype(np.float32))
    assert len({sha256_of(samples) for samples in read}) == 1


def test_fractions_survive(tmp_path: Path) -> None:
    values = noise(6, REALS).astype(np.float64) / 3
    assert np.array_equal(read_samples(put_npy(tmp_path, values), REALS).numpy(), values.astype(np.float32))
    torch.save(torch.tensor(values).bfloat16().requires_grad_(), tmp_path / "a.pt")
    assert torch.equal(read_samples(tmp_path / "a.pt", REALS), torch.tensor(values).bfloat16().float())


@pytest.mark.parametrize("spec", [GREY, REALS], ids=["levels", "reals"])
def test_what_genbench_wrote_is_read(spec: DataSpec, tmp_path: Path) -> None:
    samples = torch.from_numpy(noise(70, spec))
    draw_samples(samples, spec.levels, tmp_path / "samples-best")
    assert torch.equal(read_samples(tmp_path / "samples-best.npz", spec), samples)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "<i4", ">i8", "u8", "f2", "f4", "f8", "longdouble"])
def test_any_type_that_keeps_the_levels(dtype: str, tmp_path: Path) -> None:
    spec = spec_of(6, levels=100)
    values = noise(5, spec)
    read = read_samples(put_npy(tmp_path, values.astype(dtype)), spec)
    assert read.dtype == torch.uint8
    assert torch.equal(read, torch.from_numpy(values))


def test_true_and_false_are_two_levels_and_no_more(tmp_path: Path) -> None:
    spec = spec_of(1, 4, 5, levels=2)
    values = noise(5, spec)
    path = put_npy(tmp_path, values.astype(bool))
    assert torch.equal(read_samples(path, spec), torch.from_numpy(values))
    assert torch.equal(read_samples(put_npy(tmp_path, values.astype(np.float32)), spec), torch.from_numpy(values))
    assert "type bool; fakes wants levels 0..255" in refusal(put_npy(tmp_path, values.astype(bool)))
    assert "type bool; fakes wants real numbers" in refusal(path, spec_of(1, 4, 5, levels=None))


@pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["grey", "colour"])
def test_channels_may_be_last(spec: DataSpec, tmp_path: Path) -> None:
    images = noise(6, spec)
    read = read_samples(put_npy(tmp_path, images.transpose(0, 2, 3, 1)), spec)
    assert torch.equal(read, torch.from_numpy(images))
    assert sha256_of(read) == sha256_of(torch.from_numpy(images))


def test_channels_are_first_where_both_orders_fit(tmp_path: Path) -> None:
    for shape in ((3, 3, 3), (4, 4, 4)):
        spec = spec_of(*shape)
        images = noise(6, spec)
        assert torch.equal(read_samples(put_npy(tmp_path, images), spec), torch.from_numpy(images))
    lying = spec_of(3, 5, 3)  # not the same, though first and last axis are of one size
    images = noise(6, lying)
    assert torch.equal(read_samples(put_npy(tmp_path, images), lying), torch.from_numpy(images))


def test_an_axis_of_size_one_may_be_missing(tmp_path: Path) -> None:
    images = noise(6, GREY)
    assert torch.equal(read_samples(put_npy(tmp_path, images[:, 0]), GREY), torch.from_numpy(images))
    line = spec_of(1, levels=None)
    values = noise(6, line)
    assert torch.equal(read_samples(put_npy(tmp_path, values[:, 0]), line), torch.from_numpy(values))


def test_what_is_in_memory_passes_the_same_checks(tmp_path: Path) -> None:
    images = noise(3, COLOUR)
    read = read_samples(put_npy(tmp_path, images), COLOUR)
    for values in (images, torch.from_numpy(images), np.moveaxis(images, 1, -1), images.astype(np.float64)):
        assert torch.equal(as_samples(values, COLOUR), read)
    reals = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    plane = spec_of(2, levels=None)
    assert torch.equal(as_samples(reals.to(torch.bfloat16), plane), reals.to(torch.bfloat16).float())
    assert torch.equal(as_samples(reals.clone().requires_grad_(), plane), reals)
    for values in (images[:1], images / 255, images.astype(str), images[..., :-1]):
        expected = refusal(put_npy(tmp_path, values), COLOUR)
        with pytest.raises(UserError) as caught:
            as_samples(values, COLOUR, f"samples {tmp_path / 'a.npy'}")
        assert str(caught.value) == expected
    with pytest.raises(UserError, match="theirs: the tensor cannot become an array"):
        as_samples(torch.eye(2).to_sparse(), plane, "theirs")


def test_what_may_not_be_written_is_copied_without_a_warning() -> None:
    values = noise(3, GREY)
    values.setflags(write=False)
    made = as_samples(values, GREY)
    made += 1
    assert not np.array_equal(made.numpy(), values)


def test_hashes_tell_type_shape_and_values_apart() -> None:
    values = torch.arange(12, dtype=torch.uint8)
    others = [values.view(3, 4), values.view(4, 3), values.view(torch.float32), values.flip(0), values[:11]]
    hashes = {sha256_of(samples) for samples in (values, *others)}
    assert len(hashes) == 6
    assert all(len(text) == 64 and set(text) <= set("0123456789abcdef") for text in hashes)
    grid = values.view(3, 4)
    assert sha256_of(grid.T) == sha256_of(grid.T.contiguous()), "the order in memory does not count"


def test_memory_is_about_twice_the_array(tmp_path: Path) -> None:
    spec = spec_of(1, 64, 64)
    values = noise(256, spec)
    for dtype, channels_last in (("u1", False), ("u1", True), ("f2", False), ("f8", True), (">i4", False)):
        stored = values.astype(dtype)
        stored = stored.transpose(0, 2, 3, 1) if channels_last else stored
        np.save(tmp_path / "a.npy", stored)
        np.savez_compressed(tmp_path / "a.npz", stored)
        for name in ("a.npy", "a.npz"):
            tracemalloc.start()
            read_samples(tmp_path / name, spec)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 2.1 * stored.nbytes + (1 << 20), (dtype, channels_last, name)


# Pictures


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


@pytest.mark.usefixtures("no_hang")
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


# What it refuses


@pytest.mark.usefixtures("no_hang")
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


# Sizes


def with_header(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """An npy file that claims this shape, whatever is in it."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def peak_of(act: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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


def test_a_tensor_is_what_the_data_would_be(tmp_path: Path) -> None:
    read: Tensor = read_samples(str(put_npy(tmp_path, noise(3, GREY))), GREY)
    read[0] = 7  # a tensor of its own, as every other
    assert read[0].unique().tolist() == [7]


def test_grey_pictures_saved_in_colour_are_grey(tmp_path: Path) -> None:
    """As torchvision saves digits."""
    folder = tmp_path / "grey"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(256, size=(3, 4, 5), dtype=np.uint8)
    for number, frame in enumerate(frames):
        Image.fromarray(np.repeat(frame[..., None], 3, axis=2)).save(folder / f"{number}.png")
    read = read_samples(folder, GREY)
    assert torch.equal(read, torch.from_numpy(frames)[:, None])


@pytest.mark.parametrize("shape", [(7, 3), (5, 1, 4, 4), (2, 2)])
def test_samples_are_put_in_order_in_place(shape: tuple[int, ...]) -> None:
    x = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    origin = Origin(**dict.fromkeys(("run_id", "training_key", "group", "model", "model_family", "checkpoint"), "x"))
    for seed in range(20):
        mine = x.clone()
        ours = GivenSamples(mine, seed, origin, in_place=True).samples(9)
        assert torch.equal(ours, GivenSamples(x, seed, origin).samples(9))
        assert ours.untyped_storage().data_ptr() == mine.untyped_storage().data_ptr(), "no second copy"
    assert torch.equal(x, torch.arange(math.prod(shape), dtype=torch.float32).view(shape)), "the other stays as it was"


def test_pictures_with_channels_last_are_in_memory_once(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (4000, 32, 32, 3), dtype=np.uint8)
    for name in ("a.npy", "a.npz"):
        (np.save if name == "a.npy" else np.savez)(tmp_path / name, stored)
        peak = peak_of(lambda name=name: read_samples(tmp_path / name, spec_of(3, 32, 32)))  # type: ignore[misc]
        assert peak < 1.2 * stored.nbytes, name
