"""Regular files only: those that are read, and those that the user lets us write.

Opening a pipe waits for a process at its other end, reading a device may never end, and renaming a file over a device
or a link destroys it.
"""

import contextlib
import os
import stat
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path

from bench.errors import UserError

__all__ = ["check_output", "open_regular", "read_regular"]


def open_regular(path: str | os.PathLike[str], most: int | None = None, *, follow: bool = True) -> BufferedReader:
    """Open a file for reading. What is no regular file is never waited for.

    Arguments:
        most: The largest size in bytes.
        follow: Whether the path may be a link.

    Raises:
        UserError: There is no file, it cannot be opened, is not a regular file, or is too large.
    """
    try:
        # Without O_NONBLOCK the opening of a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: is not a regular file")
        if most is not None and found.st_size > most:
            raise UserError(f"{path}: has {found.st_size:,} bytes, and at most {most:,} are read")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int, *, follow: bool = True) -> bytes:
    """The bytes of a file of at most ``most`` bytes; else as ``open_regular``."""
    with open_regular(path, most, follow=follow) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > most:  # it grew while it was read
        raise UserError(f"{path}: has more than the {most:,} bytes that are read")
    return content


def check_output(option: str, path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse a place that the user named for an output, unless it is new or a regular file that nothing is read from.

    Arguments:
        option: How the user named it: ``--out``, ``out``.
        inputs: Files that are read, and folders whose files are.

    Raises:
        UserError: It is a link, a folder, a device or a pipe; it is an input, or a second name of one; or it would lie
            in no folder.
    """
    shown = f"{option}={path}" if not option.startswith("-") else f"{option} {path}"
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise UserError(f"{shown}: there is no folder {os.path.dirname(path)}; make it first") from None
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{shown}: {getattr(error, 'strerror', None) or error}; give another file") from error
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    if not stat.S_ISREG(there.st_mode):
        kind = kinds.get(stat.S_IFMT(there.st_mode), "a device")
        raise UserError(f"{shown}: is {kind}; give a new file or a regular one, which is replaced")
    for place in map(Path, inputs):
        if place.resolve() in Path(path).resolve().parents or _is_among((there.st_dev, there.st_ino), place):
            raise UserError(f"{shown}: is read by this command, from {place}; give another file")


def _is_among(file: tuple[int, int], place: Path) -> bool:
    """Whether a file, by device and inode, is the one at a place, or one in the folder there."""
    try:
        entries = [place, *place.iterdir()] if place.is_dir() else [place]
    except OSError:
        return False
    for entry in entries:
        with contextlib.suppress(OSError):
            found = entry.stat()
            if (found.st_dev, found.st_ino) == file:
                return True
    return False
