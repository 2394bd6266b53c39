"""The in-domain classifier: a small convolutional network, trained once per data set and cached.

FID and Inception Score need a feature space. The features of an ImageNet network do not suit digits, so genbench trains
its own network on the train split and includes its name in every metric: ``fid[mnist-cnn]``. The network depends only
on the data (up to the rounding of the machine), not on a run's seed.

It is trained on the GPU where there is one. Rounding differs there, and training lets it grow: the result is another
network, with other features. So its hash is another as well, and numbers of the two are never ranked together. The hash
of a network from a CPU is that of its recipe; that of one from a GPU is also of its weights, because two cards may
differ. On every machine a network that lies in the cache is used, one from a CPU first. So the file of one machine,
carried into the cache of another, makes their numbers comparable.
"""

import contextlib
import functools
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
from bench.device import full_float32, on_fastest
from bench.errors import UserError
from bench.features.base import Classifier, Note, Recipe
from bench.files import durable_write
from bench.locks import hold
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
POOLED = 4  # side of the pictures that the last layers see

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
            nn.BatchNorm2d(64), nn.ReLU(), _Pooled(POOLED), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(64 * POOLED**2, FEATURES), nn.BatchNorm1d(FEATURES),
        )  # fmt: skip
        self.head = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(2 * x.float() / (self.levels - 1) - 1)
        return features

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(functional.relu(self.features(x)))
        return logits


class _Pooled(nn.AdaptiveAvgPool2d):
    """Averages ``(B, C, H, W)`` to ``(B, C, 4, 4)``. On a GPU, torch sums the gradient of that in no fixed order."""

    def forward(self, x: Tensor) -> Tensor:
        return averaged(x) if x.is_cuda and self.training else super().forward(x)


def averaged(x: Tensor) -> Tensor:
    """The same as one product with a matrix, whose gradient is a product, too."""
    height, width = x.shape[2:]
    return functional.linear(x.flatten(2), _windows(height, width, x.device)).unflatten(2, (POOLED, POOLED))


@functools.lru_cache
def _windows(height: int, width: int, device: torch.device) -> Tensor:
    """Weights of the averages, ``(16, H W)``. Windows overlap where 4 does not divide a side."""
    sides = []
    for size in (height, width):
        ends = [(i * size // POOLED, -(-(i + 1) * size // POOLED)) for i in range(POOLED)]
        sides.append(torch.tensor([[(a <= k < b) / (b - a) for k in range(size)] for a, b in ends]))
    return torch.kron(*sides).to(device)


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)  # the normalization adds a bias
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


class TrainedClassifier(Classifier):
    """A trained network with its name, hash and test accuracy.

    Attributes:
        name: ``<data set>-cnn``.
        hash: Hash of the data's revision, the splits and the training recipe; of a network from a GPU also of its
            weights.
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

    It is trained on the GPU where there is one. The cached file holds tensors and plain settings only, and is written
    atomically. Of several processes one trains, and the others wait for its file: on a GPU two trainings may round
    differently, and the numbers of one sweep would have two extractors. If the file cannot be read, the classifier is
    trained again. If it cannot be written, the classifier is used without a file. Both cases log a warning.

    Arguments:
        data: Labelled pictures of at least 8 x 8 pixels with integer levels.
        folder: The cache folder; created if missing.
        progress: Called with one line of text after each epoch.

    Raises:
        UserError: The data are ``unsuitable``.
    """
    recipe = _config(data)
    configs = {"cpu": recipe, "cuda": {**recipe, "trained on": "cuda"}}
    paths = {kind: folder / "classifiers" / f"{recipe['name']}-{_hash(config)}.pt" for kind, config in configs.items()}
    with contextlib.ExitStack() as held:
        if not any(map(os.path.exists, paths.values())):  # False without permission
            held.enter_context(_alone(paths["cpu"].with_suffix(".lock")))
        stored = _cached(paths, configs)
        if stored is None:
            device = on_fastest()
            config = configs[device.type]
            network = _train(data, config, progress, device)
            accuracy = _accuracy(network, data, device)
            weights = network.cpu().state_dict()
            stored = {"config": config, "weights": weights, "accuracy": accuracy, "n_test": len(data.test)}
            _write(paths[device.type], stored)
    return _known(stored)


def _cached(paths: dict[str, Path], configs: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """What the first of the files holds that can be read; None where there is none."""
    for kind, path in paths.items():
        found = _read(path, configs[kind]) if os.path.exists(path) else None
        if found is not None:
            return found
    return None


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is at work here. Where no lock can be made no file can either, and nobody waits."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            held.callback(os.close, descriptor)
            held.enter_context(hold(lock, descriptor, wait=True))
        yield


def _known(stored: dict[str, Any]) -> TrainedClassifier:
    config, weights = stored["config"], stored["weights"]
    tensors = [weights[key] for key in sorted(weights)]
    known = _hash({**config, "weights": _digest(*tensors)}) if "trained on" in config else _hash(config)
    network = _restore(config, weights)
    return TrainedClassifier(config["name"], known, network, stored["accuracy"], stored["n_test"])


def _hash(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


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
    return _moved(x, torch.rand(3, len(x), generator=generator))


def _moved(x: Tensor, draws: Tensor) -> Tensor:
    """Rotate and shift by draws ``(3, B)`` from [0, 1): for the angle, across and down."""
    angle, across, down = (2 * draws - 1).unbind()  # (B,) each
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


def _train(data: Data, config: dict[str, Any], progress: Note | None, device: torch.device) -> Network:
    """Train on a device. Batches and distortions are drawn on the CPU, and sent an epoch at a time."""
    assert data.train.y is not None
    n = len(data.train)
    x, y = (part.to(device) if _fits(data.train.x, device) else part for part in (data.train.x, data.train.y))
    epochs = max(MIN_EPOCHS, math.ceil(MIN_EXAMPLES / n))
    steps = epochs * math.ceil(n / BATCH)
    order = Generator().manual_seed(derive_seed(VERSION, "classifier", "order"))
    distortion = Generator().manual_seed(derive_seed(VERSION, "classifier", "augmentation"))
    # Initial weights and dropout draw from the global generators. Their state is restored after training.
    used = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=used), _one_thread(), full_float32():
        torch.manual_seed(derive_seed(VERSION, "classifier", "weights"))
        network = _network(config).train().to(device)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
        for epoch in range(1, epochs + 1):
            total = torch.zeros((), dtype=torch.float64, device=device)
            batches = torch.randperm(n, generator=order).split(BATCH)
            sizes = [len(index) for index in batches if len(index) > 1]  # the variance of a single one is undefined
            draws = torch.cat([torch.rand(3, size, generator=distortion) for size in sizes], dim=1).to(device)
            chosen = torch.cat(batches)[: sum(sizes)].to(x.device)
            for index, moves in zip(chosen.split(sizes), draws.split(sizes, dim=1), strict=True):
                logits = network(_moved(x[index].to(device), moves))
                loss = functional.cross_entropy(logits, y[index].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach().double() * len(index)
            if progress is not None:
                progress(f"classifier epoch {epoch}/{epochs}: loss {total.item() / n:.4f}")
    return network.eval()


def _fits(x: Tensor, device: torch.device) -> bool:
    """Whether all pictures may lie on the device: in half of what is free on a GPU."""
    return device.type != "cuda" or x.numel() * x.element_size() <= torch.cuda.mem_get_info(device)[0] // 2


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread inside the block. Otherwise the order of sums, and the weights, would depend on the threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _accuracy(network: Network, data: Data, device: torch.device) -> float:
    assert data.test.y is not None
    logits = _in_batches(lambda part: network(part.to(device)).cpu(), data.test.x)
    return (logits.argmax(dim=1) == data.test.y).double().mean().item()


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
