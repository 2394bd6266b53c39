"""Sources, cache and hashes: right bytes arrive, wrong ones never enter the cache, and one line says what to do."""

import gzip
import hashlib
import importlib.util
import io
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

from bench.data.fetch import DataFile, Download, Package, Source, SourceError, cache_dir, fetch, sha256
from bench.errors import UserError

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
)
def test_bad_downloads_are_refused(web: tuple[Path, str], cache: Path, served: bytes | None, reason: str) -> None:
    if served is not None:
        (web[0] / "b.bin.gz").write_bytes(served)
    assert reason in message("set", [B], [Download(web[1])])
    assert cached(cache) == {}


def test_no_server_is_one_more_reason(web: tuple[Path, str]) -> None:
    text = message("set", [B], [Download("http://127.0.0.1:1")])  # port 1 is reserved; nobody listens
    assert "ConnectionError at b.bin.gz" in text


# Packages


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
    monkeypatch.setattr("bench.data.fetch._CLIENT_SECONDS", 0.3)
    assert "no end after 0.3 s" in message("set", [B], [Package("npm", "thing", "1.0.0", "0" * 64, "d")])


@pytest.mark.skipif(
    importlib.util.find_spec("pip") is None, reason="the real pip client is asked, on a wheel made here"
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
