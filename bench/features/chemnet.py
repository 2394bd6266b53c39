"""ChemNet, a network that predicts the activity of molecules in assays, from their SMILES: ``fcd``.

The 512 features are the last state of its second LSTM. A canonical SMILES becomes at most 349 tokens of 35 kinds, ended
by one that means the end; each is a vector with 1/35 in its place, and 350 places are filled up with zeros. Unknown
tokens have a kind of their own. Everything is as in the port to PyTorch that carries the weights.

Preuer, Renz, Unterthiner, Hochreiter, Klambauer 2018, "Fréchet ChemNet distance" (arXiv 1803.09518).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.data.bytes.arrays import revision
from bench.data.bytes.cache import DataFile
from bench.data.bytes.sources import Package
from bench.features.pinned import pinned

__all__ = ["WEIGHTS", "ChemNet", "Network", "tokens"]

NAME = "chemnet"
WEIGHTS = DataFile(
    "ChemNet_v0.13_pretrained.pt", "a36658cc7c94d3c728eacd7ed2d2f104753bb2fde742c2817daefe9533a28080", 5_627_182
)
VERSION = 1  # increase it when the same SMILES get other features
TOKENS = ("C", "N", "O", "H", "F", "Cl", "P", "B", "Br", "S", "I", "Si", "#", "(", ")", "+", "-", "1", "2", "3", "4",
          "5", "6", "7", "8", "=", "[", "]", "@", "c", "n", "o", "s", "X", ".")  # fmt: skip
PLACES = 350
_PLACE = {token: place for place, token in enumerate(TOKENS)}
_UNKNOWN, _END = _PLACE["X"], _PLACE["."]
_BATCH = 250

_SOURCES = (
    Package(
        "pip", "fcd_torch", "1.0.7", "63a24aae88c554a7ba6422cffdef3ad7c1befec73f835b70ead04097a1ebed6f", "fcd_torch"
    ),
)


def tokens(smiles: str) -> list[int]:
    """Return the kinds of a SMILES's tokens, the end included; at most 350.

    A letter followed by ``l``, ``r`` or ``i`` is one token with it.
    """
    made: list[int] = []
    place = 0
    while place < len(smiles) and len(made) < PLACES - 1:
        length = 2 if smiles[place + 1 : place + 2] in ("r", "i", "l") else 1
        made.append(_PLACE.get(smiles[place : place + length], _UNKNOWN))
        place += length
    return [*made, _END]


class Network(nn.Module):
    """Maps one-hot tokens ``(N, 35, 350)``, each 1/35, to features ``(N, 512)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(35, 32, 4, stride=2, bias=False)
        self.second = nn.Conv1d(32, 32, 4, stride=2, bias=False)
        self.third = nn.LSTM(32, 128, batch_first=True)
        self.fourth = nn.LSTM(128, 512, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            # As TensorFlow pads: the last window begins with the last pair of places, or with the last one.
            missing = 2 if x.shape[2] % 2 == 0 else 3
            x = functional.selu(layer(functional.pad(x, (missing // 2, missing - missing // 2))))
        # Both layers read backwards, the second what the first has written in its own order.
        x = self.third(x.transpose(1, 2).flip(1))[0]
        made: Tensor = self.fourth(x.flip(1))[0][:, -1]
        return made


class ChemNet:
    """The network on canonical SMILES, on the CPU.

    Arguments:
        weights: The file, its folder or the wheel that holds it; None: the cache, then the package.

    Attributes:
        name, hash: Of the network and of how SMILES reach it.

    Raises:
        UserError: No source has the weights, or the file holds other bytes.
    """

    name = NAME

    def __init__(self, weights: str | None = None) -> None:
        self.hash = revision(WEIGHTS.sha256, f"version {VERSION}")
        self._network = _restored(pinned(NAME, WEIGHTS, _SOURCES, weights))

    @torch.no_grad()
    def features(self, smiles: Sequence[str]) -> Tensor:
        """Return the features ``(N, 512)`` float32 of canonical SMILES."""
        parts = [torch.zeros(0, 512)]
        for start in range(0, len(smiles), _BATCH):
            batch = smiles[start : start + _BATCH]
            x = torch.zeros(len(batch), len(TOKENS), PLACES)
            for row, one in zip(x, batch, strict=True):
                kinds = tokens(one)
                row[kinds, torch.arange(len(kinds))] = 1 / len(TOKENS)
            parts.append(self._network(x))
        return torch.cat(parts)


def _restored(path: Path) -> Network:
    stored: list[Any] = torch.load(path, map_location="cpu", weights_only=True)
    network = Network()
    layers = (network.first, network.second, network.third, network.fourth)
    for layer, (_, (state, *_)) in zip(layers, stored, strict=True):
        layer.load_state_dict(state)
    return network.eval().requires_grad_(False)
