"""Binary MNIST: the fixed binarization from its text files, and draws that follow the right law."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import Bytes, cached, check_data, complaint, pinned
from torch import Generator

from bench.data import binarized
from bench.data.base import Data, Split
from bench.data.binarized import MNIST_BINARIZED_FILES, Binarize, mnist_binarized, mnist_dynamic, read_amat
from bench.data.digits import mnist
from bench.data.images import image_data
from bench.data.loader import Batches
from bench.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


# The fixed binarization

SIZES = {"train": 30, "valid": 8, "test": 12}


def bits(n: int, seed: int) -> Bytes:
    return np.random.RandomState(seed).randint(2, size=(n, 784)).astype(np.uint8)


def amat(images: Bytes) -> bytes:
    """The text as other projects read it: numbers with blanks between them, an image a line."""
    return "".join(" ".join(map(str, image)) + "\n" for image in images.tolist()).encode()


@pytest.fixture
def small_binarized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for seed, (split, n) in enumerate(SIZES.items()):
        (folder / f"binarized_mnist_{split}.amat").write_bytes(amat(bits(n, seed)))
    pin(folder, monkeypatch)
    return folder


def pin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tuple(pinned(file.name, (folder / file.name).read_bytes()) for file in MNIST_BINARIZED_FILES)
    monkeypatch.setattr(binarized, "MNIST_BINARIZED_FILES", files)


def test_fixed_binarization(small_binarized: Path) -> None:
    for path in (str(small_binarized), None):  # the second time from the decoded arrays
        data = mnist_binarized(path)
        check_data(data, "mnist_binarized")
        for seed, split in enumerate((data.train, data.val, data.test)):
            assert np.array_equal(split.x.numpy(), bits(len(split), seed).reshape(-1, 1, 28, 28))
            assert split.redraw is None
        assert (len(data.train), len(data.val), len(data.test)) == tuple(SIZES.values())
        assert (data.spec.shape, data.spec.levels, data.spec.classes) == ((1, 28, 28), 2, None)


def test_fixed_binarization_from_gzipped_files(small_binarized: Path) -> None:
    for file in small_binarized.glob("*.amat"):
        Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert len(mnist_binarized(str(small_binarized)).train) == 30


def test_fixed_binarization_bad_files_are_refused(
    small_binarized: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = small_binarized / "binarized_mnist_valid.amat"
    right = target.read_bytes()
    for bad in (b"", right[:-1], right[:-2] + b"2\n"):
        target.write_bytes(bad)
        assert "binarized_mnist_valid.amat holds other bytes" in complaint(mnist_binarized, small_binarized)
    target.unlink()
    assert "has neither binarized_mnist_valid.amat" in complaint(mnist_binarized, small_binarized)
    monkeypatch.setattr(binarized, "MNIST_BINARIZED_FILES", MNIST_BINARIZED_FILES)
    assert "ad693b29f94c1427" in complaint(mnist_binarized, small_binarized)
    assert cached(cache) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-1] + b" ",
        lambda text: text.replace(b" ", b",", 1),
        lambda text: b"2" + text[1:],
        lambda text: b"/" + text[1:],
        lambda text: text[:-1],
        lambda text: b"",
    ],
)
def test_other_texts_are_refused(
    small_binarized: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    target = small_binarized / "binarized_mnist_test.amat"
    target.write_bytes(damage(target.read_bytes()))
    with pytest.raises(ValueError, match=r"binarized_mnist_test\.amat"):
        read_amat(target)
    pin(small_binarized, monkeypatch)  # even where its hash is the expected one
    assert "binarized_mnist_test.amat cannot be decoded (ValueError" in complaint(mnist_binarized, small_binarized)
    assert cached(cache) == []


def test_fixed_binarization_nowhere_to_be_had(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binarized, "_SOURCES", ())
    text = complaint(mnist_binarized, None)
    assert "could not get binarized_mnist_train.amat" in text
    assert "data.path" in text
    assert cached(cache) == []


def test_pinned_sizes_are_those_of_the_format() -> None:
    assert [file.size for file in MNIST_BINARIZED_FILES] == [n * 784 * 2 for n in (50_000, 10_000, 10_000)]


# Dynamic binarization


def grey_digits() -> Data:
    """40 images of 7 x 7 in each split, with every grey level 7 or 8 times, in no order."""
    scattered = np.random.RandomState(0).permutation(np.arange(40 * 49) % 256).astype(np.uint8)
    levels = torch.from_numpy(scattered).reshape(40, 1, 7, 7)
    train, val, test = (Split(levels.roll(shift, 0), torch.arange(40) % 10) for shift in range(3))
    return image_data("mnist", "r0", train, val, test, levels=256, classes=10, licence="none", source="a test")


@pytest.fixture
def dynamic(monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setattr(binarized, "mnist", lambda path: grey_digits())
    return mnist_dynamic()


def test_dynamic_binarization_keeps_splits_and_labels(dynamic: Data) -> None:
    check_data(dynamic, "mnist_dynamic")
    grey = grey_digits()
    assert dynamic.spec.revision != grey.spec.revision
    assert (dynamic.spec.levels, dynamic.spec.shape) == (2, (1, 7, 7))
    for split, whole in ((dynamic.train, grey.train), (dynamic.val, grey.val), (dynamic.test, grey.test)):
        assert split.y is not None
        assert whole.y is not None
        assert torch.equal(split.y, whole.y)
        assert (split.x[whole.x == 0] == 0).all(), "black never becomes white"
        assert (split.x[whole.x == 255] == 1).all(), "white always does"
        assert 0.4 < split.x.float().mean() < 0.6
    assert dynamic.val.redraw is None
    assert dynamic.test.redraw is None


def test_the_fixed_draws_never_change(dynamic: Data) -> None:
    again = mnist_dynamic()
    for split, other in ((dynamic.train, again.train), (dynamic.val, again.val), (dynamic.test, again.test)):
        assert torch.equal(split.x, other.x)
    ones = [int(split.x.sum()) for split in (dynamic.train, dynamic.val, dynamic.test)]
    assert ones == [959, 928, 951]


def test_training_sees_a_new_draw_at_every_visit(dynamic: Data) -> None:
    batches = [x for x, _ in Batches(dynamic.train, 40, seed=0, last_step=400)]
    assert not torch.equal(batches[0], batches[1])
    orders = [y for _, y in Batches(Split(dynamic.train.x, torch.arange(40)), 40, seed=0, last_step=400)]
    seen = torch.stack([x[order.argsort()] for x, order in zip(batches, orders, strict=True) if order is not None])
    assert seen.dtype == torch.uint8
    # 400 draws of each pixel: a mean within 5 standard errors, sqrt(p (1 - p) / 400) <= 0.025, of its grey level.
    assert (seen.double().mean(0) - grey_digits().train.x.double() / 255).abs().max() < 0.125
    again = [x for x, _ in Batches(dynamic.train, 40, seed=0, first_step=7, last_step=9)]
    assert torch.equal(again[0], batches[7]), "a resumed run sees the draws it would have seen"


def test_the_law_is_exact() -> None:
    """Each of the 256 levels 20,000 times: a chi-squared test of the frequencies against g / 255."""
    n = 20_000
    grey = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
    draw = Binarize(grey)
    generator = Generator().manual_seed(0)
    ones = sum(draw(torch.arange(256), generator).double() for _ in range(n)).flatten()
    p = torch.arange(256).double() / 255
    assert ones[0] == 0
    assert ones[255] == n
    z = (ones - n * p)[1:255] / (n * p * (1 - p))[1:255].sqrt()
    # The sum of 254 squares has mean 254 and standard deviation sqrt(2 * 254) = 22.5.
    assert abs(z.square().sum().item() - 254) < 4 * 22.5


def test_a_draw_is_a_function_of_index_and_generator() -> None:
    grey = grey_digits().train.x
    index = torch.tensor([3, 3, 0, 39])
    first, second = (Binarize(grey)(index, Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (4, 1, 7, 7)
    assert first.dtype == torch.uint8
    assert not torch.equal(first[0], first[1]), "the same example twice in a batch is drawn twice"
    assert torch.equal(grey, grey_digits().train.x)


def test_dynamic_binarization_complains_as_mnist_does(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has neither train-images-idx3-ubyte" in complaint(mnist_dynamic, tmp_path / "empty")


@pytest.mark.slow
def test_real_dynamic_binarization(cache: Path) -> None:
    try:
        data = mnist_dynamic()
    except UserError as error:
        pytest.skip(f"its bytes cannot be had here: {error}")
    check_data(data, "mnist_dynamic")
    assert (len(data.train), len(data.val), len(data.test)) == (50_000, 10_000, 10_000)
    # The published mean of MNIST's 60,000 images is 0.1307; the draws of 47 million pixels move it by less than 1e-4.
    assert torch.cat([data.train.x, data.val.x]).double().mean().item() == pytest.approx(0.1307, abs=1e-4)
    grey = mnist()
    for split, whole in ((data.train, grey.train), (data.val, grey.val), (data.test, grey.test)):
        # Mean squared distance of draw and probability: that of the law, E p (1 - p).
        p = whole.x.double() / 255
        assert ((split.x - p) ** 2).mean().item() == pytest.approx((p * (1 - p)).mean().item(), rel=5e-3)
