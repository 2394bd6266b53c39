"""Samples of others: small arrays of them, a folder of pictures, and the one line that a file is refused with."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.data.formats.samples import read_samples
from bench.errors import UserError
from bench.schema import DataSpec

__all__ = ["COLOUR", "GREY", "REALS", "no_hang", "noise", "put_pictures", "refusal", "spec_of"]


def spec_of(*shape: int, levels: int | None = 256) -> DataSpec:
    return DataSpec("fakes", "0", shape, levels, 10, 10, 10)


GREY, COLOUR, REALS = spec_of(1, 4, 5), spec_of(3, 4, 5), spec_of(3, levels=None)


def noise(n: int, spec: DataSpec, seed: int = 0) -> Any:
    """Samples as the data's own space has them."""
    rng = np.random.default_rng(seed)
    if spec.levels is None:
        return rng.standard_normal((n, *spec.shape)).astype(np.float32)
    return rng.integers(spec.levels, size=(n, *spec.shape), dtype=np.uint8)


def refusal(path: Path | str, spec: DataSpec = GREY) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as caught:
        read_samples(path, spec)
    text = str(caught.value)
    assert text.isprintable()
    return text


def put_pictures(folder: Path, images: Any, **options: Any) -> Path:
    """A folder of PNGs of ``(N, C, H, W)``, a half of them in a subfolder that is sorted last."""
    (folder / "z").mkdir(parents=True)
    for k, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        parent = folder if 2 * k < len(images) else folder / "z"
        Image.fromarray(np.ascontiguousarray(pixels)).save(parent / f"{k:03}.png", **options)
    return folder


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """In a test with ``@no_hang()``, waiting for a pipe's other end becomes an error."""

    def wake(signum: int, frame: object) -> None:
        raise TimeoutError("still waiting after 10 s")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
