"""The in-domain classifier: learns, repeats itself, survives a damaged cache, leaves the global generator alone."""

import dataclasses
import errno
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_features import toy
from torch import Generator, Tensor

from bench.data.base import Split
from bench.data.digits import mnist5k
from bench.errors import UserError
from bench.features import classifier
from bench.features.classifier import TrainedClassifier, augment, load_or_train, unsuitable


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(classifier, "MIN_EXAMPLES", 1800)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same(a: TrainedClassifier, b: TrainedClassifier, x: Tensor) -> bool:
    return torch.equal(a.features(x), b.features(x)) and torch.equal(a.probabilities(x), b.probabilities(x))


@pytest.mark.parametrize("size", [8, 13])
def test_it_learns_and_has_full_rank_features(tmp_path: Path, size: int) -> None:
    data = toy(size=size)
    lines: list[str] = []
    found = load_or_train(data, tmp_path, lines.append)
    assert data.test.y is not None
    probabilities = found.probabilities(data.test.x)
    accuracy = (probabilities.argmax(dim=1) == data.test.y).double().mean().item()
    assert found.accuracy == accuracy > 0.9
    assert (found.name, found.n_test, len(lines)) == ("bars-cnn", 100, 6)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(100), atol=1e-6)
    features = found.features(data.train.x)
    assert features.shape == (300, 64)
    assert features.dtype == torch.float32
    assert int(torch.linalg.matrix_rank(torch.cov(features.double().T))) == 64


def test_the_accuracy_is_that_of_the_test_split(tmp_path: Path) -> None:
    data = toy()
    assert data.test.y is not None
    wrong = dataclasses.replace(data, test=Split(data.test.x, 1 - data.test.y))
    found = load_or_train(wrong, tmp_path)
    assert found.accuracy < 0.1
    assert (found.classes(data.test.x) == data.test.y).double().mean().item() == 1 - found.accuracy


def test_training_repeats_itself_and_leaves_the_generator_alone(tmp_path: Path) -> None:
    data = toy()
    torch.manual_seed(1)
    first = load_or_train(data, tmp_path / "a")
    torch.manual_seed(2)
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    second = load_or_train(data, tmp_path / "b")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)  # the evaluation below may round as it likes, but twice in the same way
    assert torch.equal(torch.get_rng_state(), state)
    assert first.hash == second.hash
    assert same(first, second, data.test.x)


def test_second_call_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy()
    first = load_or_train(data, tmp_path)
    monkeypatch.setattr(classifier, "_train", lambda *_: pytest.fail("trained although cached"))
    second = load_or_train(data, tmp_path)
    assert same(first, second, data.test.x)
    assert (first.hash, first.accuracy, first.n_test) == (second.hash, second.accuracy, second.n_test)
    assert sorted(path.suffix for path in (tmp_path / "classifiers").iterdir()) == [".lock", ".pt"]


def test_hash_tells_data_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "MIN_EPOCHS", 1)
    monkeypatch.setattr(classifier, "MIN_EXAMPLES", 1)
    data = toy()
    revised = dataclasses.replace(data, spec=dataclasses.replace(data.spec, revision="r2"))
    swapped = dataclasses.replace(data, train=Split(data.train.x.flip(0), data.train.y))
    digits = toy(name="mnist_of_bars")
    found = [load_or_train(each, tmp_path) for each in (data, revised, swapped, digits)]
    assert len({each.hash for each in found}) == 4
    assert found[3].name == "mnist-cnn"


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "foreign", "nested"])
def test_damaged_cache_is_trained_again_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = toy()
    first = load_or_train(data, tmp_path)
    (path,) = (tmp_path / "classifiers").glob("*.pt")
    whole = path.read_bytes()
    if damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    elif damage == "nested":
        torch.save([1, 2], path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "noise": b"\x80" * 999, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        second = load_or_train(data, tmp_path)
    assert len(caplog.records) == 1
    assert same(first, second, data.test.x)
    caplog.clear()
    load_or_train(data, tmp_path)
    assert not caplog.records


def test_of_several_processes_one_trains_and_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads do as well as processes here: the lock is of the open file."""
    began, go_on, trained = threading.Event(), threading.Event(), []
    train = classifier._train

    def slow(*given: Any) -> Any:
        trained.append(threading.get_ident())
        began.set()
        assert go_on.wait(60)
        return train(*given)

    monkeypatch.setattr(classifier, "_train", slow)
    data = toy()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(load_or_train, data, tmp_path)
        assert began.wait(60)
        second = pool.submit(load_or_train, data, tmp_path)
        time.sleep(0.2)  # the second looks for the file now, and would begin
        go_on.set()
        assert first.result().hash == second.result().hash
    assert len(trained) == 1


def test_file_is_safe_to_load(tmp_path: Path) -> None:
    load_or_train(toy(), tmp_path)
    (path,) = (tmp_path / "classifiers").glob("*.pt")
    stored = torch.load(path, weights_only=True)
    assert set(stored) == {"config", "weights", "accuracy", "n_test"}


@pytest.mark.parametrize("full", [True, False])
def test_a_cache_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, full: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy()
    first = load_or_train(data, tmp_path / "writable")
    (tmp_path / "file").write_text("no folder")
    if full:
        monkeypatch.setattr("bench.files.os.fsync", full_disk)
    with caplog.at_level(logging.WARNING):
        second = load_or_train(data, tmp_path / ("disk" if full else "file"))
    assert same(first, second, data.test.x)
    (warning,) = caplog.messages
    assert "GENBENCH_CACHE" in warning
    assert ("No space left" if full else "Not a directory") in warning
    assert "\n" not in warning


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_unsuitable_data_are_refused(tmp_path: Path) -> None:
    data = toy()
    assert unsuitable(data) == ""
    spec = data.spec
    bad = (
        (dataclasses.replace(data, spec=dataclasses.replace(spec, classes=None)), "labelled"),
        (dataclasses.replace(data, train=Split(data.train.x)), "labelled"),
        (dataclasses.replace(data, spec=dataclasses.replace(spec, shape=(64,))), "labelled images"),
        (dataclasses.replace(data, spec=dataclasses.replace(spec, levels=None)), "integer levels"),
        (dataclasses.replace(data, spec=dataclasses.replace(spec, shape=(1, 7, 9))), "8 x 8"),
    )
    for each, what in bad:
        assert what in unsuitable(each)
        with pytest.raises(UserError, match=what):
            load_or_train(each, tmp_path)


def test_augmentation_moves_pictures_a_little() -> None:
    x = torch.zeros(500, 1, 28, 28, dtype=torch.uint8)
    x[:, :, 10:18, 10:18] = 200
    moved = augment(x, Generator().manual_seed(0))
    assert torch.equal(moved, augment(x, Generator().manual_seed(0)))
    assert moved.dtype == torch.float32
    mass = moved.sum(dim=(1, 2, 3))
    assert torch.allclose(mass, torch.full((500,), 200.0 * 64), rtol=0.03)  # nothing is stretched
    place = torch.arange(28) - 13.5
    down = (moved.sum(dim=(1, 3)) * place).sum(dim=1) / mass  # centre of mass in pixels
    across = (moved.sum(dim=(1, 2)) * place).sum(dim=1) / mass
    distance = (down**2 + across**2).sqrt()
    assert 2.5 < distance.max() <= math.sqrt(2) * 28 * 0.08 + 1e-2
    assert abs(down.mean()) < 0.3
    assert abs(across.mean()) < 0.3


def test_augmentation_is_a_rotation_on_oblong_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "MAX_SHIFT", 0.0)
    monkeypatch.setattr(classifier, "MAX_DEGREES", 90.0)
    rows, columns = torch.meshgrid(torch.arange(20) - 9.5, torch.arange(40) - 19.5, indexing="ij")
    disc = torch.exp(-((rows - 4) ** 2 + (columns - 3) ** 2) / 4).expand(50, 1, 20, 40)  # 5 pixels off the centre
    moved = augment(disc, Generator().manual_seed(0))[:, 0]
    mass = moved.sum(dim=(1, 2))
    down, across = (moved * rows).sum(dim=(1, 2)) / mass, (moved * columns).sum(dim=(1, 2)) / mass
    assert torch.allclose((down**2 + across**2).sqrt(), torch.full((50,), 5.0), atol=0.1)
    assert down.std() > 1


def test_digits_are_learned_in_two_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "MIN_EPOCHS", 2)
    found = load_or_train(mnist5k(), tmp_path)
    assert found.accuracy > 0.93
    assert found.name == "mnist-cnn"


@pytest.mark.parametrize("shape", [(7, 7), (2, 3), (8, 5), (4, 9)])
def test_the_average_by_a_product_is_the_adaptive_one(shape: tuple[int, int]) -> None:
    x = torch.randn(3, 5, *shape, generator=Generator().manual_seed(0), dtype=torch.float32).requires_grad_()
    weights = torch.randn(3, 5, 4, 4, generator=Generator().manual_seed(1))
    ours, theirs = classifier.averaged(x), torch.nn.functional.adaptive_avg_pool2d(x, 4)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad((made * weights).sum(), x)[0] for made in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def as_from_a_gpu(path: Path, folder: Path, change: float) -> None:
    """Store a network as one that was trained on a GPU, with other weights."""
    stored = torch.load(path, weights_only=True)
    stored["config"]["trained on"] = "cuda"
    stored["weights"]["head.bias"] += change
    folder.mkdir(parents=True)
    torch.save(stored, folder / f"bars-cnn-{classifier._hash(stored['config'])}.pt")


def test_networks_from_a_cpu_and_from_a_gpu_are_never_taken_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "on_fastest", lambda: torch.device("cpu"))
    data = toy()
    first = load_or_train(data, tmp_path / "cpu")
    (path,) = (tmp_path / "cpu" / "classifiers").glob("*.pt")
    for card, change in (("a", 0.0), ("b", 1e-6)):
        as_from_a_gpu(path, tmp_path / card / "classifiers", change)
    monkeypatch.setattr(classifier, "_train", lambda *_: pytest.fail("trained although cached"))
    found = [load_or_train(data, tmp_path / card) for card in ("a", "b", "a")]
    assert found[0].hash == found[2].hash
    assert len({first.hash, *(one.hash for one in found)}) == 3
    # A network from a CPU comes first, on every machine.
    (tmp_path / "a" / "classifiers" / path.name).write_bytes(path.read_bytes())
    assert load_or_train(data, tmp_path / "a").hash == first.hash


def test_the_hash_of_a_network_from_a_cpu_is_that_of_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "on_fastest", lambda: torch.device("cpu"))
    found = load_or_train(toy(), tmp_path)
    (path,) = (tmp_path / "classifiers").glob("*.pt")
    assert path.name == f"bars-cnn-{found.hash}.pt"


def test_a_last_batch_of_one_is_left_out(tmp_path: Path) -> None:
    data = toy()
    assert data.train.y is not None
    data = dataclasses.replace(data, train=Split(data.train.x[:257], data.train.y[:257]))
    assert load_or_train(data, tmp_path).accuracy > 0.9


def test_the_accuracy_of_another_test_split_is_not_taken_from_the_cache(tmp_path: Path) -> None:
    data = toy()
    assert data.test.y is not None
    assert load_or_train(data, tmp_path).accuracy > 0.9
    wrong = dataclasses.replace(data, test=Split(data.test.x, 1 - data.test.y))
    assert load_or_train(wrong, tmp_path).accuracy < 0.1
