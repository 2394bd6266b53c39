"""Archives, downloaded or the user's own: only named members of the published bytes are read."""

import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers_data import tarball
from helpers_fetch import CONTENT, FILES, B, Forbidden, cached, message

from bench.data.bytes.archive import SourceError, read_member
from bench.data.bytes.cache import sha256
from bench.data.bytes.fetch import fetch
from bench.data.bytes.sources import ArchiveDownload

pytestmark = pytest.mark.usefixtures("cache")


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


def published(path: Path, folder: str = "d") -> ArchiveDownload:
    """A source whose archive is ``path``; the address leads nowhere."""
    return ArchiveDownload(f"http://127.0.0.1:1/{path.name}", sha256(path), path.stat().st_size, folder)


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
