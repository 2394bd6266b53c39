"""A data set from a folder of the user's own pictures."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bench.data.base import Data, titled
from bench.data.bytes.arrays import Chunks, decoded, revision
from bench.data.formats.image_files import PictureError, opened
from bench.data.images import image_data, split_of
from bench.errors import UserError

__all__ = ["image_folder"]

_NAME = "image_folder"
_FORMATS = ("PNG", "JPEG")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}  # 8 bits per channel, and colours that need no profile
_SMALLEST = 10  # images; gives one for validation and one for test
_MAX_FILES = 2_000_000
_MAX_BYTES = 64 << 20  # size of one file
_MAX_PIXELS = 64 << 20  # pixels of one image before it is reduced
_MAX_DECODED = 64 << 30  # bytes of all decoded images
_CHUNK = 32 << 20  # bytes of decoded images held in memory at once
_ORIENTATION = 0x0112  # the EXIF tag; values from 5 on exchange rows and columns


@dataclass(frozen=True)
class _File:
    """A picture: its path, the SHA-256 of its bytes, its subfolder (or empty), and its size after EXIF rotation."""

    path: Path
    digest: str
    label: str
    width: int
    height: int


def image_folder(path: str, size: int | None = None, colour: bool | None = None, title: str | None = None) -> Data:
    """Return the user's own pictures, ``(N, C, H, W)`` uint8, split 80/10/10 by their content.

    Every file below the folder must be a PNG or JPEG, whatever its name. Names that begin with a dot are skipped. Files
    with equal content count once. The images are sorted by the SHA-256 of their content: the last tenth is test, the
    tenth before it validation. So renaming a file or changing a seed does not move an image to another split.

    If every image lies in a subfolder, and there are at least two subfolders, the subfolders are the classes, in the
    order of their names.

    JPEGs are rotated as their EXIF data say. Transparent images are refused. So are images with more than 8 bits per
    channel, if Pillow can tell (of a PNG with 16-bit colours Pillow reads the upper 8 bits).

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
            link; sizes differ or are smaller than ``size``; two subfolders hold the same image.
    """
    name = titled(_NAME, title)
    folder = Path(path).expanduser()
    if size is not None and (type(size) is not int or size < 1):
        raise UserError(f"{_NAME}: a side cannot have {size!r} pixels; set data.size to a number above 0, or to null")
    if colour not in (None, True, False):
        raise UserError(f"{_NAME}: colour is not {colour!r}; set data.colour to true, false or null")
    files = list(_files(folder))
    labels = sorted({file.label for file in files})
    labelled = len(labels) > 1 and "" not in labels
    height, width = _common_shape(files, size)
    files = _distinct(files, labelled)
    if len(files) < _SMALLEST:
        raise UserError(
            f"{_NAME}: {_shown(folder)} has {len(files)} different images, too few for train, validation and test; "
            f"bring at least {_SMALLEST}"
        )
    key = revision(
        _NAME, *(f"{file.digest} {ascii(file.label) if labelled else ''}" for file in files),
        f"size {size}, colour {colour}: square in the middle, bicubic antialiased; by SHA-256, 80/10/10",
    )  # fmt: skip
    images = decoded(_NAME, key, lambda: _pixels(files, height, width, colour))["images"]
    classes = np.array([labels.index(file.label) for file in files]) if labelled else None
    held_out = len(files) // 10
    ends = [0, len(files) - 2 * held_out, len(files) - held_out, len(files)]
    train, val, test = (
        split_of(images[rows], None if classes is None else classes[rows]) for rows in map(slice, ends[:-1], ends[1:])
    )
    return image_data(
        name, key, train, val, test, levels=256, classes=len(labels) if labelled else None,
        licence="the user's own", source=f"the user's folder {_shown(Path(folder.name))}",
    )  # fmt: skip


def _files(folder: Path) -> Iterator[_File]:
    """Yield the pictures below a folder, in the order of their paths. Files are hashed but not decoded."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{_NAME}: {_shown(Path(error.filename))} is no folder that can be read ({error.strerror}); set data.path "
            "to a folder of PNG or JPEG images"
        ) from error

    count = 0
    for parent, subfolders, names in os.walk(folder, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            _refuse_link(Path(parent, name))
        for name in sorted(name for name in names if not name.startswith(".")):
            count += 1
            if count > _MAX_FILES:
                raise UserError(f"{_NAME}: {_shown(folder)} has more than {_MAX_FILES} files; bring fewer")
            yield _file(folder, Path(parent, name))
    if count == 0:
        raise UserError(f"{_NAME}: {_shown(folder)} has no images; set data.path to a folder of PNG or JPEG images")


def _file(folder: Path, path: Path) -> _File:
    content = _content(path)
    try:
        with opened(content, _FORMATS) as picture:
            width, height = picture.size
            if picture.mode not in _MODES:
                raise PictureError(f"has pixels of the kind {picture.mode}; convert it to 8-bit grey or RGB")
            if width * height > _MAX_PIXELS:
                raise PictureError(f"has {width} x {height} pixels, too many; reduce it or take it out")
            if _may_be_turned(picture) and picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8):
                width, height = height, width
    except PictureError as error:
        raise _unusable(path, error) from error
    inside = path.relative_to(folder).parts
    label = inside[0] if len(inside) > 1 else ""
    return _File(path, hashlib.sha256(content).hexdigest(), label, width, height)


def _content(path: Path) -> bytes:
    """Return the bytes of a regular file. Links are not followed, and pipes are not waited for."""
    _refuse_link(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            content = stream.read(_MAX_BYTES + 1) if is_regular else b""
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


def _distinct(files: list[_File], labelled: bool) -> list[_File]:
    """Return one file for each different content, sorted by digest."""
    first: dict[str, _File] = {}
    for file in files:
        other = first.setdefault(file.digest, file)
        if labelled and other.label != file.label:
            raise UserError(
                f"{_NAME}: {_shown(other.path)} and {_shown(file.path)} are the same image, which would be of two "
                "classes; take one of them out"
            )
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
    if hashlib.sha256(content).hexdigest() != file.digest:
        raise UserError(f"{_NAME}: {_shown(file.path)} changed while it was read; run again when nothing writes to it")
    try:
        with opened(content, _FORMATS) as picture:
            seen = ImageOps.exif_transpose(picture) if _may_be_turned(picture) else picture
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


def _may_be_turned(picture: Image.Image) -> bool:
    """Return whether to use EXIF rotation. PNGs do not: cameras do not write them, and EXIF may follow the pixels."""
    return picture.format != "PNG"


def _has_colour(image: Image.Image) -> bool:
    pixels: NDArray[np.uint8] = np.asarray(image)
    return bool((pixels[..., 1:] != pixels[..., :1]).any())


def _unusable(path: Path, error: PictureError) -> UserError:
    return UserError(f"{_NAME}: {_shown(path)} {error}; every file of the folder must be a PNG or JPEG of 8 bits")


def _shown(path: Path) -> str:
    """Return the path on one line, with unprintable characters escaped."""
    return str(path) if str(path).isprintable() else ascii(str(path))
