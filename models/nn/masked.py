"""Layers some of whose weights are masked, and how many those are."""

from abc import ABC, abstractmethod

from torch import nn

__all__ = ["Masked", "n_masked"]


class Masked(ABC):
    """A layer whose parameters contain numbers that its output does not depend on."""

    @property
    @abstractmethod
    def n_masked(self) -> int:
        """How many."""


def n_masked(module: nn.Module) -> int:
    """Number of the masked weights of a module, in all its layers."""
    return sum(layer.n_masked for layer in module.modules() if isinstance(layer, Masked))
