"""Read PNG and JPEG files, recognized by their content and limited in size; every problem gives a one-line error."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

__all__ = ["SUFFIXES", "PictureError", "is_picture", "opened", "opened_simple", "orientation", "pixels", "upright"]

# Formats other than PNG and JPEG are listed here so that they are refused, not silently passed over.
SUFFIXES = {
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".jxl", ".png", ".tif",
    ".tiff", ".webp",
}  # fmt: skip
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_BRANDS = (b"ftypavif", b"ftypheic", b"ftypheix", b"ftypmif1")  # AVIF and HEIF name themselves after four bytes
_EXIF_OF_PNG = (b"eXIf", b"Raw profile type exif")
_ORIENTATION = 0x0112  # the EXIF tag


class PictureError(Exception):
    """A file cannot be used as a picture. The message is a short predicate that follows the file's name."""


@contextmanager
def opened(content: bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Open a picture and read only its header. Any exception in the block, from decoding too, becomes a PictureError.

    Arguments:
        content: Bytes of the file.
        formats: Pillow's names of the formats to try (``PNG``, ``JPEG``). Files of other formats are refused.

    Raises:
        PictureError: The content is not such a picture, is damaged, or is a decompression bomb (more than 2^26 x 4/3
            pixels).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about broken metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=formats) as picture:
                yield picture
    except PictureError:
        raise
    # Pillow's exception for a damaged file depends on where the damage is.
    except Exception as error:
        raise PictureError(f"is no readable {' or '.join(formats)} ({type(error).__name__})") from error


@contextmanager
def opened_simple(content: bytes) -> Iterator[Image.Image]:
    """Open a PNG or JPEG as ``opened`` does, and refuse more than one frame or more than 8 bits per channel.

    The depth of a PNG is read from its header, because Pillow reduces 16-bit colours to 8 bits without a word. 16-bit
    grey is left to the caller, who sees its mode ``I;16``. Of JPEGs Pillow opens those of 8 bits only.

    Raises:
        PictureError: As by ``opened``, or the picture has several frames or is too deep.
    """
    with opened(content, ("PNG", "JPEG")) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise PictureError("has more than one frame; save its frames one by one")
        if picture.format == "PNG" and content[12:16] != b"IHDR":
            raise PictureError("is no readable PNG (its header is not first)")
        if picture.format == "PNG" and content[24] > 8 and not picture.mode.startswith("I"):
            raise PictureError(f"has {content[24]} bits per channel; convert it to 8-bit grey or RGB")
        yield picture


def is_picture(suffix: str, head: bytes) -> bool:
    """Return whether a file is meant as a picture, by its suffix or by its first bytes (32 are enough)."""
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bmp = head[:2] == b"BM" and head[6:10] == bytes(4)
    return suffix.lower() in SUFFIXES or head.startswith(_STARTS) or head[4:12] in _BRANDS or is_webp or is_bmp


def orientation(picture: Image.Image, content: bytes) -> int:
    """Return how the EXIF data say that an opened picture is to be turned: 1 if not at all, else 2 to 8.

    The values from 5 on exchange rows and columns. EXIF data may follow the pixels of a PNG, so that Pillow must decode
    it to find them. PNGs without EXIF data, which are most, are not decoded.
    """
    if picture.format == "PNG" and not any(name in content for name in _EXIF_OF_PNG):
        return 1
    value = picture.getexif().get(_ORIENTATION, 1)
    return value if value in range(2, 9) else 1


def upright(picture: Image.Image, content: bytes) -> Image.Image:
    """Return an opened picture turned as its EXIF data say."""
    return picture if orientation(picture, content) == 1 else ImageOps.exif_transpose(picture)


def pixels(content: bytes, formats: tuple[str, ...], size: tuple[int, int], mode: str = "RGB") -> NDArray[np.uint8]:
    """Return the pixels of a picture of the given (width, height) and mode: ``(height, width, 3)`` for RGB.

    Raises:
        PictureError: The picture is unreadable, or has another size or mode. The header is checked before decoding.
    """
    with opened(content, formats) as picture:
        if picture.size != size or picture.mode != mode:
            raise PictureError(f"is {picture.mode} {picture.size} instead of {mode} {size}")
        return np.asarray(picture)
