"""What a data set hands to the harness: a specification and three splits."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bench.schema import DataSpec

__all__ = ["Data", "Split"]


@dataclass(frozen=True)
class Split:
    """Examples ``x`` ``(N, *shape)`` (uint8 levels or float32 reals) and labels ``y`` ``(N,)`` int64 or None."""

    x: Tensor
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Data:
    """A data set in memory. Splits are fixed by the data set: they never move with a run's seed.

    Attributes:
        spec: What it is.
        train, val, test: Its splits; models are selected on val and reported on test.
        log_density: The true log-density ``(B, *shape) -> (B,)`` in nats (float64), where it is known in closed form.
    """

    spec: DataSpec
    train: Split
    val: Split
    test: Split
    log_density: Callable[[Tensor], Tensor] | None = None
