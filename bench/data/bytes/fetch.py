"""Where bytes come from: the user's folder, the cache, a download, a package; all end in the same checked bytes.

A data set names its files (name, SHA-256, size of the plain bytes) and its sources, in the order to try them. Only
bytes with the right hash enter the cache.
"""

import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

from bench.data.bytes.archive import UNREADABLE, SourceError, unzip
from bench.data.bytes.cache import DataFile, Staging, cache_dir, publish, sha256
from bench.data.bytes.sources import Bundle, Source
from bench.errors import UserError

__all__ = ["Request", "announce", "fetch", "hand_on", "request_of"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a data set is made of, known before anything of it is fetched or read.

    Attributes:
        name: Of the data set; also its folder in the cache.
        paths: Where its bytes lie, or will lie once they are fetched.
        files: The same files with their pinned hashes; none where nothing is pinned and loading is the only check.
        sources: Where the files can be had.
        path: The folder or archive that the user named, or None.
        carrier: The installed package that holds the bytes, or empty.
        decoded: The folder of arrays decoded from the files, or None.
    """

    name: str
    paths: tuple[Path, ...]
    files: tuple[DataFile, ...] = ()
    sources: tuple[Source, ...] = ()
    path: str | None = None
    carrier: str = ""
    decoded: Path | None = None


class _Announced(BaseException):
    """Ends a data function that was asked what it needs. No error, so nothing on its way takes it for one."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.name)
        self.request = request


_asking = ContextVar("asking", default=False)


def request_of(make: Callable[[], object]) -> Request | None:
    """What ``make``, which makes a data set, asks for first; it goes no further than that.

    None where it has come to its end without asking for anything: its bytes are computed, or of no file of ours.
    """
    before = _asking.set(True)
    try:
        make()
    except _Announced as announced:
        return announced.request
    finally:
        _asking.reset(before)
    return None


def announce(request: Request) -> None:
    """Say what a data set is about to read; within ``request_of`` that is the end of it. ``fetch`` does it itself."""
    if _asking.get():
        raise _Announced(request)


def hand_on(name: str, decode: Callable[[], object], decoded: Path) -> None:
    """Within ``request_of``: say what ``decode`` asks for, be it nothing, and where its arrays go."""
    if _asking.get():
        raise _Announced(replace(request_of(decode) or Request(name, ()), decoded=decoded))


def fetch(name: str, files: Sequence[DataFile], sources: Sequence[Source], path: str | None = None) -> list[Path]:
    """Paths of the checked files, in the order of ``files``.

    A data set asks for all its files at once: ``genbench data`` tells the user what the first call asks for.

    Order: the user's ``path``, and then nothing else, for who names a place means it; otherwise the cache
    ``cache_dir()/name``, then each source in turn for what is still missing. A cached file with wrong bytes counts as
    missing and is replaced. Plain files in the user's folder are used where they lie; gzipped ones, and those in an
    archive, are unpacked into the cache, once.

    Arguments:
        name: Of the data set; also its folder in the cache.
        files: What is needed.
        sources: Where to look, in order.
        path: A folder with all files, plain or ``.gz``; or the archive of one of the sources, as it was published; or
            None.

    Raises:
        UserError: The path lacks a file or holds other bytes; no source had a file; something cannot be read or the
            cache not be written.
    """
    home = cache_dir() / name
    announce(Request(name, tuple(home / file.name for file in files), tuple(files), tuple(sources), path))
    try:
        return _fetch(name, files, sources, path, home)
    except OSError as error:
        raise UserError(
            f"{name}: cannot read or write {error.filename or path or home} ({error.strerror or error}); check its "
            "permissions and the free space, or set data.path or GENBENCH_CACHE to another place"
        ) from error


def _fetch(name: str, files: Sequence[DataFile], sources: Sequence[Source], path: str | None, home: Path) -> list[Path]:
    if path is not None:
        place = Path(path).expanduser()
        if place.is_file():
            return _from_archive(name, files, sources, place, home)
        return [_from_folder(name, file, place, home) for file in files]

    missing = [file for file in files if not file.matches(home / file.name)]
    tried = []
    for source in sources:
        if len(missing) == 0:
            break
        _log.info("%s: %s", name, source)
        with Staging(home) as folder:
            reason = "delivered other bytes than expected"
            try:
                source.deliver(missing, folder)
            except SourceError as error:
                reason = str(error)
            except UNREADABLE as error:
                reason = f"{type(error).__name__}: {error}"
            for file in missing:
                if file.matches(folder / file.name):
                    publish(folder / file.name, home / file.name)
        missing = [file for file in missing if not file.matches(home / file.name)]
        tried.append(f"{source} ({_one_line(reason)})")
        if len(missing) > 0:
            _log.info("%s", tried[-1])
    if len(missing) > 0:
        names = ", ".join(file.name for file in missing)
        raise UserError(
            f"{name}: could not get {names}; tried the cache {home}"
            + "".join(f"; {attempt}" for attempt in tried)
            + f". Put {', '.join(file.name for file in files)} (plain or .gz) into one folder and set data.path to it, "
            f"or put {names} (plain) into {home}"
        )
    return [home / file.name for file in files]


def _from_folder(name: str, file: DataFile, folder: Path, home: Path) -> Path:
    plain, packed = folder / file.name, folder / f"{file.name}.gz"
    remedy = f"expected {file.size} bytes with SHA-256 {file.sha256}; put the right file there or leave data.path unset"
    if plain.is_file():
        if file.matches(plain):
            return plain
        raise UserError(f"{name}: {plain} holds other bytes; {remedy}")
    if not packed.is_file():
        raise UserError(f"{name}: {folder} has neither {file.name} nor {file.name}.gz; {remedy}")
    if file.matches(home / file.name):  # unpacked before
        return home / file.name
    with Staging(home) as staging:
        try:
            unzip(packed, file, staging)
        except (SourceError, *UNREADABLE) as error:
            raise UserError(f"{name}: {packed} cannot be unpacked ({_one_line(str(error))}); {remedy}") from error
        if not file.matches(staging / file.name):
            raise UserError(f"{name}: {packed} unpacks to other bytes; {remedy}")
        publish(staging / file.name, home / file.name)
    return home / file.name


def _from_archive(
    name: str, files: Sequence[DataFile], sources: Sequence[Source], path: Path, home: Path
) -> list[Path]:
    found = sha256(path)
    bundles = [source for source in sources if isinstance(source, Bundle)]
    source = next((bundle for bundle in bundles if bundle.sha256 == found), None)
    if source is None:
        known = "".join(f"; or the archive of {bundle} (SHA-256 {bundle.sha256})" for bundle in bundles)
        raise UserError(
            f"{name}: {path} (SHA-256 {found}) is none of the published archives; set data.path to a folder with "
            f"{', '.join(file.name for file in files)} (plain or .gz){known}"
        )
    missing = [file for file in files if not file.matches(home / file.name)]
    if len(missing) == 0:  # unpacked before
        return [home / file.name for file in files]
    with Staging(home) as staging:
        try:
            source.deliver_from(path, missing, staging)
        except (SourceError, *UNREADABLE) as error:
            raise UserError(
                f"{name}: {path} cannot be unpacked ({_one_line(str(error))}); leave data.path unset"
            ) from error
        for file in missing:
            if not file.matches(staging / file.name):
                raise UserError(f"{name}: {path} holds another {file.name} than expected; leave data.path unset")
            publish(staging / file.name, home / file.name)
    return [home / file.name for file in files]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
