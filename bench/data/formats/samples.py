"""Samples that somebody else generated, from a file of arrays or a folder of pictures, in the data's own space.

Nothing in a file is run, sizes are checked before memory is taken, and whatever does not fit is refused in one line.
"""

import hashlib
import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from bench.data.formats.image_files import PictureError, opened
from bench.errors import UserError
from bench.schema import DataSpec

__all__ = ["as_array", "as_samples", "read_samples", "sha256_of"]

_WANTED = "give a .npy, .npz, .pt or .pth file or a folder of PNG or JPEG pictures"
_MAX_BYTES = 8 << 30  # of a file, of the array in it once unpacked, and of all pictures of a folder
_MAX_PICTURE_BYTES = 64 << 20  # of one picture's file
_FEWEST = 2
_NAMES = ("samples", "arr_0")  # of the array to take where an npz has several
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_FORMATS = ("PNG", "JPEG")
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}  # another format is refused, not missed
_MODES = {1: ("L", {"1", "L", "LA"}), 3: ("RGB", {"RGB", "RGBA", "P", "PA"})}  # by channels: what is read, from which
_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, rows are columns


def read_samples(path: str | Path, spec: DataSpec) -> Tensor:
    """Samples that others generated: ``(N, *spec.shape)`` uint8 levels 0 .. L-1, or float32 for real-valued data.

    Kinds, told apart by the suffix:

    - ``.npy``: one array.
    - ``.npz``: one array, or of several the one named ``samples`` or ``arr_0``.
    - ``.pt``, ``.pth``: what ``torch.save`` wrote, a tensor or a dict with the tensor ``samples``.
    - a folder: its PNG and JPEG pictures, those of subfolders too, in the order of their paths. Each has exactly the
      data's size; grey ones are for one channel and coloured ones for three. JPEGs are turned as their EXIF data say.
      Names that begin with a dot and files that are no pictures by their suffix are passed over.

    Arrays may have their channels last, may lack a first axis of size 1, and may have any type of numbers that keeps
    the values. Where both orders of the channels fit, channels are first. Levels may be stored as floats if they are
    whole numbers; floats that look scaled are refused, since nobody can know how to scale them back.

    Arguments:
        path: The file or folder. ``~`` is the user's home.
        spec: The data that the samples imitate.

    Raises:
        UserError: There is no such file or it is no regular file, it is damaged, larger than 8 GiB or of another kind;
            it holds objects, another shape, fewer than two samples, or values that are not the data's.
    """
    path = Path(path)
    where = f"samples {_line(str(path))}"
    try:
        path = path.expanduser()
        status = os.stat(path)
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte in the name; no home of this user
        reason = _line(getattr(error, "strerror", None) or str(error))
        raise UserError(f"{where}: no such file or folder ({reason}); {_WANTED}") from error
    read = _READERS.get(path.suffix.lower())
    if stat.S_ISDIR(status.st_mode):
        read = _read_folder
    elif not stat.S_ISREG(status.st_mode):
        raise UserError(f"{where} is no regular file; {_WANTED}")
    elif read is None:
        raise UserError(f"{where} has the suffix {_line(path.suffix) or 'of no kind'}; {_WANTED}")
    elif status.st_size > _MAX_BYTES:
        raise UserError(f"{where} has {status.st_size} bytes, more than {_MAX_BYTES}; bring fewer samples")
    with _reading(where):
        values = read(path, spec, where)
    return as_samples(values, spec, where)


def as_samples(values: NDArray[Any] | Tensor, spec: DataSpec, where: str = "samples") -> Tensor:
    """Samples that are in memory, with the result and the checks of ``read_samples``. The result may share memory.

    Arguments:
        where: What they are called where something is wrong with them.

    Raises:
        UserError: They have another shape or type, are fewer than two, or hold values that are not the data's.
    """
    values = as_array(values, where)
    _check(values.shape, values.dtype, spec, where)
    values = _views(spec)[values.shape[1:]](values)
    made = _reals(values, where) if spec.levels is None else _levels(values, spec.levels, where)
    return torch.from_numpy(made if made.flags.writeable else made.copy())  # torch warns of what it may not write


def as_array(values: NDArray[Any] | Tensor, where: str) -> NDArray[Any]:
    """An array as it is, or the values of a tensor on any device.

    Raises:
        UserError: The tensor is of a kind that numpy does not have.
    """
    try:
        return _array(values) if isinstance(values, Tensor) else values
    except (TypeError, RuntimeError) as error:
        reason = _line(" ".join(str(error).split())[:150])
        raise UserError(
            f"{where}: the tensor cannot become an array ({reason}); give a dense one of numbers"
        ) from error


def sha256_of(samples: Tensor) -> str:
    """SHA-256 of the type, the shape and the bytes in C order, 64 hexadecimal digits; whatever file they came from."""
    digest = hashlib.sha256(f"{samples.dtype} {tuple(samples.shape)}\n".encode())
    digest.update(samples.detach().cpu().reshape(-1).numpy().data)
    return digest.hexdigest()


# What is in the file


def _read_npy(path: Path, spec: DataSpec, where: str) -> NDArray[Any]:
    with path.open("rb") as stream:
        _check_header(stream, path.stat().st_size, spec, where)
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)


def _read_npz(path: Path, spec: DataSpec, where: str) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        entries = {e.filename.removesuffix(".npy"): e for e in archive.infolist() if e.filename.endswith(".npy")}
        name = next(iter(entries)) if len(entries) == 1 else next((name for name in _NAMES if name in entries), None)
        if name is None:
            there = _line(", ".join(sorted(entries))[:200]) or "none"
            raise UserError(f"{where} has the arrays: {there}; save the samples as the array named samples")
        entry = entries[name]
        if entry.file_size > _MAX_BYTES:
            raise UserError(f"{where} unpacks to {entry.file_size} bytes, more than {_MAX_BYTES}; bring fewer samples")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{where} is compressed in a way that numpy does not write; save it with numpy.savez")
        with archive.open(entry) as stream:  # unpacks no more than the header
            _check_header(stream, entry.file_size, spec, where)
        with archive.open(entry) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def _check_header(stream: IO[bytes], size: int, spec: DataSpec, where: str) -> None:
    """Refuse an npy file of ``size`` bytes by its header, before memory is taken for what it claims to hold."""
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise ValueError(f"npy format {version} is not known")
    shape, _, dtype = _NPY_HEADERS[version](stream)
    _check(shape, dtype, spec, where)
    claimed = math.prod(shape) * dtype.itemsize
    if stream.tell() + claimed != size:
        raise ValueError(f"an array of {claimed} bytes in {size - stream.tell()} bytes")


def _read_torch(path: Path, spec: DataSpec, where: str) -> NDArray[Any]:
    from bench.checkpoint import load_tensors  # here because it imports Lightning, which takes seconds

    with zipfile.ZipFile(path) as archive:
        # Entries that lie on top of each other would unpack to more than the file holds.
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise UserError(f"{where} has entries that claim more than the file holds; save it with torch.save")
    try:
        payload = load_tensors(path)
    except UserError as error:
        raise UserError(_line(str(error))) from error
    if isinstance(payload, dict):
        if "samples" not in payload:
            there = _line(", ".join(map(str, payload))[:200]) or "none"
            raise UserError(f"{where} has the entries: {there}; save the samples as the entry named samples")
        payload = payload["samples"]
    if not isinstance(payload, Tensor):
        raise UserError(f"{where} holds a {type(payload).__name__}; save a tensor, or a dict with the tensor samples")
    return _array(payload)


def _array(tensor: Tensor) -> NDArray[Any]:
    if tensor.dtype == torch.bfloat16:  # which numpy does not have
        tensor = tensor.float()
    return tensor.numpy(force=True)


_Reader = Callable[[Path, DataSpec, str], NDArray[Any]]
_READERS: dict[str, _Reader] = {".npy": _read_npy, ".npz": _read_npz, ".pt": _read_torch, ".pth": _read_torch}


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """What a reader raises depends on where a file is damaged; all of it is one line for the user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {_line(' '.join(str(error).split())[:150])}"
        raise UserError(f"{where} is damaged or of another kind ({reason}); {_WANTED}") from error


# Pictures


def _read_folder(folder: Path, spec: DataSpec, where: str) -> NDArray[np.uint8]:
    if spec.levels is None or not spec.is_image or spec.shape[0] not in _MODES:
        raise UserError(f"{where} is a folder, but {spec.name} is no data of pictures; give a .npy, .npz or .pt file")
    files = _picture_files(folder, where)
    if len(files) == 0:
        raise UserError(f"{where} has no pictures (by their suffix); {_WANTED}")
    if len(files) * spec.dim > _MAX_BYTES:
        raise UserError(f"{where} has {len(files)} pictures, more than {_MAX_BYTES} bytes; bring fewer")
    pixels = np.empty((len(files), *spec.shape), np.uint8)
    for row, file in zip(pixels, files, strict=True):
        try:
            row[...] = _pixels(_content(file), spec)
        except PictureError as error:
            raise UserError(f"samples {_line(str(file))} {error}") from error
    return pixels


def _picture_files(folder: Path, where: str) -> list[Path]:
    """The pictures below a folder by their suffix, in the order of their paths; links are refused, not missed."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{where} cannot be read ({error.strerror}); mend its permissions") from error

    found = []
    for parent, subfolders, names in os.walk(folder, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for link in (path for name in subfolders if (path := Path(parent, name)).is_symlink()):
            raise UserError(f"samples {_line(str(link))} is a link; put the pictures themselves into the folder")
        names = [name for name in names if not name.startswith(".")]
        found += [path for name in names if (path := Path(parent, name)).suffix.lower() in _PICTURES]
    return sorted(found)


def _content(file: Path) -> bytes:
    """The bytes of a regular file; a link is not followed, a pipe not waited for."""
    try:
        status = file.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise PictureError("is a link; put the pictures themselves into the folder")
        if not stat.S_ISREG(status.st_mode):
            raise PictureError("is no regular file; take it out of the folder")
        if status.st_size > _MAX_PICTURE_BYTES:
            raise PictureError(f"has more than {_MAX_PICTURE_BYTES} bytes; take it out of the folder")
        return file.read_bytes()
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror}); mend its permissions or take it out") from error


def _pixels(content: bytes, spec: DataSpec) -> NDArray[np.uint8]:
    """One picture ``(C, H, W)``; another size or other channels are seen in the header, before anything is decoded."""
    channels, height, width = spec.shape
    mode, convertible = _MODES[channels]
    with opened(content, _FORMATS) as picture:
        size = _seen_size(picture)
        if size != (width, height) or picture.mode not in convertible:
            raise PictureError(
                f"is {size[0]} x {size[1]} of the kind {picture.mode}; pictures of {spec.name} are {width} x {height}, "
                f"8-bit {'grey (L)' if channels == 1 else 'RGB'}"
            )
        if getattr(picture, "n_frames", 1) > 1:
            raise PictureError("has more than one frame; save its frames one by one")
        seen = picture if picture.format == "PNG" else ImageOps.exif_transpose(picture)
        if seen.has_transparency_data and np.asarray(seen.convert("RGBA"))[..., 3].min() < 255:
            raise PictureError("is transparent; put it on a background")
        return np.asarray(seen.convert(mode)).reshape(height, width, channels).transpose(2, 0, 1)


def _seen_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height as the picture is shown. The EXIF data of a PNG, which cameras do not make, do not count."""
    sideways = picture.format != "PNG" and picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (picture.height, picture.width) if sideways else picture.size


# Shapes and values


def _views(spec: DataSpec) -> dict[tuple[int, ...], Callable[[NDArray[Any]], NDArray[Any]]]:
    """How to see an array as ``(N, *spec.shape)``, by the shape of what it has for one example."""
    views: dict[tuple[int, ...], Callable[[NDArray[Any]], NDArray[Any]]] = {}
    if spec.shape[0] == 1:
        views[spec.shape[1:]] = lambda values: values[:, None]
    if spec.is_image:
        views[(*spec.shape[1:], spec.shape[0])] = lambda values: np.moveaxis(values, -1, 1)
    views[spec.shape] = lambda values: values  # last: where two ways fit, channels are first
    return views


def _check(shape: tuple[int, ...], dtype: np.dtype[Any], spec: DataSpec, where: str) -> None:
    """Refuse an array by its shape and type alone."""
    kinds = "biuf" if spec.levels == 2 else "iuf"
    if dtype.kind not in kinds:
        wanted = "real numbers" if spec.levels is None else f"levels 0..{spec.levels - 1}"
        raise UserError(f"{where} has entries of type {_line(str(dtype)[:60])}; {spec.name} wants {wanted}")
    views = _views(spec)
    if len(shape) == 0 or shape[1:] not in views:
        wanted = " or ".join("(" + ", ".join(["N", *map(str, view)]) + ")" for view in reversed(views))
        raise UserError(f"{where} has the shape {shape}; {spec.name} wants {wanted}")
    if shape[0] < _FEWEST:
        raise UserError(f"{where} has {shape[0]} samples; bring at least {_FEWEST}, and as many as there are")


def _reals(values: NDArray[Any], where: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        reals = np.ascontiguousarray(values, dtype=np.float32)
    _finite_range(reals, where)
    return reals


def _levels(values: NDArray[Any], levels: int, where: str) -> NDArray[np.uint8]:
    top = levels - 1
    low, high = _finite_range(values, where)
    stored_as_floats = values.dtype.kind == "f"
    looks_scaled = stored_as_floats and high <= 1 < top
    if low >= 0 and high <= top and not looks_scaled:
        whole = np.ascontiguousarray(values, dtype=np.uint8)
        if not stored_as_floats or bool((whole == values).all()):
            return whole
    given = f"{where} has {values.dtype} values from {low:g} to {high:g}; levels 0..{top} are wanted"
    if not stored_as_floats:
        raise UserError(f"{given}; bring the samples as the data's own levels")
    from_unit, from_symmetric = f"(x * {top}).round()", f"((x + 1) / 2 * {top}).round()"
    if low >= 0 and high <= 1:
        advice = f"store {from_unit} if x are in [0, 1]"
    elif low >= -1 and high <= 1:
        advice = f"store {from_symmetric} if x are in [-1, 1]"
    elif low >= 0 and high <= top:
        advice = "they are not all whole; store x.round() if x are levels"
    else:
        advice = f"store {from_unit} of x in [0, 1], or {from_symmetric} of x in [-1, 1]"
    raise UserError(f"{given}; {advice}")


def _finite_range(values: NDArray[Any], where: str) -> tuple[float, float]:
    """The smallest and the largest value. A NaN anywhere is both of them."""
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{where} has NaN or infinite values (or some beyond float32); every value must be finite")
    return low, high


def _line(text: str) -> str:
    """On one line, whatever is in it."""
    return text if text.isprintable() else ascii(text)
