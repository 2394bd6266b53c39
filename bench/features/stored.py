"""Features of real examples, kept on disk where they cost much: reference statistics are then computed once.

They lie in the cache, 1000 examples a file, under a hash of the examples' bytes and of the extractor. So another split
of the same data shares what is equal, an interrupted command goes on where it was, and other bytes are never taken for
these: what is read is checked against its SHA-256 as all decoded arrays are.
"""

import hashlib
import logging

import torch
from torch import Tensor

from bench.data.bytes.arrays import Arrays, decoded
from bench.errors import UserError
from bench.features.base import Extractor

__all__ = ["digest", "stored_features"]

BLOCK = 1000  # examples: two minutes of Inception on a core, 8 MB

log = logging.getLogger(__name__)


def stored_features(extractor: Extractor, x: Tensor) -> Tensor:
    """Return ``extractor.features(x)``, ``(N, F)``, from the cache as far as it lies there.

    Where the cache cannot be written, everything is computed; a warning says so.
    """
    return torch.cat([_block(extractor, part) for part in x.split(BLOCK)])


def digest(x: Tensor, *about: str) -> str:
    """Return 16 hexadecimal digits of a tensor's bytes, dtype and shape, and of what else is told about it."""
    found = hashlib.sha256("\n".join([*about, str(x.dtype), str(tuple(x.shape))]).encode())
    found.update(x.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def _block(extractor: Extractor, x: Tensor) -> Tensor:
    made: list[Tensor] = []

    def compute() -> Arrays:
        made.append(extractor.features(x))
        return {"features": made[0].numpy()}

    try:
        arrays = decoded(f"features/{extractor.name}", digest(x, extractor.hash), compute)
    except UserError as error:  # the cache is full, or not ours to write
        log.warning("features %s are not kept (%s)", extractor.name, error)
        return made[0] if made else extractor.features(x)
    return torch.from_numpy(arrays["features"])
