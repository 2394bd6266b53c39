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
        in_place: Whether ``x`` itself is put into that order, so that the samples are in memory once.
    """

    def __init__(self, x: Tensor, seed: int, origin: Origin, *, in_place: bool = False) -> None:
        generator = Generator().manual_seed(derive_seed(seed, "given samples", "order"))
        self.order = torch.randperm(len(x), generator=generator)
        self.x = x
        self.origin = origin
        if in_place:
            _put_in_order(x, self.order)
            self.order = torch.arange(0)

    def samples(self, n: int, report: Report = silent) -> Tensor:
        return self.x[self.order[:n]] if len(self.order) else self.x[:n]

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


def _put_in_order(x: Tensor, order: Tensor) -> None:
    """Make ``x`` what ``x[order]`` is, along the cycles of the permutation, with one row's worth of memory."""
    rows, source = x.numpy(), order.tolist()
    for start in range(len(source)):
        place, first = start, None
        while source[place] >= 0:
            following, source[place] = source[place], -1
            if first is None:
                first = rows[start].copy()
            rows[place] = first if following == start else rows[following]
            place = following
