"""Downloads: unpacked and checked, cut off when too long, taken up again where they broke off, and shown."""

import fcntl
import gzip
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_fetch import CONTENT, FILES, B, Forbidden, Given, Quiet, cached, gzip_into, message, serving

from bench.data.bytes.cache import DataFile
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Download

pytestmark = pytest.mark.usefixtures("cache")


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


class Flaky(Quiet):
    """Serves ``data``, but breaks off after ``cut`` bytes of an answer; knows ranges if told so."""

    data = os.urandom(3 << 20)
    cut: int | None = None
    ranges = True
    asked: list[str | None]

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server asks for
        wanted = self.headers["Range"]
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        body = self.data[start:]
        self.send_response(416 if start > 0 and body == b"" else 206 if start > 0 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cut])


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[Flaky], str]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = type("Handler", (Flaky,), {"asked": []})
    with serving(handler) as url:
        yield handler, url


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
