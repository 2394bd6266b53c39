"""Save, seed and restore the global random number generators.

Our own code draws from explicit generators. Weight initialisation, dropout and external models draw from the global
ones. They run inside ``seeded``, which seeds the global generators and restores their state afterwards.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["rng_state", "seeded", "set_rng_state"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators inside the block, and restore them after it."""
    before = rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_rng_state(before)


def rng_state() -> dict[str, Any]:
    """Return the state of every global generator as tensors and plain values (loadable with ``weights_only=True``)."""
    _, keys, position, has_gauss, cached = np.random.get_state()
    python_version, python_words, python_gauss = random.getstate()
    return {
        "python": [python_version, list(python_words), python_gauss],
        "numpy": [torch.from_numpy(np.array(keys)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore a state returned by ``rng_state``, perhaps on a machine with more or fewer GPUs."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy(), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])
