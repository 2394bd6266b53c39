"""Somebody's samples, of which nothing else is known."""

import torch
from torch import Generator, Tensor

from bench.errors import UnavailableError
from bench.seeds import derive_seed
from bench.subjects.base import Origin, Report, Subject, silent

__all__ = ["GivenSamples"]


class GivenSamples(Subject):
    """Samples in the data's own space.

    They are taken in random order: a folder may be sorted by class, and its beginning would be a sample of one class.

    Arguments:
        x: ``(N, *shape)``.
        seed: Of the order.
    """

    def __init__(self, x: Tensor, seed: int, origin: Origin) -> None:
        generator = Generator().manual_seed(derive_seed(seed, "given samples", "order"))
        self.x = x[torch.randperm(len(x), generator=generator)]
        self.origin = origin

    def samples(self, n: int, report: Report = silent) -> Tensor:
        return self.x[:n]

    def outside(self, n: int, report: Report = silent) -> Tensor:
        raise UnavailableError("only samples are given: what was clipped to the data's range is not known")

    def log_weights(self, x: Tensor, draws: int, report: Report = silent) -> Tensor:
        raise UnavailableError("only samples are given: they have no likelihood")

    def codes(self, x: Tensor) -> Tensor:
        raise UnavailableError("only samples are given: they have no latent codes")

    def reconstructions(self, x: Tensor, report: Report = silent) -> Tensor:
        raise UnavailableError("only samples are given: they have no latent codes")

    def elbo_terms(self, x: Tensor, draws: int, report: Report = silent) -> tuple[Tensor, Tensor, Tensor]:
        raise UnavailableError("only samples are given: they have no approximate posterior")

    def costs(self, x: Tensor, n: int) -> dict[str, float]:
        raise UnavailableError("only samples are given: what they cost is not known")
