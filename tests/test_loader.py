"""The loader: whether data are resident or read ahead from a file, the batches are the same bits."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_models import new_model, small_data
from torch import Generator, Tensor

from bench.config.spec import Hardware, Schedule
from bench.data import loader
from bench.data.base import Data, Split
from bench.data.loader import AHEAD, Batches
from bench.features.classifier import _digest
from bench.training.fit import fit

SHAPE = (3, 4, 4)


@pytest.fixture
def mapped(tmp_path: Path) -> Split:
    """60 images in a file, mapped copy-on-write as the cache's are; entry 0 of an image is its number."""
    images = np.random.RandomState(0).randint(256, size=(60, *SHAPE)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(60)
    np.save(tmp_path / "images.npy", images)
    return Split(torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c")), torch.arange(60))


def same(first: list[tuple[Tensor, Tensor | None]], second: list[tuple[Tensor, Tensor | None]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and ((b is None and d is None) or (b is not None and d is not None and torch.equal(b, d)))
        for (a, b), (c, d) in zip(first, second, strict=True)
    )


def noise(index: Tensor, generator: Generator) -> Tensor:
    """Noise to the examples drawn anew, with the index in front."""
    assert index.device.type == generator.device.type == "cpu"
    drawn = torch.randint(256, (len(index), *SHAPE), dtype=torch.uint8, generator=generator)
    drawn[:, 0, 0, 0] = index
    return drawn


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


# One order, two ways


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_streamed_batches_are_the_resident_ones(batch_size: int, labelled: bool, mapped: Split) -> None:
    split = mapped if labelled else Split(mapped.x)
    resident = Batches(split, batch_size, seed=3, last_step=25)
    streamed = Batches(split, batch_size, seed=3, last_step=25, resident_bytes=0)
    assert (resident.resident, streamed.resident) == (True, False)
    batches = list(streamed)
    assert same(batches, list(resident))
    assert len(batches) == 25
    assert batches[0][0].dtype == torch.uint8
    assert all((y is not None) == labelled for _, y in batches)
    assert all(torch.equal(x[:, 0, 0, 0].long(), y) for x, y in batches if y is not None), "labels keep to examples"


def test_streaming_resumes_at_any_step(mapped: Split) -> None:
    whole = list(Batches(mapped, 8, seed=1, last_step=20, resident_bytes=0))
    for start in (0, 3, 6, 7, 19, 20):
        assert same(whole[start:], list(Batches(mapped, 8, seed=1, first_step=start, last_step=20, resident_bytes=0)))


@pytest.mark.parametrize("resident_bytes", [0, None])
def test_processes_see_no_example_twice_in_an_epoch(resident_bytes: int | None, mapped: Split) -> None:
    parts = [
        list(Batches(mapped, 4, seed=1, rank=rank, world_size=3, last_step=5, resident_bytes=resident_bytes))
        for rank in range(3)
    ]
    seen = torch.cat([x[:, 0, 0, 0] for part in parts for x, _ in part])
    assert sorted(seen.tolist()) == list(range(60))
    alone = Batches(mapped, 12, seed=1, last_step=5, resident_bytes=resident_bytes)
    for step, (x, _) in enumerate(alone):
        assert torch.equal(x, torch.cat([part[step][0] for part in parts]))


def test_the_size_decides_and_the_file_is_not_copied(mapped: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 60 * 48
    for limit, resident in ((size, True), (size - 1, False)):
        assert Batches(mapped, 8, seed=0, resident_bytes=limit).resident is resident
        monkeypatch.setattr(loader, "HOST_BYTES", limit)
        batches = Batches(mapped, 8, seed=0)
        assert batches.resident is resident
        assert batches.x.data_ptr() == mapped.x.data_ptr()


def test_half_of_a_gpus_free_memory_is_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000 + device.index, 9000))
    assert loader._resident_bytes(torch.device("cuda", 4)) == 502
    assert loader._resident_bytes(torch.device("cpu")) == loader.HOST_BYTES


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident_bytes", [0, None])
def test_a_gpu_gets_the_same_bits(resident_bytes: int | None, mapped: Split) -> None:
    there = list(Batches(mapped, 8, seed=1, last_step=20, device="cuda", resident_bytes=resident_bytes))
    assert all(x.is_cuda and y is not None and y.is_cuda for x, y in there)
    here = [(x.cpu(), None if y is None else y.cpu()) for x, y in there]
    assert same(here, list(Batches(mapped, 8, seed=1, last_step=20)))


# The thread


def test_the_thread_is_never_far_ahead_and_ends_with_the_loop(mapped: Split) -> None:
    gathered: list[int] = []

    def counted(index: Tensor, generator: Generator) -> Tensor:
        gathered.append(len(index))
        return mapped.x[index]

    endless = iter(Batches(Split(mapped.x, redraw=counted), 8, seed=0, resident_bytes=0))
    assert reading_threads() == []
    for taken in range(1, 6):
        next(endless)
        assert taken <= len(gathered) <= taken + AHEAD
    assert len(reading_threads()) == 1
    assert isinstance(endless, Iterator)
    del endless
    assert reading_threads() == []
    list(Batches(mapped, 8, seed=0, last_step=3, resident_bytes=0))
    assert reading_threads() == []


def test_an_error_in_the_thread_is_raised_in_the_loop(mapped: Split) -> None:
    def broken(index: Tensor, generator: Generator) -> Tensor:
        if 17 in index:
            raise OSError("the disk is gone")
        return mapped.x[index]

    with pytest.raises(OSError, match="the disk is gone"):
        list(Batches(Split(mapped.x, redraw=broken), 8, seed=0, last_step=7, resident_bytes=0))
    assert reading_threads() == []


# Examples drawn anew


@pytest.mark.parametrize("resident_bytes", [0, None])
def test_examples_are_drawn_anew_at_every_visit_and_resume_exactly(resident_bytes: int | None, mapped: Split) -> None:
    split = Split(mapped.x, mapped.y, redraw=noise)
    whole = list(Batches(split, 8, seed=1, last_step=16, resident_bytes=resident_bytes))
    assert same(whole, list(Batches(split, 8, seed=1, last_step=16)))
    assert same(whole[9:], list(Batches(split, 8, seed=1, first_step=9, last_step=16, resident_bytes=resident_bytes)))
    assert all(torch.equal(x[:, 0, 0, 0].long(), y) for x, y in whole if y is not None), "the index is the order's"
    first, second = (torch.cat([x for x, _ in whole[start : start + 7]]) for start in (0, 7))
    both = set(first[:, 0, 0, 0].tolist()) & set(second[:, 0, 0, 0].tolist())
    assert len(both) > 40
    for number in both:
        draws = [epoch[epoch[:, 0, 0, 0] == number] for epoch in (first, second)]
        assert not torch.equal(*draws), "another epoch, another draw"
    assert not same(whole, list(Batches(split, 8, seed=2, last_step=16)))


def test_processes_draw_with_streams_of_their_own(mapped: Split) -> None:
    def zeros_and_ones(index: Tensor, generator: Generator) -> Tensor:
        return torch.randint(2, (len(index), 64), dtype=torch.uint8, generator=generator)

    split = Split(mapped.x, redraw=zeros_and_ones)
    draws = [next(iter(Batches(split, 8, seed=1, rank=rank, world_size=2)))[0] for rank in (0, 1)]
    assert not torch.equal(*draws)
    before = torch.get_rng_state()
    assert torch.equal(draws[1], next(iter(Batches(split, 8, seed=1, rank=1, world_size=2)))[0])
    assert torch.equal(before, torch.get_rng_state())


def test_redrawn_examples_stay_on_the_host_on_their_way_to_a_device(mapped: Split) -> None:
    assert not Batches(Split(mapped.x, redraw=noise), 8, seed=0, device="meta").resident
    assert Batches(mapped, 8, seed=0, device="meta").resident


# What else meets large data


@pytest.mark.parametrize("redrawn", [False, True])
def test_training_on_a_stream_gives_the_same_weights(
    redrawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_data((4,), 8)
    if redrawn:
        train = Split(
            data.train.x, data.train.y, lambda index, g: torch.randint(8, (len(index), 4), generator=g).byte()
        )
        data = Data(data.spec, train, data.val, data.test)
    states = []
    for limit in (None, 0):
        if limit is not None:
            monkeypatch.setattr(loader, "HOST_BYTES", limit)
        model = new_model("vae", data.spec)
        folder = tmp_path / str(limit)
        folder.mkdir()
        schedule = Schedule(examples=160, batch_size=16, validate_every=64)
        fit(model, data, schedule, Hardware(), seed=0, folder=folder, config={})
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert reading_threads() == []


def test_the_classifiers_digest_of_a_mapped_file_is_that_of_its_bytes(mapped: Split) -> None:
    assert mapped.y is not None
    expected = hashlib.sha256(mapped.x.numpy().tobytes() + mapped.y.numpy().tobytes()).hexdigest()
    assert _digest(mapped.x, mapped.y) == expected
