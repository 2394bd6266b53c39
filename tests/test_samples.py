"""Samples of others: one tensor and one hash from every kind of file, and the same checks in memory."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_samples import COLOUR, GREY, REALS, noise, put_pictures, refusal, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.data.formats.samples import as_samples, read_samples, sha256_of
from bench.errors import UserError
from bench.evaluation.pictures import draw_samples
from bench.schema import DataSpec
from bench.subjects.base import Origin
from bench.subjects.samples import GivenSamples


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 5),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5)),
    levels=st.sampled_from([2, 32, 256]),
    seed=st.integers(0, 99),
)
def test_images_are_the_same_from_every_kind(n: int, shape: tuple[int, ...], levels: int, seed: int) -> None:
    spec = spec_of(*shape, levels=levels)
    images = noise(n, spec, seed)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        np.save(home / "a.npy", images)
        np.savez(home / "one.npz", theirs=images)
        np.savez_compressed(home / "several.npz", samples=images, other=np.zeros(3))
        np.savez(home / "unnamed.npz", images, np.zeros(3))
        torch.save(torch.from_numpy(images), home / "a.pt")
        torch.save({"samples": torch.from_numpy(images), "step": 3}, home / "a.pth")
        put_pictures(home / "pictures", images)
        kinds = ["a.npy", "one.npz", "several.npz", "unnamed.npz", "a.pt", "a.pth", "pictures"]
        read = [read_samples(home / kind, spec) for kind in kinds]
    for samples in read:
        assert samples.dtype == torch.uint8
        assert torch.equal(samples, torch.from_numpy(images))
    assert len({sha256_of(samples) for samples in read}) == 1


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 6),
    shape=st.sampled_from([(1,), (2,), (7,), (2, 3), (3, 2, 4)]),
    order=st.sampled_from(["C", "F"]),
    dtype=st.sampled_from(["<f4", ">f4", "<f8", ">f8", "<f2", "<i8", ">i2", "|u1"]),
    seed=st.integers(0, 99),
)
def test_reals_are_the_same_from_every_kind(n: int, shape: Any, order: Any, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 100, (n, *shape)).astype(dtype, order=order) / np.dtype(dtype).type(1)
    values = values.astype(dtype, order=order)
    spec = spec_of(*shape, levels=None)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        np.save(home / "a.npy", values)
        np.savez_compressed(home / "a.npz", samples=values)
        torch.save(torch.from_numpy(values.astype(values.dtype.newbyteorder("="))), home / "a.pt")
        read = [read_samples(home / kind, spec) for kind in ("a.npy", "a.npz", "a.pt")]
    for samples in read:
        assert samples.dtype == torch.float32
        assert samples.is_contiguous()
        assert np.array_equal(samples.numpy(), values.astype(np.float32))
    assert len({sha256_of(samples) for samples in read}) == 1


def put_npy(folder: Path, values: Any) -> Path:
    np.save(folder / "a.npy", values)
    return folder / "a.npy"


def test_fractions_survive(tmp_path: Path) -> None:
    values = noise(6, REALS).astype(np.float64) / 3
    assert np.array_equal(read_samples(put_npy(tmp_path, values), REALS).numpy(), values.astype(np.float32))
    torch.save(torch.tensor(values).bfloat16().requires_grad_(), tmp_path / "a.pt")
    assert torch.equal(read_samples(tmp_path / "a.pt", REALS), torch.tensor(values).bfloat16().float())


@pytest.mark.parametrize("spec", [GREY, REALS], ids=["levels", "reals"])
def test_what_genbench_wrote_is_read(spec: DataSpec, tmp_path: Path) -> None:
    samples = torch.from_numpy(noise(70, spec))
    draw_samples(samples, spec.levels, tmp_path / "samples-best")
    assert torch.equal(read_samples(tmp_path / "samples-best.npz", spec), samples)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "<i4", ">i8", "u8", "f2", "f4", "f8", "longdouble"])
def test_any_type_that_keeps_the_levels(dtype: str, tmp_path: Path) -> None:
    spec = spec_of(6, levels=100)
    values = noise(5, spec)
    read = read_samples(put_npy(tmp_path, values.astype(dtype)), spec)
    assert read.dtype == torch.uint8
    assert torch.equal(read, torch.from_numpy(values))


def test_true_and_false_are_two_levels_and_no_more(tmp_path: Path) -> None:
    spec = spec_of(1, 4, 5, levels=2)
    values = noise(5, spec)
    path = put_npy(tmp_path, values.astype(bool))
    assert torch.equal(read_samples(path, spec), torch.from_numpy(values))
    assert torch.equal(read_samples(put_npy(tmp_path, values.astype(np.float32)), spec), torch.from_numpy(values))
    assert "type bool; fakes wants levels 0..255" in refusal(put_npy(tmp_path, values.astype(bool)))
    assert "type bool; fakes wants real numbers" in refusal(path, spec_of(1, 4, 5, levels=None))


@pytest.mark.parametrize("spec", [GREY, COLOUR], ids=["grey", "colour"])
def test_channels_may_be_last(spec: DataSpec, tmp_path: Path) -> None:
    images = noise(6, spec)
    read = read_samples(put_npy(tmp_path, images.transpose(0, 2, 3, 1)), spec)
    assert torch.equal(read, torch.from_numpy(images))
    assert sha256_of(read) == sha256_of(torch.from_numpy(images))


def test_channels_are_first_where_both_orders_fit(tmp_path: Path) -> None:
    for shape in ((3, 3, 3), (4, 4, 4)):
        spec = spec_of(*shape)
        images = noise(6, spec)
        assert torch.equal(read_samples(put_npy(tmp_path, images), spec), torch.from_numpy(images))
    lying = spec_of(3, 5, 3)  # not the same, though first and last axis are of one size
    images = noise(6, lying)
    assert torch.equal(read_samples(put_npy(tmp_path, images), lying), torch.from_numpy(images))


def test_an_axis_of_size_one_may_be_missing(tmp_path: Path) -> None:
    images = noise(6, GREY)
    assert torch.equal(read_samples(put_npy(tmp_path, images[:, 0]), GREY), torch.from_numpy(images))
    line = spec_of(1, levels=None)
    values = noise(6, line)
    assert torch.equal(read_samples(put_npy(tmp_path, values[:, 0]), line), torch.from_numpy(values))


def test_what_is_in_memory_passes_the_same_checks(tmp_path: Path) -> None:
    images = noise(3, COLOUR)
    read = read_samples(put_npy(tmp_path, images), COLOUR)
    for values in (images, torch.from_numpy(images), np.moveaxis(images, 1, -1), images.astype(np.float64)):
        assert torch.equal(as_samples(values, COLOUR), read)
    reals = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    plane = spec_of(2, levels=None)
    assert torch.equal(as_samples(reals.to(torch.bfloat16), plane), reals.to(torch.bfloat16).float())
    assert torch.equal(as_samples(reals.clone().requires_grad_(), plane), reals)
    for values in (images[:1], images / 255, images.astype(str), images[..., :-1]):
        expected = refusal(put_npy(tmp_path, values), COLOUR)
        with pytest.raises(UserError) as caught:
            as_samples(values, COLOUR, f"samples {tmp_path / 'a.npy'}")
        assert str(caught.value) == expected
    with pytest.raises(UserError, match="theirs: the tensor cannot become an array"):
        as_samples(torch.eye(2).to_sparse(), plane, "theirs")


def test_what_may_not_be_written_is_copied_without_a_warning() -> None:
    values = noise(3, GREY)
    values.setflags(write=False)
    made = as_samples(values, GREY)
    made += 1
    assert not np.array_equal(made.numpy(), values)


def test_hashes_tell_type_shape_and_values_apart() -> None:
    values = torch.arange(12, dtype=torch.uint8)
    others = [values.view(3, 4), values.view(4, 3), values.view(torch.float32), values.flip(0), values[:11]]
    hashes = {sha256_of(samples) for samples in (values, *others)}
    assert len(hashes) == 6
    assert all(len(text) == 64 and set(text) <= set("0123456789abcdef") for text in hashes)
    grid = values.view(3, 4)
    assert sha256_of(grid.T) == sha256_of(grid.T.contiguous()), "the order in memory does not count"


def test_a_tensor_is_what_the_data_would_be(tmp_path: Path) -> None:
    read: Tensor = read_samples(str(put_npy(tmp_path, noise(3, GREY))), GREY)
    read[0] = 7  # a tensor of its own, as every other
    assert read[0].unique().tolist() == [7]


@pytest.mark.parametrize("shape", [(7, 3), (5, 1, 4, 4), (2, 2)])
def test_samples_are_put_in_order_in_place(shape: tuple[int, ...]) -> None:
    x = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    origin = Origin(**dict.fromkeys(("run_id", "training_key", "group", "model", "model_family", "checkpoint"), "x"))
    for seed in range(20):
        mine = x.clone()
        ours = GivenSamples(mine, seed, origin, in_place=True).samples(9)
        assert torch.equal(ours, GivenSamples(x, seed, origin).samples(9))
        assert ours.untyped_storage().data_ptr() == mine.untyped_storage().data_ptr(), "no second copy"
    assert torch.equal(x, torch.arange(math.prod(shape), dtype=torch.float32).view(shape)), "the other stays as it was"
