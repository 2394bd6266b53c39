"""A table of reals, the splits of a data set below each other, and the one line that a folder is refused with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from bench.data.base import Data
from bench.errors import UserError

__all__ = ["reals", "refused", "whole"]


def whole(data: Data) -> np.ndarray:
    """Train, validation and test below each other."""
    return torch.cat([data.train.x, data.val.x, data.test.x]).numpy()


def reals(n: int, d: int = 3) -> np.ndarray:
    return RandomState(0).standard_normal((n, d)) * np.arange(1, d + 1) + 5


def refused(make: Callable[[str], Data], folder: Path) -> str:
    """The one line that a data set refuses a folder with."""
    with pytest.raises(UserError) as caught:
        make(str(folder))
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text, "it says where"
    return text
