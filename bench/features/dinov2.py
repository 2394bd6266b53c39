"""DINOv2, networks that learned from 142 million photographs without labels: ``fid[dinov2_vitl14]``.

Oquab et al. 2023, "DINOv2: learning robust visual features without supervision", arXiv 2304.07193. The features are the
class token. Those of ViT-L/14 (1024 numbers) give the FD-DINOv2 of Stein et al. 2023, "Exposing flaws of generative
model evaluation metrics and their unfair treatment of diffusion models", arXiv 2306.04675, who found that it agrees
with people's judgement better than Inception's. ViT-S/14 (384 numbers) has a fourteenth of its parameters.

Pictures reach the networks as in that paper's code (dgm-eval): levels 0 to L - 1 become 255 x / (L - 1), rounded; every
picture is resized to 224 x 224 as by Pillow's ``BICUBIC`` (a = -0.5, half-pixel centres, smoothed where it is made
smaller), across and then down, rounded after each; one that is not square is stretched. Of a grey picture all three
channels are the same. Then 1/255 of each channel, less ImageNet's mean, is divided by ImageNet's standard deviation.
Decoded pictures between levels (float32), along which ``path_length`` takes small steps, are not rounded.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from bench.data.base import Data
from bench.data.bytes.arrays import revision
from bench.data.bytes.cache import DataFile
from bench.data.bytes.sources import Download
from bench.device import full_float32, on_fastest
from bench.errors import UserError, is_out_of_memory
from bench.features.base import Extractor, Note
from bench.features.pinned import PinnedNetwork, pinned
from bench.features.script import extract
from bench.features.vit import VisionTransformer

__all__ = ["DINOv2", "ViTL14", "ViTS14", "DINOv2Extractor", "Published", "prepared", "resized"]

SIDE = 224
VERSION = 1  # increase it when the same pictures get other features
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, red, green, blue


@dataclass(frozen=True)
class Published:
    """A published network.

    Attributes:
        name: Its own name, and that of its features.
        file: Its state dict.
        width, depth, heads: Of the transformer.
    """

    name: str
    file: DataFile
    width: int
    depth: int
    heads: int

    @property
    def source(self) -> Download:
        return Download(f"https://dl.fbaipublicfiles.com/dinov2/{self.name}", gzipped=False)


S14 = Published(
    "dinov2_vits14",
    DataFile(
        "dinov2_vits14_pretrain.pth", "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", 88_283_115
    ),
    width=384, depth=12, heads=6,
)  # fmt: skip
L14 = Published(
    "dinov2_vitl14",
    DataFile(
        "dinov2_vitl14_pretrain.pth", "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428", 1_217_586_395
    ),
    width=1024, depth=24, heads=16,
)  # fmt: skip


def resized(x: Tensor, whole: bool) -> Tensor:
    """Resize levels 0 .. 255, ``(N, C, H, W)`` float32, as Pillow does: ``(N, C, 224, 224)``.

    Arguments:
        whole: Whether levels are rounded, as Pillow's are.
    """
    for size in ((x.shape[2], SIDE), (SIDE, SIDE)):  # across, then down
        x = functional.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
        x = (x.round() if whole else x).clamp(0, 255)
    return x


def prepared(x: Tensor, levels: int) -> Tensor:
    """Return what the network is given, ``(N, 3, 224, 224)``, of levels 0 .. L-1, ``(N, 1 or 3, H, W)``."""
    whole = not x.is_floating_point()
    x = x.float() * (255 / (levels - 1))
    x = resized(x.round() if whole else x, whole)
    mean, deviation = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (x / 255 - mean) / deviation


class DINOv2Extractor(Extractor):
    """A network on pictures of L levels.

    Attributes:
        hash: Of the weights, of how pictures reach them, and of L.
    """

    is_slow = True

    def __init__(self, published: Published, network: VisionTransformer, levels: int, note: Note | None = None) -> None:
        self.name = published.name
        self.hash = revision(published.file.sha256, f"version {VERSION}", f"{levels} levels")
        self._network = network.eval().to(on_fastest())
        self._prepare = partial(prepared, levels=levels)
        self._note = note

    def features(self, x: Tensor) -> Tensor:
        """Return the class tokens ``(N, width)`` float32 of levels ``(N, 1 or 3, H, W)``."""
        with full_float32():
            return extract(self.name, self._network, self._prepare, x, self._note)


class DINOv2(PinnedNetwork):
    """What the recipes share. They are subclasses that name their network.

    Arguments:
        weights: The file or its folder; None: the cache, then a download.

    Raises:
        UserError: In ``extractor``: no source has the weights, or the file holds something else.
    """

    published: ClassVar[Published]

    def extractor(self, data: Data, note: Note | None = None) -> DINOv2Extractor:
        assert data.spec.levels is not None
        path = pinned(self.published.name, self.published.file, [self.published.source], self._weights)
        return DINOv2Extractor(self.published, _restored(path, self.published), data.spec.levels, note)


class ViTS14(DINOv2):
    """Recipe of DINOv2's ViT-S/14, the file ``dinov2_vits14_pretrain.pth``: ``conf/features/dinov2_vits14.yaml``."""

    published, label = S14, S14.name


class ViTL14(DINOv2):
    """Recipe of DINOv2's ViT-L/14, the file ``dinov2_vitl14_pretrain.pth``: ``conf/features/dinov2_vitl14.yaml``."""

    published, label = L14, L14.name


def _restored(path: Path, published: Published) -> VisionTransformer:
    """Return the network with the weights of a file.

    Raises:
        UserError: The file is no state dict of this network.
    """
    with torch.device("meta"):  # a meta network has no memory, and draws no initial weights
        network = VisionTransformer(published.width, published.depth, published.heads)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        flaw = _flaw(network.state_dict(), stored)
    except Exception as error:  # whatever the archive reader trips over
        if is_out_of_memory(error):
            raise
        flaw = f"cannot be read ({' '.join(str(error).split())[:120]})"
    if flaw:
        raise UserError(f"features {published.name}: {path}: {flaw}; get the file by {published.source} again")
    network.load_state_dict(stored, assign=True)
    return network


def _flaw(wanted: dict[str, Tensor], stored: object) -> str:
    """Say why a file's content is no state dict of a network; empty if it is one."""
    if not isinstance(stored, dict):
        return f"holds a {type(stored).__name__}, not a state dict"
    for names, what in ((wanted.keys() - stored.keys(), "lacks"), (stored.keys() - wanted.keys(), "has the unknown")):
        if names:
            return f"{what} {min(map(str, names))}, {len(names)} such entries in all"
    for name, tensor in wanted.items():
        found = stored[name]
        shown = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        if shown != f"{tensor.dtype} {tuple(tensor.shape)}":
            return f"{name} is {shown} instead of {tensor.dtype} {tuple(tensor.shape)}"
    return ""
