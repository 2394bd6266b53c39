"""Two files, sources that deliver what they are told to, a server on this machine, and what is in the cache."""

import contextlib
import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.data.bytes.archive import SourceError
from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Source
from bench.errors import UserError

__all__ = ["A", "B", "CONTENT", "FILES", "Forbidden", "Given", "Quiet", "cached", "gzip_into", "message", "serving"]

CONTENT = {"a.bin": b"first file\n" * 1000, "b.bin": bytes(range(256)) * 7}
FILES = tuple(DataFile(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in CONTENT.items())
A, B = FILES


@dataclass(frozen=True)
class Given(Source):
    """Delivers what it was given, then fails if it was told to."""

    content: tuple[tuple[str, bytes], ...]
    failure: str = ""

    def __str__(self) -> str:
        return "a given source"

    def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
        for name, data in self.content:
            (folder / name).write_bytes(data)
        if self.failure != "":
            raise SourceError(self.failure)


@dataclass(frozen=True)
class Forbidden(Source):
    """Must not be asked."""

    def __str__(self) -> str:
        return "a forbidden source"

    def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
        raise AssertionError("asked although nothing was missing")


def cached(cache: Path) -> dict[str, bytes]:
    """Everything in the cache, leftovers included."""
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def gzip_into(folder: Path, content: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in content.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    return folder


def message(name: str, files: Sequence[DataFile], sources: Sequence[Source], path: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        fetch(name, files, sources, path)
    text = str(caught.value)
    assert "\n" not in text
    return text


class Quiet(SimpleHTTPRequestHandler):
    """Logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(handler: Callable[..., SimpleHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on this machine that answers inside the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
