"""Sources, cache and hashes: right bytes arrive, wrong ones never enter the cache, and one line says what to do."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers_fetch import CONTENT, FILES, B, Forbidden, Given, cached, gzip_into, message

from bench.data.bytes.cache import DataFile, cache_dir, sha256
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Source

pytestmark = pytest.mark.usefixtures("cache")


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
