"""A known density: the data's own, which no model can beat in expectation."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.chunks import CHUNK
from bench.errors import UnavailableError
from bench.subjects.base import Origin, Report, Subject, silent

__all__ = ["KnownDensity"]


class KnownDensity(Subject):
    """A log-density ``(B, *shape) -> (B,)`` in nats, exact."""

    relation = "exact"

    def __init__(self, log_density: Callable[[Tensor], Tensor], origin: Origin) -> None:
        self.log_density = log_density
        self.origin = origin

    def samples(self, n: int, report: Report = silent) -> Tensor:
        raise UnavailableError("only the density of the data is known here, not a sampler")

    def log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        return torch.cat([self.log_density(part).double() for part in x.split(CHUNK)])[None]
