"""Decoded arrays: made once, mapped from then on, whole or not at all."""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import Bytes, cached, examples

from bench.data.bytes.arrays import decoded, revision
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


def forbidden() -> dict[str, Bytes]:
    raise AssertionError("decoded although the cache holds the arrays")


def small_arrays() -> dict[str, Bytes]:
    images, labels = examples(20, (3, 4, 4), 0)
    return {"images": images.transpose(0, 2, 3, 1), "labels": labels}  # one of them not contiguous


def test_arrays_are_decoded_once_and_then_mapped(cache: Path) -> None:
    first = decoded("set", "k", small_arrays)
    again = decoded("set", "k", forbidden)
    for found in (first, again):
        assert set(found) == {"images", "labels"}
        for name, array in small_arrays().items():
            assert isinstance(found[name], np.memmap)
            assert np.array_equal(found[name], array)
    files = ("SHA256SUMS", "STAMPS", "images.npy", "labels.npy")
    assert cached(cache) == [f"set/decoded-k/{name}" for name in files]
    with pytest.raises(AssertionError, match="decoded although"):
        decoded("set", "other", forbidden)


def small_chunks() -> Iterator[tuple[str, Bytes]]:
    """The same arrays in pieces of many sizes, one of them empty, in turns."""
    made, start = small_arrays(), 0
    for n in (1, 0, 12, 7):
        for name, array in made.items():
            yield name, array[start : start + n]
        start += n


def test_arrays_in_pieces_are_the_same_files(cache: Path) -> None:
    whole, pieces = decoded("set", "whole", small_arrays), decoded("set", "pieces", small_chunks)
    for name, array in small_arrays().items():
        assert np.array_equal(pieces[name], array)
        assert pieces[name].dtype == whole[name].dtype == array.dtype
        content = [(cache / "set" / f"decoded-{key}" / f"{name}.npy").read_bytes() for key in ("whole", "pieces")]
        assert content[0] == content[1]


def test_pieces_that_end_in_an_error_leave_nothing(cache: Path) -> None:
    def broken() -> Iterator[tuple[str, Bytes]]:
        yield from small_chunks()
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        decoded("set", "k", broken)
    assert cached(cache) == []


def test_pieces_are_never_in_memory_at_once(cache: Path) -> None:
    def many() -> Iterator[tuple[str, Bytes]]:
        for k in range(64):
            yield "images", np.full((1, 1 << 20), k, np.uint8)

    tracemalloc.start()
    try:
        images = decoded("set", "k", many)["images"]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert images.shape == (64, 1 << 20)
    assert (images[:, -1] == np.arange(64)).all()


def test_writing_to_an_array_leaves_the_file_alone(cache: Path) -> None:
    one = torch.from_numpy(decoded("set", "k", small_arrays)["images"])
    one.zero_()
    assert np.array_equal(decoded("set", "k", forbidden)["images"], small_arrays()["images"])


@pytest.mark.parametrize("file", ["images.npy", "SHA256SUMS"])
@pytest.mark.parametrize(
    "damage", [lambda old: None, lambda old: b"", lambda old: old[:-1], lambda old: b"\xff" + old[1:]]
)
def test_damaged_arrays_are_decoded_again(cache: Path, file: str, damage: Callable[[bytes], bytes | None]) -> None:
    decoded("set", "k", small_arrays)
    target = cache / "set" / "decoded-k" / file
    new = damage(target.read_bytes())
    target.unlink()
    if new is not None:
        target.write_bytes(new)
    assert np.array_equal(decoded("set", "k", small_arrays)["images"], small_arrays()["images"])
    decoded("set", "k", forbidden)


def test_an_array_that_does_not_belong_there_is_not_taken_for_one(cache: Path) -> None:
    decoded("set", "k", small_arrays)
    np.save(cache / "set" / "decoded-k" / "stranger.npy", np.zeros(3))
    with pytest.raises(AssertionError, match="decoded although"):
        decoded("set", "k", forbidden)


def test_what_fails_to_decode_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        decoded("set", "k", forbidden)
    assert cached(cache) == []

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*GENBENCH_CACHE"):
        decoded("set", "k", small_arrays)
    assert cached(cache) == []


def test_many_decoders_at_once_do_no_harm(cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for run in [pool.submit(decoded, "set", "k", small_arrays) for _ in range(8)]:
            assert np.array_equal(run.result()["images"], small_arrays()["images"])
    decoded("set", "k", forbidden)
    assert len(cached(cache)) == 4


def test_revision_tells_recipes_apart() -> None:
    assert len({revision("a", "b"), revision("a"), revision("ab"), revision("b", "a")}) == 4
    assert len(revision("a")) == 16
