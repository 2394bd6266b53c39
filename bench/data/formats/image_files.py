"""Read PNG and JPEG files, recognized by their content and limited in size; every problem gives a one-line error."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["PictureError", "opened", "pixels"]


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


def pixels(content: bytes, formats: tuple[str, ...], size: tuple[int, int], mode: str = "RGB") -> NDArray[np.uint8]:
    """Return the pixels of a picture of the given (width, height) and mode: ``(height, width, 3)`` for RGB.

    Raises:
        PictureError: The picture is unreadable, or has another size or mode. The header is checked before decoding.
    """
    with opened(content, formats) as picture:
        if picture.size != size or picture.mode != mode:
            raise PictureError(f"is {picture.mode} {picture.size} instead of {mode} {size}")
        return np.asarray(picture)
