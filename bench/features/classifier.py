"""The in-domain classifier: a small convolutional network trained once per data set, and cached.

FID and Inception Score need a feature space. For digits an ImageNet network is the wrong one, so the harness trains
its own on the train split and names it in every number: ``fid[mnist-cnn]``. It is deterministic given the data (up to
the rounding of the machine) and independent of every run's seed.
"""

import contextlib
import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from bench.data.base import Data
from bench.data.bytes.cache import cache_dir
from bench.errors import UserError
from bench.features.base import Classifier, Note, Recipe
from bench.files import durable_write
from bench.schema import DataSpec
from bench.seeds import derive_seed

__all__ = ["InDomainClassifier", "TrainedClassifier", "augment", "classifier_name", "load_or_train", "unsuitable"]

VERSION = 1  # raised whenever the code below would train another network from the same data
FEATURES = 64  # below the size of the smallest test split (500), so that feature covariances have full rank
BATCH = 64
MIN_EXAMPLES = 60_000  # 15 epochs of 4000 digits: about 25 s on one core
MIN_EPOCHS = 6
SMALLEST = 8  # pixels of a side
LEARNING_RATE = 4e-3
MAX_DEGREES = 12.0
MAX_SHIFT = 0.08  # of the picture's side: two pixels of 28

log = logging.getLogger(__name__)


class Network(nn.Module):
    """``(B, C, H, W)`` levels 0 .. L-1 to ``(B, 64)`` features and ``(B, classes)`` logits, for H, W >= 8.

    The features are taken before the last rectifier: all 64 directions vary, none is clipped at zero.
    """

    def __init__(self, channels: int, levels: int, classes: int) -> None:
        super().__init__()
        self.levels = levels
        self.body = nn.Sequential(
            *_block(channels, 16), *_block(16, 32), nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(64 * 16, FEATURES), nn.BatchNorm1d(FEATURES),
        )  # fmt: skip
        self.head = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(2 * x.float() / (self.levels - 1) - 1)
        return features

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(functional.relu(self.features(x)))
        return logits


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)  # the normalization has the bias
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


class TrainedClassifier(Classifier):
    """A trained network with its name and history.

    Attributes:
        name: ``<data set>-cnn``.
        hash: Of the data's revision and splits and of the training recipe.
        accuracy: On the ``n_test`` labelled examples of the test split, which training never saw.
    """

    def __init__(self, name: str, hash: str, network: Network, accuracy: float, n_test: int) -> None:
        self.name = name
        self.hash = hash
        self.accuracy = accuracy
        self.n_test = n_test
        self._network = network.eval()

    def features(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` levels to ``(N, 64)`` float32 penultimate features."""
        return _in_batches(self._network.features, x)

    def probabilities(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` levels to ``(N, classes)`` float32 class probabilities; rows sum to 1."""
        return _in_batches(self._network, x).softmax(dim=1)

    def classes(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` levels to the most probable class of each, ``(N,)`` int64."""
        return _in_batches(self._network, x).argmax(dim=1)


def load_or_train(data: Data, folder: Path, progress: Note | None = None) -> TrainedClassifier:
    """The classifier of a labelled image data set: from the cache, or trained now and then cached.

    The file holds tensors and plain settings only. It appears whole or not at all, so two processes that train at once
    do no harm: both write the same thing. A file that cannot be read is trained again, and one that cannot be written
    is done without; there is a warning then.

    Arguments:
        data: Such as are not ``unsuitable``: labelled pictures of at least 8 x 8 with integer levels.
        folder: Of the caches; made if missing.
        progress: Told one line after each epoch.

    Raises:
        UserError: The data are unsuitable.
    """
    config = _config(data)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / "classifiers" / f"{config['name']}-{digest}.pt"
    stored = _read(path, config) if os.path.exists(path) else None  # False where we may not look
    if stored is None:
        network = _train(data, config, progress)
        stored = {
            "config": config,
            "weights": network.state_dict(),
            "accuracy": _accuracy(network, data),
            "n_test": len(data.test),
        }
        _write(path, stored)
    network = _restore(config, stored["weights"])
    return TrainedClassifier(config["name"], digest, network, stored["accuracy"], stored["n_test"])


def classifier_name(spec: DataSpec) -> str:
    """The in-domain classifier of a data set: ``<name>-cnn``; digit sets share ``mnist-cnn``, told apart by its hash.

    Known without a classifier, so that a skipped or failed row bears the same name as a measured one.
    """
    return "mnist-cnn" if spec.name.startswith("mnist") else f"{spec.name}-cnn"


class InDomainClassifier(Recipe):
    """The classifier of labelled pictures, trained on their training split when it is first asked for, and cached."""

    def lacks(self, data: Data) -> str:
        return unsuitable(data)

    def name(self, spec: DataSpec) -> str:
        return classifier_name(spec)

    def extractor(self, data: Data, note: Note | None = None) -> TrainedClassifier:
        return load_or_train(data, cache_dir(), note)


def unsuitable(data: Data) -> str:
    """Why there is no in-domain classifier of these data; empty if there is one."""
    spec = data.spec
    if spec.classes is None or data.train.y is None or data.test.y is None or not spec.is_image:
        return f"{spec.name} has no labelled images to train a classifier on"
    if spec.levels is None or min(spec.shape[1:]) < SMALLEST:
        levels = "real values" if spec.levels is None else f"{spec.levels} levels"
        return (
            f"{spec.name}: the in-domain classifier needs pictures of at least {SMALLEST} x {SMALLEST} with integer "
            f"levels, not {spec.shape[1]} x {spec.shape[2]} with {levels}"
        )
    return ""


def augment(x: Tensor, generator: Generator) -> Tensor:
    """Each picture of ``(B, C, H, W)`` rotated by up to 12 degrees and shifted by up to 8 % of its side, as float32.

    Pixels that come from outside repeat the border. The transformed grid is interpolated bilinearly.
    """
    angle, across, down = (2 * torch.rand(3, len(x), generator=generator) - 1).unbind()  # (B,) each
    angle = angle * math.radians(MAX_DEGREES)
    aspect = x.shape[2] / x.shape[3]  # a rotation in pixels, in the grid's coordinates from -1 to 1 on both sides
    cos, sin = angle.cos(), angle.sin()
    rows = [cos, -sin * aspect, 2 * MAX_SHIFT * across, sin / aspect, cos, 2 * MAX_SHIFT * down]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)  # (B, 2, 3)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)


def _config(data: Data) -> dict[str, Any]:
    spec = data.spec
    reason = unsuitable(data)
    if reason:
        raise UserError(f"data {reason}; leave out metrics that need one")
    assert data.train.y is not None
    assert data.test.y is not None
    return {
        "name": classifier_name(spec),
        "version": VERSION,
        "recipe": [BATCH, MIN_EXAMPLES, MIN_EPOCHS, LEARNING_RATE, MAX_DEGREES, MAX_SHIFT],
        "revision": spec.revision,
        "shape": list(spec.shape),
        "levels": spec.levels,
        "classes": spec.classes,
        # Training and accuracy see these two splits, so another way of splitting the same data is another classifier.
        "train": _digest(data.train.x, data.train.y),
        "test": _digest(data.test.x, data.test.y),
    }


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().view(-1).numpy().data)  # of a mapped file no copy is made
    return digest.hexdigest()


def _network(config: dict[str, Any]) -> Network:
    return Network(config["shape"][0], config["levels"], config["classes"])


def _restore(config: dict[str, Any], weights: dict[str, Tensor]) -> Network:
    with torch.device("meta"):  # without memory of its own, so that no initial weights are drawn
        network = _network(config)
    network.load_state_dict(weights, assign=True)
    return network


def _train(data: Data, config: dict[str, Any], progress: Note | None) -> Network:
    assert data.train.y is not None
    n = len(data.train)
    epochs = max(MIN_EPOCHS, math.ceil(MIN_EXAMPLES / n))
    steps = epochs * math.ceil(n / BATCH)
    order = Generator().manual_seed(derive_seed(VERSION, "classifier", "order"))
    distortion = Generator().manual_seed(derive_seed(VERSION, "classifier", "augmentation"))
    # Initial weights and dropout draw from the global generator: lent for the training, and put back after it.
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(derive_seed(VERSION, "classifier", "weights"))
        network = _network(config).train()
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for epoch in range(1, epochs + 1):
            total = 0.0
            for index in torch.randperm(n, generator=order).split(BATCH):
                if len(index) == 1:
                    continue  # the batch's variance is undefined
                loss = functional.cross_entropy(network(augment(data.train.x[index], distortion)), data.train.y[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(index)
            if progress is not None:
                progress(f"classifier epoch {epoch}/{epochs}: loss {total / n:.4f}")
    return network.eval()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The order of sums, and so the trained weights, must not depend on how many threads the caller has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _accuracy(network: Network, data: Data) -> float:
    assert data.test.y is not None
    return (_in_batches(network, data.test.x).argmax(dim=1) == data.test.y).double().mean().item()


@torch.no_grad()
def _in_batches(function: Callable[[Tensor], Tensor], x: Tensor, size: int = 1000) -> Tensor:
    return torch.cat([function(part) for part in x.split(size)])


def _read(path: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    try:
        stored: dict[str, Any] = torch.load(path, weights_only=True)
        if stored["config"] != config:
            raise ValueError("made from another configuration")
        _restore(config, stored["weights"])
        return {**stored, "accuracy": float(stored["accuracy"]), "n_test": int(stored["n_test"])}
    except Exception as error:  # a damaged file can fail in as many ways as there are bytes
        log.warning("%s cannot be used (%s): training the classifier again", path, str(error).splitlines()[:1])
        return None


def _write(path: Path, stored: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable_write(path, buffer.getvalue())
    except (OSError, UserError) as error:  # the trained network is as good without a file
        log.warning(
            "the classifier cannot be kept in %s (%s): each use trains it again; set GENBENCH_CACHE to a folder that "
            "can be written", path.parent, error.__cause__ or error,
        )  # fmt: skip
