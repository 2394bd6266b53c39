"""Sources, cache and hashes: right bytes arrive, wrong ones never enter the cache, and one line says what to do."""

import fcntl
import gzip
import hashlib
import importlib.metadata
import io
import os
import shutil
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers_cli import started, wait_until

from bench.data.bytes.archive import SourceError, read_member
from bench.data.bytes.cache import DataFile, cache_dir, sha256
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import ArchiveDownload, Download, Package, Source
from bench.errors import UserError

CLIENT = """\
import sys, tempfile
from pathlib import Path
from bench.data.bytes.archive import run_program

waits = "import os, time; open(%r, 'w').write(str(os.getpid())); time.sleep(3600)" % sys.argv[1]
run_program([sys.executable, "-c", waits], Path(tempfile.gettempdir()))
"""

CONTENT = {"a.bin": b"first file\n" * 1000, "b.bin": bytes(range(256)) * 7}
FILES = tuple(DataFile(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in CONTENT.items())
A, B = FILES


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


# The cache folder


def test_cache_dir_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.setenv("GENBENCH_CACHE", "")
    assert cache_dir() == tmp_path / "xdg" / "genbench"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / "home" / ".cache" / "genbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("GENBENCH_CACHE")
    assert cache_dir() == tmp_path / "home" / ".cache" / "genbench"


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-4
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# The order of the sources


def test_first_good_source_fills_the_cache_and_is_asked_once(cache: Path) -> None:
    paths = fetch("set", FILES, [Given(tuple(CONTENT.items())), Forbidden()])
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}
    assert fetch("set", FILES, [Forbidden()]) == paths


def test_a_source_that_breaks_off_still_counts_for_what_it_delivered(cache: Path) -> None:
    @dataclass(frozen=True)
    class Rest(Source):
        def __str__(self) -> str:
            return "the rest"

        def deliver(self, files: Sequence[DataFile], folder: Path) -> None:
            assert files == [B]
            (folder / B.name).write_bytes(CONTENT[B.name])

    fetch("set", FILES, [Given((("a.bin", CONTENT["a.bin"]),), failure="cable cut"), Rest()])
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}


@pytest.mark.parametrize("bad", [b"other", CONTENT["b.bin"][:-1], CONTENT["b.bin"] + b"!", b"?" * B.size])
def test_wrong_bytes_never_enter_the_cache(cache: Path, bad: bytes) -> None:
    text = message("set", FILES, [Given((("a.bin", CONTENT["a.bin"]), ("b.bin", bad)))])
    assert "a given source (delivered other bytes than expected)" in text
    assert cached(cache) == {"set/a.bin": CONTENT["a.bin"]}


@pytest.mark.parametrize("damaged", [b"", CONTENT["a.bin"][:-1], b"X" + CONTENT["a.bin"][1:]])
def test_a_damaged_cached_file_is_replaced(cache: Path, damaged: bytes) -> None:
    fetch("set", FILES, [Given(tuple(CONTENT.items()))])
    (cache / "set" / "a.bin").write_bytes(damaged)
    fetch("set", FILES, [Given((("a.bin", CONTENT["a.bin"]),))])
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}


def test_when_all_fail_one_line_says_what_was_tried_and_where_to_put_what(cache: Path) -> None:
    text = message("set", FILES, [Given((), failure="cable cut"), Given((), failure="two\nlines")])
    for part in ("a.bin, b.bin", "cable cut", "two lines", str(cache / "set"), "data.path"):
        assert part in text
    assert cached(cache) == {}


def test_a_cache_that_cannot_be_written_is_said_so(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert "GENBENCH_CACHE" in message("set", FILES, [Given(tuple(CONTENT.items()))])


def test_many_writers_at_once_do_no_harm(cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(fetch, "set", FILES, [Given(tuple(CONTENT.items()))]) for _ in range(8)]
        for run in runs:
            assert [path.read_bytes() for path in run.result()] == list(CONTENT.values())
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}


# The user's folder


def test_plain_files_are_used_where_they_lie(tmp_path: Path, cache: Path) -> None:
    for name, data in CONTENT.items():
        (tmp_path / name).write_bytes(data)
    assert fetch("set", FILES, [Forbidden()], str(tmp_path)) == [tmp_path / "a.bin", tmp_path / "b.bin"]
    assert cached(cache) == {}


def test_gzipped_files_go_through_the_cache(tmp_path: Path, cache: Path) -> None:
    folder = gzip_into(tmp_path / "mine", CONTENT)
    paths = fetch("set", FILES, [Forbidden()], str(folder))
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert paths == [cache / "set" / "a.bin", cache / "set" / "b.bin"]
    assert fetch("set", FILES, [Forbidden()], str(folder)) == paths


def test_what_cannot_be_read_is_said_so(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in CONTENT.items():
        (tmp_path / name).write_bytes(data)

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    for module in ("cache", "fetch"):  # the tests may run as a user who may read everything
        monkeypatch.setattr(f"bench.data.bytes.{module}.sha256", refuse)
    for path in (tmp_path, tmp_path / "a.bin"):
        text = message("set", FILES, [Forbidden()], str(path))
        assert f"cannot read or write {tmp_path / 'a.bin'} (Permission denied)" in text
    assert cached(cache) == {}


def test_a_folder_without_the_files_is_the_users_mistake(tmp_path: Path) -> None:
    text = message("set", FILES, [Forbidden()], str(tmp_path / "nowhere"))
    assert "nowhere has neither a.bin nor a.bin.gz" in text


def test_altered_and_truncated_user_files_are_refused(tmp_path: Path, cache: Path) -> None:
    folder = gzip_into(tmp_path / "mine", CONTENT)
    whole = (folder / "b.bin.gz").read_bytes()
    (folder / "b.bin.gz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be unpacked" in message("set", FILES, [], str(folder))
    gzip_into(folder, {"b.bin": b"?" * B.size})
    assert "unpacks to other bytes" in message("set", FILES, [], str(folder))
    gzip_into(folder, {"b.bin": bytes(50_000_000)})  # a small file that would become a large one
    assert f"longer than {B.size} bytes" in message("set", FILES, [], str(folder))
    (folder / "b.bin.gz").write_bytes(b"no gzip")
    assert "cannot be unpacked" in message("set", FILES, [], str(folder))
    (folder / "b.bin").write_bytes(b"short")
    assert B.sha256 in message("set", FILES, [], str(folder))
    assert cached(cache) == {"set/a.bin": CONTENT["a.bin"]}


# Downloads


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which a server on this machine shows it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_download_unpacks_and_checks(web: tuple[Path, str], cache: Path) -> None:
    gzip_into(web[0], CONTENT)
    paths = fetch("set", FILES, [Download(web[1]), Forbidden()])
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}


def test_the_second_mirror_gives_what_the_first_lacks(web: tuple[Path, str], cache: Path) -> None:
    gzip_into(web[0] / "one", {"a.bin": CONTENT["a.bin"]})
    gzip_into(web[0] / "two", {"b.bin": CONTENT["b.bin"]})
    fetch("set", FILES, [Download(f"{web[1]}/one/"), Download(f"{web[1]}/two")])
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        (None, "HTTPError 404 at b.bin.gz"),
        (b"<html>log in to the network</html>", "BadGzipFile"),
        (gzip.compress(CONTENT["b.bin"])[:-20], "EOFError"),
        (gzip.compress(b"?" * B.size), "other bytes"),
        (gzip.compress(bytes(20_000_000)), "longer than"),
    ],
    ids=["missing", "no gzip", "truncated", "other bytes", "too long"],  # gzip writes the time: bytes are no name
)
def test_bad_downloads_are_refused(web: tuple[Path, str], cache: Path, served: bytes | None, reason: str) -> None:
    if served is not None:
        (web[0] / "b.bin.gz").write_bytes(served)
    assert reason in message("set", [B], [Download(web[1])])
    assert cached(cache) == {}


def test_no_server_is_one_more_reason(web: tuple[Path, str]) -> None:
    text = message("set", [B], [Download("http://127.0.0.1:1")])  # port 1 is reserved; nobody listens
    assert "ConnectionError at b.bin.gz" in text


def test_plain_download(web: tuple[Path, str], cache: Path) -> None:
    for name, data in CONTENT.items():
        (web[0] / name).write_bytes(data)
    fetch("set", FILES, [Download(web[1], gzipped=False), Forbidden()])
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}


@pytest.mark.parametrize(
    ("served", "reason"),
    [
        (None, "HTTPError 404 at b.bin"),
        (b"", "other bytes"),
        (CONTENT["b.bin"][:-1], "other bytes"),
        (b"?" * B.size, "other bytes"),
        (bytes(20_000_000), f"b.bin is longer than {B.size} bytes"),
    ],
)
def test_bad_plain_downloads_are_refused(web: tuple[Path, str], cache: Path, served: bytes | None, reason: str) -> None:
    if served is not None:
        (web[0] / "b.bin").write_bytes(served)
    assert reason in message("set", [B], [Download(web[1], gzipped=False)])
    assert cached(cache) == {}


def test_an_endless_gzipped_download_is_cut_off(web: tuple[Path, str], cache: Path) -> None:
    (web[0] / "b.bin.gz").write_bytes(os.urandom(1 << 20))
    assert "b.bin.gz is longer than" in message("set", [B], [Download(web[1])])
    assert cached(cache) == {}


class Flaky(SimpleHTTPRequestHandler):
    """Serves ``data``, but breaks off after ``cut`` bytes of an answer; knows ranges if told so."""

    data = os.urandom(3 << 20)
    cut: int | None = None
    ranges = True
    asked: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        body = self.data[start:]
        self.send_response(416 if start > 0 and body == b"" else 206 if start > 0 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[Flaky], str]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = type("Handler", (Flaky,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


LARGE = DataFile("large.bin", hashlib.sha256(Flaky.data).hexdigest(), len(Flaky.data))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_taken_up_again(flaky: tuple[type[Flaky], str], cache: Path, ranges: bool) -> None:
    handler, url = flaky
    handler.cut, handler.ranges = 2 << 20, ranges
    assert "at large.bin" in message("set", [LARGE], [Download(url, gzipped=False)])
    (kept,) = (cache / "partial").iterdir()
    size = kept.stat().st_size
    assert kept.read_bytes() == Flaky.data[:size] != b""
    handler.cut = None
    (path,) = fetch("set", [LARGE], [Download(url, gzipped=False)])
    assert handler.asked == [None, f"bytes={size}-"]
    assert path.read_bytes() == Flaky.data
    assert list(cached(cache)) == ["set/large.bin"]


def test_a_beginning_that_is_already_whole(flaky: tuple[type[Flaky], str], cache: Path) -> None:
    handler, url = flaky
    handler.cut = 2 << 20
    message("set", [LARGE], [Download(url, gzipped=False)])
    (kept,) = (cache / "partial").iterdir()
    kept.write_bytes(Flaky.data)
    handler.cut = None
    fetch("set", [LARGE], [Download(url, gzipped=False)])
    assert handler.asked == [None, f"bytes={LARGE.size}-", None]


def test_a_wrong_beginning_is_not_kept(flaky: tuple[type[Flaky], str], cache: Path) -> None:
    handler, url = flaky
    handler.cut = 2 << 20
    message("set", [LARGE], [Download(url, gzipped=False)])
    (kept,) = (cache / "partial").iterdir()
    beginning = kept.read_bytes()
    kept.write_bytes(bytes([beginning[0] ^ 0xFF]) + beginning[1:])  # another byte, whatever the random one is
    handler.cut = None
    assert "other bytes" in message("set", [LARGE], [Download(url, gzipped=False)])
    assert cached(cache) == {}
    fetch("set", [LARGE], [Download(url, gzipped=False)])
    assert handler.asked[-1] is None


def test_a_beginning_that_another_process_writes_is_left_alone(flaky: tuple[type[Flaky], str], cache: Path) -> None:
    handler, url = flaky
    handler.cut = 2 << 20
    message("set", [LARGE], [Download(url, gzipped=False)])
    (kept,) = (cache / "partial").iterdir()
    before, handler.cut = kept.read_bytes(), None
    with kept.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        fetch("set", [LARGE], [Download(url, gzipped=False)])
    assert handler.asked == [None, None]
    assert kept.read_bytes() == before


def test_a_terminal_shows_a_bar(
    web: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (web[0] / "b.bin").write_bytes(CONTENT["b.bin"])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch("set", [B], [Download(web[1], gzipped=False)])
    shown = capsys.readouterr()
    assert "b.bin" in shown.err
    assert "1.8/1.8 kB" in shown.err
    assert shown.out == ""


def test_without_a_terminal_there_are_lines(
    flaky: tuple[type[Flaky], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bench.data.bytes.download._LINE_SECONDS", 0.0)
    caplog.set_level("INFO", "bench.data")
    source = Download(flaky[1], gzipped=False)
    fetch("set", [LARGE], [Given((), failure="cable cut"), source])
    assert caplog.messages[:3] == ["set: a given source", "a given source (cable cut)", f"set: {source}"]
    assert caplog.messages[3:] == ["large.bin: 1 of 3 MB", "large.bin: 2 of 3 MB", "large.bin: 3 of 3 MB"]


# Archives


def tarball(path: Path, members: dict[str, bytes | str]) -> str:
    """A .tgz of files (bytes) and symbolic links (text); returns its hash."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return sha256(path)


def published(path: Path, folder: str = "d") -> ArchiveDownload:
    """A source whose archive is ``path``; the address leads nowhere."""
    return ArchiveDownload(f"http://127.0.0.1:1/{path.name}", sha256(path), path.stat().st_size, folder)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_archive_download(web: tuple[Path, str], cache: Path, kind: str) -> None:
    path = web[0] / f"thing.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in CONTENT.items():
                archive.writestr(f"d/{name}", data)
    else:
        tarball(path, {f"d/{name}": data for name, data in CONTENT.items()})
    source = ArchiveDownload(f"{web[1]}/{path.name}", sha256(path), path.stat().st_size, "d")
    fetch("set", FILES, [source, Forbidden()])
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}


def test_bad_archive_downloads_are_refused(web: tuple[Path, str], cache: Path) -> None:
    path = web[0] / "thing.tgz"
    digest, url = tarball(path, {"d/b.bin": CONTENT["b.bin"]}), f"{web[1]}/thing.tgz"
    whole = path.read_bytes()
    assert "d/a.bin" in message("set", FILES, [ArchiveDownload(url, digest, len(whole), "d")])
    assert "thing.tgz is longer than" in message("set", [B], [ArchiveDownload(url, digest, len(whole) - 1, "d")])
    for bad in (b"", whole[: len(whole) // 2], b"?" * len(whole)):
        path.write_bytes(bad)
        assert "the archive has SHA-256" in message("set", [B], [ArchiveDownload(url, digest, len(whole), "d")])
        # Even one that was published so does no harm.
        assert "Error" in message("set", [B], [ArchiveDownload(url, sha256(path), len(whole), "d")])
    path.unlink()
    assert "HTTPError 404 at thing.tgz" in message("set", [B], [ArchiveDownload(url, digest, len(whole), "d")])
    assert cached(cache) == {}


def test_the_users_own_archive(tmp_path: Path, cache: Path) -> None:
    tarball(tmp_path / "mine.tgz", {f"d/{name}": data for name, data in CONTENT.items()})
    source = published(tmp_path / "mine.tgz")
    paths = fetch("set", FILES, [Forbidden(), source], str(tmp_path / "mine.tgz"))
    assert paths == [cache / "set" / "a.bin", cache / "set" / "b.bin"]
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}
    assert fetch("set", FILES, [source], str(tmp_path / "mine.tgz")) == paths


def test_another_archive_than_the_published_one_is_the_users_mistake(tmp_path: Path, cache: Path) -> None:
    tarball(tmp_path / "mine.tgz", {"d/a.bin": CONTENT["a.bin"], "d/b.bin": b"?" * B.size})
    source = published(tmp_path / "mine.tgz")
    assert "holds another b.bin than expected" in message("set", [B], [source], str(tmp_path / "mine.tgz"))
    whole = (tmp_path / "mine.tgz").read_bytes()
    (tmp_path / "mine.tgz").write_bytes(whole[: len(whole) // 2])
    text = message("set", FILES, [Forbidden(), source], str(tmp_path / "mine.tgz"))
    for part in ("mine.tgz", "is none of the published archives", source.sha256, "a.bin, b.bin"):
        assert part in text
    assert "cannot be unpacked" in message("set", FILES, [published(tmp_path / "mine.tgz")], str(tmp_path / "mine.tgz"))
    assert cached(cache) == {}


def test_read_member_reads_regular_files_up_to_a_limit(tmp_path: Path) -> None:
    tarball(tmp_path / "thing.tgz", {"d/b.bin": CONTENT["b.bin"], "d/link": "b.bin"})
    with tarfile.open(tmp_path / "thing.tgz") as archive:
        assert read_member(archive, "d/b.bin", B.size) == CONTENT["b.bin"]
        with pytest.raises(SourceError, match="longer than"):
            read_member(archive, "d/b.bin", B.size - 1)
        for name in ("d/link", "d/none"):
            with pytest.raises(SourceError, match="no regular file"):
                read_member(archive, name, B.size)


# Packages


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the npm client on PATH: it records its arguments and hands out ``shelf/thing.tgz``."""
    shelf, programs = tmp_path / "shelf", tmp_path / "bin"
    shelf.mkdir()
    programs.mkdir()
    (programs / "npm").write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys\n"
        f"open({str(shelf / 'asked')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        "try:\n"
        f"    shutil.copy({str(shelf / 'thing.tgz')!r}, 'thing-1.0.0.tgz')\n"
        "except FileNotFoundError:\n"
        "    sys.exit('npm error code E404\\nnpm error a long story')\n"
    )
    (programs / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return shelf


def test_npm_package(npm: Path, cache: Path) -> None:
    digest = tarball(npm / "thing.tgz", {f"package/data/{name}": data for name, data in CONTENT.items()})
    paths = fetch("set", FILES, [Package("npm", "thing", "1.0.0", digest, "package/data")])
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}
    assert (npm / "asked").read_text() == "pack --ignore-scripts --loglevel=error thing@1.0.0"


def test_only_named_regular_members_of_the_right_size_are_read(npm: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT["b.bin"])
    for content, reason in (
        (str(tmp_path / "secret"), "no regular file d/b.bin"),
        (CONTENT["b.bin"] + b"!", "longer than"),
        (b"?" * B.size, "other bytes"),
    ):
        digest = tarball(npm / "thing.tgz", {"d/b.bin": content, "../../escaped": b"out", "d/other": b"x"})
        assert reason in message("set", [B], [Package("npm", "thing", "1.0.0", digest, "d")])
    assert cached(cache) == {}
    assert list(tmp_path.rglob("escaped")) == []


def test_an_archive_with_another_hash_is_not_opened(npm: Path, cache: Path) -> None:
    tarball(npm / "thing.tgz", {"d/b.bin": CONTENT["b.bin"]})
    assert "the archive has SHA-256" in message("set", [B], [Package("npm", "thing", "1.0.0", "0" * 64, "d")])
    assert cached(cache) == {}


def test_a_client_that_fails_or_is_missing_is_named(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package("npm", "thing", "1.0.0", "0" * 64, "d")
    assert "npm pack thing@1.0.0 (exit code 1: npm error code E404)" in message("set", [B], [package])
    monkeypatch.setenv("PATH", str(npm))
    assert "npm is not installed" in message("set", [B], [package])


def test_a_client_that_never_ends_is_stopped(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (npm.parent / "bin" / "npm").write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    monkeypatch.setattr("bench.data.bytes.archive._CLIENT_SECONDS", 0.3)
    assert "no end after 0.3 s" in message("set", [B], [Package("npm", "thing", "1.0.0", "0" * 64, "d")])


# Not find_spec: setuptools takes the mere look for pip as a reason to keep its hands off distutils, which torch's
# compiler then trips over.
@pytest.mark.skipif(
    not list(importlib.metadata.distributions(name="pip")), reason="the real pip client is asked, on a wheel made here"
)
def test_pip_package(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "shelf" / "thing-1.0.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing/data/a.bin.gz", gzip.compress(CONTENT["a.bin"]))
        archive.writestr("thing/data/b.bin", CONTENT["b.bin"])
        archive.writestr("thing-1.0.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0.0\n")
        archive.writestr(
            "thing-1.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("thing-1.0.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    fetch("set", FILES, [Package("pip", "thing", "1.0.0", sha256(wheel), "thing/data")])
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}
    text = message("other", FILES, [Package("pip", "thing", "2.0.0", sha256(wheel), "thing/data")])
    assert "pip download thing==2.0.0 (exit code 1: ERROR: Could not find a version" in text


def deb(path: Path, members: dict[str, bytes | str]) -> str:
    """A .deb of these members, made by its definition: an ar archive of three files; returns its hash."""
    tarball(path.with_suffix(".data"), members)
    tarball(path.with_suffix(".control"), {"./control": b"Package: thing\nVersion: 1.0\nArchitecture: all\n"})
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": path.with_suffix(".control").read_bytes(),
        "data.tar.gz": path.with_suffix(".data").read_bytes(),
    }
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in parts.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return sha256(path)


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for apt-get on PATH: it records its arguments and hands out ``shelf/thing.deb``."""
    shelf, programs = tmp_path / "shelf", tmp_path / "bin"
    shelf.mkdir()
    programs.mkdir()
    (programs / "apt-get").write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys\n"
        f"open({str(shelf / 'asked')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        "try:\n"
        f"    shutil.copy({str(shelf / 'thing.deb')!r}, 'thing_1.0_all.deb')\n"
        "except FileNotFoundError:\n"
        "    print('W: a warning', 'E: Unable to locate package thing', 'more', sep='\\n', file=sys.stderr)\n"
        "    sys.exit(100)\n"
    )
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return shelf


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb opens the archives of apt")
def test_apt_package(apt: Path, cache: Path, tmp_path: Path) -> None:
    link: dict[str, bytes | str] = {"./usr/d/a.bin": "b.bin", "./../../escaped": b"out"}
    files = {f"./usr/d/{name}.gz": gzip.compress(data) for name, data in CONTENT.items()}
    digest = deb(apt / "thing.deb", link | files)
    package = Package("apt", "thing", "1.0", digest, "./usr/d")
    fetch("set", FILES, [package])  # the link is passed over for the file beside it
    assert cached(cache) == {f"set/{name}": data for name, data in CONTENT.items()}
    assert (apt / "asked").read_text() == "download --quiet thing=1.0"
    assert list(tmp_path.rglob("escaped")) == []
    fetch("again", FILES, [package], str(apt / "thing.deb"))
    assert (cache / "again" / "a.bin").read_bytes() == CONTENT["a.bin"]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb opens the archives of apt")
def test_bad_apt_packages_are_refused(apt: Path, cache: Path) -> None:
    text = message("set", FILES, [Package("apt", "thing", "1.0", "0" * 64, "./usr/d")])
    assert "apt-get download thing=1.0 (exit code 100: E: Unable to locate package thing)" in text
    digest = deb(apt / "thing.deb", {"./usr/d/b.bin": b"?" * B.size, "./usr/d/a.bin": "b.bin"})
    assert "other bytes" in message("set", [B], [Package("apt", "thing", "1.0", digest, "./usr/d")])
    assert "no regular file" in message("set", [A], [Package("apt", "thing", "1.0", digest, "./usr/d")])
    assert "the archive has SHA-256" in message("set", [B], [Package("apt", "thing", "1.0", "0" * 64, "./usr/d")])
    whole = (apt / "thing.deb").read_bytes()
    for bad in (whole[: len(whole) * 2 // 3], whole[:20], whole[:8]):
        (apt / "thing.deb").write_bytes(bad)
        text = message("set", [B], [Package("apt", "thing", "1.0", sha256(apt / "thing.deb"), "./usr/d")])
        assert "exit code" in text
    assert cached(cache) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_client_ends_with_a_killed_fetch(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    with started([sys.executable, "-c", CLIENT, str(told)], Path(__file__).parents[1]) as process:
        wait_until(lambda: told.exists() and told.read_text(), process)
        client = Path("/proc") / told.read_text() / "stat"
        assert client.exists()
        process.kill()
        process.wait()
        wait_until(lambda: not client.exists() or client.read_text().rpartition(")")[2].split()[0] in "ZX")
