"""Pixels of PNG and JPEG files: known by their content, capped in size, and one line for whatever is wrong."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["PictureError", "opened", "pixels"]


class PictureError(Exception):
    """Why a file cannot be used as a picture, in a few words on one line that follow its name."""


@contextmanager
def opened(content: bytes, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """A picture of which only the header is read; whatever fails in the block, decoding too, is a PictureError.

    Arguments:
        content: Of the file.
        formats: Pillow's names of the formats to try (``PNG``, ``JPEG``); a file of another is unreadable.

    Raises:
        PictureError: No such picture, a damaged one, or a decompression bomb (more than 2^26 x 4/3 pixels).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's advice about broken metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=formats) as picture:
                yield picture
    except PictureError:
        raise
    # What Pillow raises for a damaged file depends on where the damage is.
    except Exception as error:
        raise PictureError(f"is no readable {' or '.join(formats)} ({type(error).__name__})") from error


def pixels(content: bytes, formats: tuple[str, ...], size: tuple[int, int], mode: str = "RGB") -> NDArray[np.uint8]:
    """The pixels of a picture that must have this (width, height) and mode: ``(height, width, 3)`` for RGB.

    Raises:
        PictureError: It is unreadable or another; the latter is seen in the header, before anything is decoded.
    """
    with opened(content, formats) as picture:
        if picture.size != size or picture.mode != mode:
            raise PictureError(f"is {picture.mode} {picture.size} instead of {mode} {size}")
        return np.asarray(picture)
