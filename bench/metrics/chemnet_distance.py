"""The Fréchet distance of ChemNet's features, and those of real molecules, kept on disk."""

from functools import partial

import torch
from torch import Tensor

from bench.data.bytes.arrays import Arrays, decoded, revision
from bench.errors import UserError
from bench.features.chemnet import ChemNet
from bench.metrics.frechet import frechet_distance_from_features, frechet_stderr

__all__ = ["chemnet_distance", "chemnet_stderr", "kept_features"]

_BLOCK = 1000  # SMILES that are kept in one file


def chemnet_distance(real: Tensor, samples: Tensor) -> float:
    """Return the squared Fréchet distance between features ``(N, D)`` and ``(M, D)``, at least 0."""
    return max(0.0, frechet_distance_from_features(real, samples))  # rounding gives about -1e-13 for equal sets


def chemnet_stderr(real: Tensor, samples: Tensor) -> tuple[float, float]:
    """Return the standard errors of the distance that come from the real molecules and from the samples."""
    return frechet_stderr(real, samples)


def kept_features(network: ChemNet, smiles: list[str]) -> Tensor:
    """Return the features ``(N, 512)`` of real molecules, from the cache as far as they lie there."""
    parts = []
    for start in range(0, len(smiles), _BLOCK):
        block = smiles[start : start + _BLOCK]
        key = revision(network.hash, *block)
        try:
            kept = decoded(f"features/{network.name}", key, partial(_arrays, network, block))
            parts.append(torch.from_numpy(kept["x"]))
        except UserError:  # the cache is not ours to write
            parts.append(network.features(block))
    return torch.cat(parts) if parts else network.features([])


def _arrays(network: ChemNet, smiles: list[str]) -> Arrays:
    return {"x": network.features(smiles).numpy()}
