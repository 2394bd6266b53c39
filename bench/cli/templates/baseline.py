r"""A baseline in closed form: independent entries, each with its own histogram, or normal where data are real.

.. math:: p(x) = \prod_i \frac{n_i(x_i) + 1}{N + L} \qquad \text{or} \qquad p(x) = \prod_i N(x_i; \mu_i, \sigma_i^2)

with :math:`n_i(k)` the number of the N training examples whose entry i is k, one added to each of the L levels.

References:
    Laplace (1814): Essai philosophique sur les probabilités (the rule of succession, which adds the one).

To make it yours, change what ``fit`` counts and what ``log_weight`` makes of it. Everything fitted is a buffer.
"""

import math
from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from models.base import ClosedForm, GenerativeModel, HasLikelihood, Relation
from models.distributions import standard_normal, uniform

__all__ = ["Mine"]


class Mine(GenerativeModel, HasLikelihood, ClosedForm):
    """Independent entries.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
    """

    family = "baseline"

    def __init__(self, shape: Iterable[int], levels: int | None) -> None:
        super().__init__(shape, levels)
        self.log_mass: Tensor
        self.mean: Tensor
        self.std: Tensor
        if levels is not None:
            uniform_mass = torch.full((self.dim, levels), -math.log(levels), dtype=torch.float64)
            self.register_buffer("log_mass", uniform_mass)  # (D, L)
        else:
            self.register_buffer("mean", torch.zeros(self.dim, dtype=torch.float64))
            self.register_buffer("std", torch.ones(self.dim, dtype=torch.float64))

    @property
    def relation(self) -> Relation:
        return "exact"

    @property
    def n_parameters(self) -> int:
        """Masses that sum to 1, or a mean and a standard deviation, of each entry."""
        return 2 * self.dim if self.levels is None else self.dim * (self.levels - 1)

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Take the training examples, ``(B, *shape)`` at a time, each once.

        Raises:
            ValueError: Real-valued data have an entry that is always the same: it has no density.
        """
        x = torch.cat([batch.flatten(1) for batch in batches])  # (N, D)
        if self.levels is not None:
            counts = torch.stack([torch.bincount(column, minlength=self.levels) for column in x.T.long()])
            self.log_mass.copy_(((counts.double() + 1) / (len(x) + self.levels)).log())
            return
        std, mean = torch.std_mean(x.double(), 0, correction=0)
        if bool((std == 0).any()):
            raise ValueError("an entry is the same in all examples; a normal cannot be fitted to it")
        self.mean.copy_(mean)
        self.std.copy_(std)

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """log p(x), ``(B, *shape) -> (B,)`` nats."""
        if self.levels is not None:
            return self.log_mass.gather(1, x.flatten(1).T.long()).sum(0)
        z = (x.flatten(1).double() - self.mean) / self.std
        return (-0.5 * z.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(1)

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """``temperature`` multiplies the normals' deviations; histograms have no noise that it could change."""
        if self.levels is None:
            x = self.mean + temperature * self.std * standard_normal((n, self.dim), self.mean, generator)
        else:
            u = uniform((self.dim, n), self.log_mass, generator)
            below = self.log_mass.exp().cumsum(1)[:, :-1].contiguous()  # (D, L-1) of each level, the mass up to it
            x = torch.searchsorted(below, u, right=True).T
        return x.to(self.data_dtype).unflatten(1, self.shape)
