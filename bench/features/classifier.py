"""The in-domain classifier: a small convolutional network, trained once per data set and cached.

FID and Inception Score need a feature space. The features of an ImageNet network do not suit digits, so genbench trains
its own network on the train split and includes its name in every metric: ``fid[mnist-cnn]``. The network depends only
on the data (up to the rounding of the machine), not on a run's seed.
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
from bench.features.script import on_fastest
from bench.files import durable_write
from bench.schema import DataSpec
from bench.seeds import derive_seed

__all__ = ["InDomainClassifier", "TrainedClassifier", "augment", "classifier_name", "load_or_train", "unsuitable"]

VERSION = 1  # increase it when this module trains another network from the same data
FEATURES = 64  # fewer than the examples of the smallest test split (500), so that feature covariances have full rank
BATCH = 64
MIN_EXAMPLES = 60_000  # 15 epochs of 4000 digits, which take about 25 s on one core
MIN_EPOCHS = 6
SMALLEST = 8  # smallest side in pixels
LEARNING_RATE = 4e-3
LEAST_ACCURACY = 0.9  # below, a network that knows its own data so badly says little of how samples differ from them
MAX_DEGREES = 12.0
MAX_SHIFT = 0.08  # fraction of the picture's side: two pixels of 28

log = logging.getLogger(__name__)


class Network(nn.Module):
    """Maps levels 0 .. L-1, ``(B, C, H, W)``, to features ``(B, 64)`` and logits ``(B, classes)``, for H, W >= 8.

    The features are taken before the last rectifier, so that all 64 vary and none is clipped at zero.
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
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)  # the normalization adds a bias
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


class TrainedClassifier(Classifier):
    """A trained network with its name, hash and test accuracy.

    Attributes:
        name: ``<data set>-cnn``.
        hash: Hash of the data's revision, the splits and the training recipe.
        accuracy: Accuracy on the ``n_test`` labelled examples of the test split, which are not used for training.
        caveat: Says so where the accuracy is below 90 %.
    """

    def __init__(self, name: str, hash: str, network: Network, accuracy: float, n_test: int) -> None:
        self.name = name
        self.hash = hash
        self.accuracy = accuracy
        self.n_test = n_test
        if accuracy < LEAST_ACCURACY:
            self.caveat = f"{name} reads only {100 * accuracy:.0f} % of the test examples rightly: weak features"
        self._device = on_fastest()
        self._network = network.eval().to(self._device)

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features ``(N, 64)`` float32 of levels ``(N, C, H, W)``."""
        return self._applied(self._network.features, x)

    def probabilities(self, x: Tensor) -> Tensor:
        """Return the class probabilities ``(N, classes)`` float32 of levels ``(N, C, H, W)``; rows sum to 1."""
        return self._applied(self._network, x).softmax(dim=1)

    def classes(self, x: Tensor) -> Tensor:
        """Return the most probable class ``(N,)`` int64 of each of the levels ``(N, C, H, W)``."""
        return self._applied(self._network, x).argmax(dim=1)

    def _applied(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return _in_batches(lambda part: function(part.to(self._device)).cpu(), x)


def load_or_train(data: Data, folder: Path, progress: Note | None = None) -> TrainedClassifier:
    """Return the classifier of a labelled image data set, from the cache or newly trained.

    The cached file holds tensors and plain settings only. It is written atomically, and two processes that train at the
    same time write the same content. If the file cannot be read, the classifier is trained again. If it cannot be
    written, the classifier is used without a file. Both cases log a warning.

    Arguments:
        data: Labelled pictures of at least 8 x 8 pixels with integer levels.
        folder: The cache folder; created if missing.
        progress: Called with one line of text after each epoch.

    Raises:
        UserError: The data are ``unsuitable``.
    """
    config = _config(data)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / "classifiers" / f"{config['name']}-{digest}.pt"
    stored = _read(path, config) if os.path.exists(path) else None  # os.path.exists is False without permission
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
    """Return the name of a data set's in-domain classifier: ``<name>-cnn``, or ``mnist-cnn`` for all digit sets.

    The classifiers of different digit sets differ in their hash. The name is known before training, so that skipped and
    failed rows have the same name as measured ones.
    """
    return "mnist-cnn" if spec.name.startswith("mnist") else f"{spec.name}-cnn"


class InDomainClassifier(Recipe):
    """Recipe of the classifier of labelled pictures, which is trained on the train split on first use and cached."""

    def lacks(self, data: Data) -> str:
        return unsuitable(data)

    def name(self, spec: DataSpec) -> str:
        return classifier_name(spec)

    def extractor(self, data: Data, note: Note | None = None) -> TrainedClassifier:
        return load_or_train(data, cache_dir(), note)


def unsuitable(data: Data) -> str:
    """Return why these data have no in-domain classifier, or an empty string if they have one."""
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
    """Rotate each picture of ``(B, C, H, W)`` by up to 12 degrees and shift it by up to 8 % of its side, as float32.

    Pixels from outside the picture repeat its border. Interpolation is bilinear.
    """
    angle, across, down = (2 * torch.rand(3, len(x), generator=generator) - 1).unbind()  # (B,) each
    angle = angle * math.radians(MAX_DEGREES)
    aspect = x.shape[2] / x.shape[3]  # the grid's coordinates run from -1 to 1 on both sides, whatever the aspect
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
        # The network depends on train and its accuracy on test, so other splits of the same data need another file.
        "train": _digest(data.train.x, data.train.y),
        "test": _digest(data.test.x, data.test.y),
    }


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().view(-1).numpy().data)  # does not copy a memory-mapped file
    return digest.hexdigest()


def _network(config: dict[str, Any]) -> Network:
    return Network(config["shape"][0], config["levels"], config["classes"])


def _restore(config: dict[str, Any], weights: dict[str, Tensor]) -> Network:
    with torch.device("meta"):  # a meta network has no memory, and draws no initial weights
        network = _network(config)
    network.load_state_dict(weights, assign=True)
    return network


def _train(data: Data, config: dict[str, Any], progress: Note | None) -> Network:
    """Train on the CPU, also beside a GPU: the hash names the recipe, and features of one hash are compared."""
    assert data.train.y is not None
    n = len(data.train)
    epochs = max(MIN_EPOCHS, math.ceil(MIN_EXAMPLES / n))
    steps = epochs * math.ceil(n / BATCH)
    order = Generator().manual_seed(derive_seed(VERSION, "classifier", "order"))
    distortion = Generator().manual_seed(derive_seed(VERSION, "classifier", "augmentation"))
    # Initial weights and dropout draw from the global generator. Its state is restored after training.
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(derive_seed(VERSION, "classifier", "weights"))
        network = _network(config).train()
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for epoch in range(1, epochs + 1):
            total = 0.0
            for index in torch.randperm(n, generator=order).split(BATCH):
                if len(index) == 1:
                    continue  # the variance of a single example is undefined
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
    """Use one thread inside the block. Otherwise the order of sums, and the weights, would depend on the threads."""
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
    except Exception as error:  # the type of the error depends on where the file is damaged
        log.warning("%s cannot be used (%s): training the classifier again", path, str(error).splitlines()[:1])
        return None


def _write(path: Path, stored: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable_write(path, buffer.getvalue())
    except (OSError, UserError) as error:  # the trained network can be used without a file
        log.warning(
            "the classifier cannot be stored in %s (%s), so each use trains it again; set GENBENCH_CACHE to a writable "
            "folder", path.parent, error.__cause__ or error,
        )  # fmt: skip
