"""Find the files of a data set in the user's folder, the cache, a download or a package, and check their hashes.

A data set lists its files (name, SHA-256 and size of the plain bytes) and its sources, in the order to try them. Only
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
    """The files that a data set needs, known before any of them is fetched or read.

    Attributes:
        name: Name of the data set, and of its folder in the cache.
        paths: Where its files are, or will be after they are fetched.
        files: The same files with their published hashes. Empty if no hash is published; then loading is the only
            check.
        sources: Where the files can be fetched from.
        path: The folder or archive that the user named, or None.
        carrier: The installed package that contains the files, or empty.
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
    """Stops a data function once its request is known. A BaseException, so that no ``except Exception`` catches it."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.name)
        self.request = request


_asking = ContextVar("asking", default=False)


def request_of(make: Callable[[], object]) -> Request | None:
    """Return the first request that ``make`` announces; ``make`` is stopped there, before it reads anything.

    None if ``make`` returns without a request, because its data are generated or come from elsewhere.

    Arguments:
        make: Makes a data set.
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
    """Announce the files that a data set is about to read. Within ``request_of``, stop there. ``fetch`` calls this."""
    if _asking.get():
        raise _Announced(request)


def hand_on(name: str, decode: Callable[[], object], decoded: Path) -> None:
    """Within ``request_of``, announce the request of ``decode``, or an empty one, and the folder of its arrays."""
    if _asking.get():
        raise _Announced(replace(request_of(decode) or Request(name, ()), decoded=decoded))


def fetch(
    name: str,
    files: Sequence[DataFile],
    sources: Sequence[Source],
    path: str | None = None,
    *,
    setting: str = "data.path",
) -> list[Path]:
    """Return the paths of the checked files, in the order of ``files``.

    A data set must request all its files in one call, because ``genbench data`` shows the first request only.

    If ``path`` is given, only ``path`` is searched. Otherwise the files come from the cache ``cache_dir()/name``, and
    each source is tried in turn for those still missing. A cached file with wrong bytes counts as missing and is
    replaced. Plain files in the user's folder are used in place; gzipped or archived ones are unpacked into the cache
    once.

    Arguments:
        name: Name of the data set, and of its folder in the cache.
        files: The files needed.
        sources: Where to look, in order.
        path: A folder with all files, plain or ``.gz``; or the published archive of one of the sources; or None.
        setting: The configuration key that ``path`` comes from, for messages.

    Raises:
        UserError: ``path`` lacks a file or holds one with other bytes; no source delivered a file; a file cannot be
            read; the cache is not writable.
    """
    home = cache_dir() / name
    announce(Request(name, tuple(home / file.name for file in files), tuple(files), tuple(sources), path))
    try:
        return _fetch(name, files, sources, path, home, setting)
    except OSError as error:
        raise UserError(
            f"{name}: cannot read or write {error.filename or path or home} ({error.strerror or error}); check its "
            f"permissions and the free space, or set {setting} or GENBENCH_CACHE to another place"
        ) from error


def _fetch(
    name: str, files: Sequence[DataFile], sources: Sequence[Source], path: str | None, home: Path, setting: str
) -> list[Path]:
    if path is not None:
        place = Path(path).expanduser()
        if place.is_file():
            return _from_archive(name, files, sources, place, home, setting)
        return [_from_folder(name, file, place, home, setting) for file in files]

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
            + f". Put {', '.join(file.name for file in files)} (plain or .gz) into one folder and set {setting} to it, "
            f"or put {names} (plain) into {home}"
        )
    return [home / file.name for file in files]


def _from_folder(name: str, file: DataFile, folder: Path, home: Path, setting: str) -> Path:
    plain, packed = folder / file.name, folder / f"{file.name}.gz"
    wanted = f"expected {file.size} bytes with SHA-256 {file.sha256}"
    remedy = f"{wanted}; put the right file there or leave {setting} unset"
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
    name: str, files: Sequence[DataFile], sources: Sequence[Source], path: Path, home: Path, setting: str
) -> list[Path]:
    found = sha256(path)
    bundles = [source for source in sources if isinstance(source, Bundle)]
    source = next((bundle for bundle in bundles if bundle.sha256 == found), None)
    if source is None:
        known = "".join(f"; or the archive of {bundle} (SHA-256 {bundle.sha256})" for bundle in bundles)
        raise UserError(
            f"{name}: {path} (SHA-256 {found}) is none of the published archives; set {setting} to a folder with "
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
                f"{name}: {path} cannot be unpacked ({_one_line(str(error))}); leave {setting} unset"
            ) from error
        for file in missing:
            if not file.matches(staging / file.name):
                raise UserError(f"{name}: {path} holds another {file.name} than expected; leave {setting} unset")
            publish(staging / file.name, home / file.name)
    return [home / file.name for file in files]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
