"""A data set from a folder of the user's own pictures."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.base import Data, titled
from bench.data.bytes.arrays import Chunks, decoded, revision
from bench.data.formats.image_files import PictureError, is_picture, opened_simple, orientation, upright
from bench.data.images import image_data, split_of
from bench.errors import UserError

__all__ = ["image_folder"]

_NAME = "image_folder"
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}  # 8 bits per channel, and colours that need no profile
_SMALLEST = 10  # images; gives one for validation and one for test
_MAX_FILES = 2_000_000
_MAX_BYTES = 64 << 20  # size of one file
_MAX_PIXELS = 64 << 20  # pixels of one image before it is reduced
_MAX_DECODED = 64 << 30  # bytes of all decoded images
_HEAD = 32  # bytes that tell whether a file is a picture
_CHUNK = 32 << 20  # bytes of decoded images held in memory at once
# Names of folders, in lower case, that hold a split of the user's own.
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class _File:
    """A picture.

    Attributes:
        path: Where it lies.
        digest: SHA-256 of its bytes.
        folders: The folders that it lies in, from the user's folder down.
        width, height: Its size after EXIF rotation.
        turned_png: Whether it is a PNG that its EXIF data turn.
        split: train, val or test if the user's folders say so, else empty.
        label: The folder that may be its class, else empty.
    """

    path: Path
    digest: str
    folders: tuple[str, ...]
    width: int
    height: int
    turned_png: bool
    split: str = ""
    label: str = ""


def image_folder(path: str, size: int | None = None, colour: bool | None = None, title: str | None = None) -> Data:
    """Return the user's own pictures, ``(N, C, H, W)`` uint8, split 80/10/10 by their content.

    Every picture below the folder must be a PNG or JPEG, whatever its name. Names that begin with a dot and files that
    are no pictures, by their suffix and by their first bytes, are passed over; a note says how many. Files with equal
    content count once. The images are sorted by the SHA-256 of their content: the last tenth is test, the tenth before
    it validation. So renaming a file or changing a seed does not move an image to another split.

    If every image lies in a subfolder, and there are at least two subfolders, the subfolders are the classes, in the
    order of their names.

    Subfolders named train and test, in capitals or not, are the splits, and the subfolders in them the classes. So is
    one named val, valid or validation; without it the last tenth of train, by SHA-256, is validation. A file that
    several splits have counts in test, or else in validation, and a note says so.

    Images are rotated as their EXIF data say. Images with transparency, several frames or more than 8 bits per channel
    are refused.

    Arguments:
        path: The folder.
        size: None: all images must have the same size, which is kept. A number: the largest centred square of each
            image is reduced to size x size by Pillow's bicubic filter, which is antialiased and rounds to whole levels.
            No image may be smaller.
        colour: True: three channels (red, green, blue). False: one channel (0.299 R + 0.587 G + 0.114 B). None: three
            if any pixel of any image is coloured, else one.
        title: Names the data ``image_folder-TITLE`` in results (letters, digits, ``_``, ``.``). None: the name is
            ``image_folder``.

    Raises:
        UserError: The folder is missing or has too few images; a file is not a picture, is damaged, too large or a
            link; sizes differ or are smaller than ``size``; two classes hold the same image; only some of the
            subfolders are splits, or train or test is missing; train lacks a class.
    """
    name = titled(_NAME, title)
    folder = Path(path).expanduser()
    if size is not None and (type(size) is not int or size < 1):
        raise UserError(f"{_NAME}: a side cannot have {size!r} pixels; set data.size to a number above 0, or to null")
    if colour not in (None, True, False):
        raise UserError(f"{_NAME}: colour is not {colour!r}; set data.colour to true, false or null")
    notes: list[str] = []
    files = _with_splits(folder, list(_files(folder, notes)))
    labels = sorted({file.label for file in files})
    labelled = len(labels) > 1 and "" not in labels
    if files[0].split and len(labels) > 1 and not labelled:
        notes.append("some pictures lie in train, val or test itself and in no class, so that there are no classes")
    height, width = _common_shape(files, size)
    files = _distinct(files, labelled, notes)
    if len(files) < _SMALLEST:
        raise UserError(
            f"{_NAME}: {_shown(folder)} has {len(files)} different images, too few for train, validation and test; "
            f"bring at least {_SMALLEST}"
        )
    files, ends, rule = _divided(folder, files, labelled)
    key = revision(
        _NAME, *(f"{file.digest} {ascii(file.label) if labelled else ''}" for file in files),
        f"size {size}, colour {colour}: square in the middle, bicubic antialiased; {rule}",
        *(["EXIF of PNGs"] if any(file.turned_png for file in files) else []),
    )  # fmt: skip
    images = decoded(_NAME, key, lambda: _pixels(files, height, width, colour))["images"]
    classes = np.array([labels.index(file.label) for file in files]) if labelled else None
    train, val, test = (
        split_of(images[rows], None if classes is None else classes[rows]) for rows in map(slice, ends[:-1], ends[1:])
    )
    data = image_data(
        name, key, train, val, test, levels=256, classes=len(labels) if labelled else None,
        licence="the user's own", source=f"the user's folder {_shown(Path(folder.name))}",
    )  # fmt: skip
    return replace(data, notes=tuple(notes))


def _with_splits(folder: Path, files: list[_File]) -> list[_File]:
    """Return the files with their splits and labels, by the names of their folders."""
    by_split: dict[str, set[str]] = {}
    others = set()
    for file in files:
        first = file.folders[0] if file.folders else ""
        if first.lower() in _SPLITS:
            by_split.setdefault(_SPLITS[first.lower()], set()).add(first)
        else:
            others.add(first)
    where = f"{_NAME}: {_shown(folder)}"
    if not by_split:
        _refuse_deeper_splits(folder, files)
        return [replace(file, label=file.folders[0] if file.folders else "") for file in files]
    found = ", ".join(sorted(name for names in by_split.values() for name in names))
    if others:
        other = min(others)
        beside = f"the folder {_shown(Path(other))}" if other else "pictures in no folder"
        raise UserError(
            f"{where} has the split {found} and beside it {beside}; leave only train, val and test with the classes in "
            "them, or rename the split if it is a class"
        )
    for names in by_split.values():
        if len(names) > 1:
            raise UserError(f"{where} has {' and '.join(sorted(names))}, which are one split; join them in one folder")
    for split in ("train", "test"):
        if split not in by_split:
            raise UserError(
                f"{where} has the split {found} but no pictures in {split}; add a folder {split}, or set data.path to "
                f"{_shown(folder / min(found.split(', ')))} to have it split 80/10/10"
            )
    return [
        replace(file, split=_SPLITS[file.folders[0].lower()], label=file.folders[1] if len(file.folders) > 1 else "")
        for file in files
    ]


def _refuse_deeper_splits(folder: Path, files: list[_File]) -> None:
    """Refuse splits below the first level, which would be thrown together."""
    splits: dict[tuple[str, ...], set[str]] = {}
    for file in files:
        for depth, name in enumerate(file.folders):
            splits.setdefault(file.folders[:depth], set()).add(_SPLITS.get(name.lower(), ""))
    for above, found in splits.items():
        if {"train", "test"} <= found:
            raise UserError(
                f"{_NAME}: {_shown(folder.joinpath(*above))} has the splits train and test; set data.path to it, or "
                "put train and test first and the classes in them"
            )


def _divided(folder: Path, files: list[_File], labelled: bool) -> tuple[list[_File], list[int], str]:
    """Return the files in the order train, val, test; the four ends of these splits; and the rule in words."""
    if files[0].split == "":
        held_out = len(files) // 10
        return files, [0, len(files) - 2 * held_out, len(files) - held_out, len(files)], "by SHA-256, 80/10/10"
    parts = {split: [file for file in files if file.split == split] for split in ("train", "val", "test")}
    if not parts["val"]:
        held_out = len(parts["train"]) // 10
        if held_out > 0:
            parts["train"], parts["val"] = parts["train"][:-held_out], parts["train"][-held_out:]
    for split, part in parts.items():
        if not part:
            raise UserError(
                f"{_NAME}: {_shown(folder)} has too few images for {split} (those that are also in a later split are "
                "not counted); bring at least 10 for train, or some in folders train, val and test"
            )
    lacking = {file.label for file in files} - {file.label for file in parts["train"]}
    if labelled and lacking:
        raise UserError(
            f"{_NAME}: {_shown(folder)} has no images of the class {_shown(Path(min(lacking)))} in train; bring some, "
            "or take the class out of val and test"
        )
    n_train, n_val = len(parts["train"]), len(parts["val"])
    ordered = [file for part in parts.values() for file in part]
    return ordered, [0, n_train, n_train + n_val, len(files)], f"the user's splits, {n_train} train, {n_val} val"


def _files(folder: Path, notes: list[str]) -> Iterator[_File]:
    """Yield the pictures below a folder, in the order of their paths. Files are hashed but not decoded.

    When all are read, a note of what was passed over is appended to ``notes``.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{_NAME}: {_shown(Path(error.filename))} is no folder that can be read ({error.strerror}); set data.path "
            "to a folder of PNG or JPEG images"
        ) from error

    count = 0
    passed: list[Path] = []
    for parent, subfolders, names in os.walk(folder, onerror=refuse):
        passed += [Path(parent, name) for name in sorted(subfolders + names) if name.startswith(".")]
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            _refuse_link(Path(parent, name))
        for name in sorted(name for name in names if not name.startswith(".")):
            count += 1
            if count > _MAX_FILES:
                raise UserError(f"{_NAME}: {_shown(folder)} has more than {_MAX_FILES} files; bring fewer")
            file = _file(folder, Path(parent, name))
            if file is None:
                passed.append(Path(parent, name))
            else:
                yield file
    hidden = sum(path.name.startswith(".") for path in passed)
    if count == len(passed) - hidden:
        raise UserError(f"{_NAME}: {_shown(folder)} has no images; set data.path to a folder of PNG or JPEG images")
    if passed:
        examples = ", ".join(_shown(path.relative_to(folder)) for path in passed[:3])
        notes.append(
            f"passed over {len(passed)} in {_shown(folder)} that are hidden or no pictures: {examples}"
            f"{', ...' if len(passed) > 3 else ''}"
        )


def _file(folder: Path, path: Path) -> _File | None:
    """Return the picture, or None if the file is none."""
    content = _content(path)
    if content is None:
        return None
    try:
        with opened_simple(content) as picture:
            width, height = picture.size
            if picture.mode not in _MODES:
                raise PictureError(f"has pixels of the kind {picture.mode}; convert it to 8-bit grey or RGB")
            if width * height > _MAX_PIXELS:
                raise PictureError(f"has {width} x {height} pixels, too many; reduce it or take it out")
            turn = orientation(picture, content)
            if turn >= 5:  # rows and columns are exchanged
                width, height = height, width
            turned_png = picture.format == "PNG" and turn > 1
    except PictureError as error:
        raise _unusable(path, error) from error
    folders = path.relative_to(folder).parts[:-1]
    return _File(path, hashlib.sha256(content).hexdigest(), folders, width, height, turned_png)


def _content(path: Path) -> bytes | None:
    """Return the bytes of a regular file, or None if it is no picture.

    Links are not followed, and pipes are not waited for.
    """
    _refuse_link(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            content = stream.read(_HEAD) if is_regular else b""
            if is_regular and not is_picture(path.suffix, content):
                return None
            content += stream.read(_MAX_BYTES + 1 - len(content)) if is_regular else b""
    except OSError as error:
        raise UserError(
            f"{_NAME}: {_shown(path)} cannot be read ({error.strerror}); mend its permissions or take it out"
        ) from error
    if not is_regular:
        raise UserError(f"{_NAME}: {_shown(path)} is no regular file; take it out of the folder")
    if len(content) > _MAX_BYTES:
        raise UserError(f"{_NAME}: {_shown(path)} has more than {_MAX_BYTES >> 20} MiB; reduce it or take it out")
    return content


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise UserError(f"{_NAME}: {_shown(path)} is a link; put the images themselves into the folder")


def _distinct(files: list[_File], labelled: bool, notes: list[str]) -> list[_File]:
    """Return one file for each different content, sorted by digest. Of several splits the last one keeps it."""
    first: dict[str, _File] = {}
    order = ["", "train", "val", "test"]
    moved: set[str] = set()
    for file in files:
        other = first.setdefault(file.digest, file)
        if labelled and other.label != file.label:
            raise UserError(
                f"{_NAME}: {_shown(other.path)} and {_shown(file.path)} are the same image, which would be of two "
                "classes; take one of them out"
            )
        if other.split != file.split:
            moved.add(file.digest)
            first[file.digest] = max(other, file, key=lambda one: order.index(one.split))
    if moved:
        notes.append(f"{len(moved)} images are in several splits; each counts only in test, or else in validation")
    return [first[digest] for digest in sorted(first)]


def _common_shape(files: list[_File], size: int | None) -> tuple[int, int]:
    """Return the height and width that every image has after decoding."""
    first = files[0]
    for file in files:
        if size is None and (file.width, file.height) != (first.width, first.height):
            raise UserError(
                f"{_NAME}: sizes differ, {_shown(first.path)} is {first.width} x {first.height} and "
                f"{_shown(file.path)} {file.width} x {file.height}; set data.size=N to have squares of N x N pixels"
            )
        if size is not None and min(file.width, file.height) < size:
            raise UserError(
                f"{_NAME}: {_shown(file.path)} is {file.width} x {file.height}, smaller than data.size={size}; set "
                "data.size to less or take it out"
            )
    return (first.height, first.width) if size is None else (size, size)


def _pixels(files: list[_File], height: int, width: int, colour: bool | None) -> Chunks:
    """Yield the images in pieces ``(n, C, H, W)``."""
    if colour is None:
        colour = any(_has_colour(_rgb(file, height, width)) for file in files)
    channels = 3 if colour else 1
    image_bytes = channels * height * width
    if len(files) * image_bytes > _MAX_DECODED:
        raise UserError(
            f"{_NAME}: {len(files)} images of {width} x {height} take more than {_MAX_DECODED >> 30} GiB; set "
            "data.size to less or bring fewer"
        )
    n = max(1, _CHUNK // image_bytes)
    for start in range(0, len(files), n):
        images = (_rgb(file, height, width) for file in files[start : start + n])
        planes = [np.asarray(image if colour else image.convert("L")).reshape(height, width, -1) for image in images]
        yield "images", np.stack(planes).transpose(0, 3, 1, 2)


def _rgb(file: _File, height: int, width: int) -> Image.Image:
    """Return the rotated, cropped and reduced picture with three channels."""
    content = _content(file.path)
    if content is None or hashlib.sha256(content).hexdigest() != file.digest:
        raise UserError(f"{_NAME}: {_shown(file.path)} changed while it was read; run again when nothing writes to it")
    try:
        with opened_simple(content) as picture:
            seen = upright(picture, content)
            if seen.has_transparency_data and np.asarray(seen.convert("RGBA"))[..., 3].min() < 255:
                raise PictureError("is transparent; put it on a background")
            rgb = seen.convert("RGB")
    except PictureError as error:
        raise _unusable(file.path, error) from error
    if rgb.size == (width, height):
        return rgb
    side = min(rgb.size)
    left, upper = (rgb.width - side) // 2, (rgb.height - side) // 2
    return rgb.crop((left, upper, left + side, upper + side)).resize((width, height), Image.Resampling.BICUBIC)


def _has_colour(image: Image.Image) -> bool:
    pixels: NDArray[np.uint8] = np.asarray(image)
    return bool((pixels[..., 1:] != pixels[..., :1]).any())


def _unusable(path: Path, error: PictureError) -> UserError:
    return UserError(f"{_NAME}: {_shown(path)} {error}; every picture of the folder must be a PNG or JPEG of 8 bits")


def _shown(path: Path) -> str:
    """Return the path on one line, with unprintable characters escaped."""
    return str(path) if str(path).isprintable() else ascii(str(path))
