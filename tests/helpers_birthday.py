"""Distances by brute force, samples with planted copies, the pairs that are chosen of samples, and their key."""

import torch
from torch import Generator, Tensor

from bench.birthday.pairs import Chosen, choose, jittered
from bench.birthday.record import Key, sealed
from bench.data.base import Data
from bench.subjects.base import Origin
from bench.subjects.examples import Examples
from bench.subjects.samples import GivenSamples

__all__ = ["ORIGIN", "brute", "chosen_of", "generator", "key_of", "planted_copies"]

ORIGIN = Origin("run", "key", "group", "<script>alert(1)</script>", "samples", "given")


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def brute(x: Tensor) -> Tensor:
    """All distances between rows of ``(N, D)``, in float64: ``(N, N)``."""
    return (x.double()[:, None] - x.double()).square().sum(dim=2).sqrt()


def planted_copies(digits: Data) -> tuple[Tensor, Tensor]:
    """500 slightly jittered samples of the 4000 training digits, and the digits they are of."""
    generator = Generator().manual_seed(3)
    pick = torch.randint(len(digits.train.x), (500,), generator=generator)
    return jittered(digits.train.x[pick], torch.full((500,), 300.0), 256, generator), pick


def chosen_of(x: Tensor, data: Data, candidates: int = 20, n_samples: int = 1000) -> Chosen:
    return choose(Examples(GivenSamples(x, 0, ORIGIN), data, seed=0), n_samples, candidates)


def key_of(chosen: Chosen, model: str = ORIGIN.model) -> Key:
    return sealed(
        Key(
            format="genbench birthday key 1", page="0" * 64, model=model, dataset="digits", revision="r", seed=0,
            samples=chosen.samples, pairs=chosen.shown,
        )
    )  # fmt: skip
