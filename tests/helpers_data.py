"""Small files of the true formats, what every data set promises, and what stays in the cache."""

import hashlib
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.data.base import Data, Split
from bench.data.bytes.cache import DataFile, sha256
from bench.errors import UserError

__all__ = [
    "Bytes",
    "cached",
    "check_data",
    "complaint",
    "encoded",
    "examples",
    "of_bytes",
    "pinned",
    "resized",
    "tarball",
    "zipped",
]

Bytes = NDArray[np.uint8]


def check_data(data: Data, name: str) -> None:
    """What every data set promises, whatever its size."""
    spec = data.spec
    assert spec.name == name
    assert spec.revision
    assert spec.licence
    assert spec.source
    for split, size in ((data.train, spec.n_train), (data.val, spec.n_val), (data.test, spec.n_test)):
        assert size > 0
        assert split.x.shape == (size, *spec.shape)
        if spec.levels is None:
            assert split.x.dtype == torch.float32
            assert torch.isfinite(split.x).all()
        else:
            assert split.x.dtype == torch.uint8
            assert int(split.x.max()) < spec.levels
        assert (split.y is None) == (spec.classes is None)
        if split.y is not None:
            assert split.y.dtype == torch.int64
            assert split.y.shape == (size,)
            assert set(split.y.tolist()) == set(range(spec.classes or 0))
        if split.factors is not None:
            assert split.factors.dtype == torch.int64
            assert split.factors.ndim == 2
            assert len(split.factors) == size
    seen = _digests(data.train)
    for split in (data.val, data.test):
        assert not seen & _digests(split), "splits share examples"


def _digests(split: Split) -> set[bytes]:
    return {hashlib.blake2b(x.tobytes(), digest_size=16).digest() for x in split.x.numpy()}


def of_bytes(data: Data) -> tuple[str, str]:
    """The revision, and 16 digits of the SHA-256 of all examples: what generated data may change together alone."""
    digest = hashlib.sha256()
    for split in (data.train, data.val, data.test):
        digest.update(split.x.numpy().tobytes())
    return data.spec.revision, digest.hexdigest()[:16]


def examples(n: int, shape: tuple[int, ...], seed: int) -> tuple[Bytes, Bytes]:
    """Images of noise, so that a plane or a row in the wrong place is seen, and labels."""
    rng = np.random.RandomState(seed)
    return rng.randint(256, size=(n, *shape)).astype(np.uint8), rng.randint(10, size=n).astype(np.uint8)


def pinned(name: str, content: bytes) -> DataFile:
    return DataFile(name, hashlib.sha256(content).hexdigest(), len(content))


def cached(cache: Path) -> list[str]:
    """Everything in the cache, leftovers included."""
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def complaint(load: Callable[[str | None], Data], path: Path | None) -> str:
    """The one line that a loader fails with."""
    with pytest.raises(UserError) as caught:
        load(None if path is None else str(path))
    text = str(caught.value)
    assert text.isprintable()  # so it is one line too
    return text


def encoded(image: Bytes, form: str = "PNG", mode: str = "RGB", **options: object) -> bytes:
    """A picture file of an image ``(3, H, W)``."""
    stream = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def resized(png: bytes, width: int, height: int) -> bytes:
    """The same file with a header that promises another size."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def tarball(path: Path, members: Mapping[str, bytes | str], mode: str = "w:gz") -> str:
    """Write a tar archive of files (bytes) and symbolic links (text); its hash."""
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return sha256(path)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The bytes of a zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()
