r"""Coupling layers: one part of an example is moved by amounts computed from the other part, which is kept.

.. math:: z_{kept} = x_{kept}, \quad z_{moved} = g(x_{moved};\, \theta), \quad \theta = \mathrm{NN}(x_{kept}, c), \qquad
    \log|\det| = \sum_{moved} \log g'

with g a monotone map of one variable and c the context (Dinh, Krueger, Bengio 2015, NICE: Non-linear independent
components estimation, arXiv:1410.8516; Dinh, Sohl-Dickstein, Bengio 2017, Density estimation using Real NVP,
arXiv:1605.08803). A conditioner whose last layer starts at zero makes a coupling start as the identity. ``kept`` may be
empty: every entry is then moved, by amounts that depend on the context alone or on nothing.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from ..nn.mlp import MLP
from .base import Transform
from .univariate import Univariate

__all__ = ["Coupling", "MaskedCoupling", "alternating", "checkerboard_mask", "halves", "vector_coupling"]


class Coupling(Transform):
    """Keeps and moves whole variables, or whole channels: indices of dimension 1.

    Arguments:
        kept, moved: Indices that together are 0 .. n-1, each once. Not stored in checkpoints.
        conditioner: Network ``(B, len(kept), ...)`` and context to ``(B, P len(moved), ...)``: along dimension 1 the
            first parameter of every moved variable, then the second, and so on.
        univariate: What moves an entry, with P parameters.

    Raises:
        ValueError: ``kept`` and ``moved`` are no such indices, or ``moved`` is empty.
    """

    def __init__(
        self, kept: Sequence[int], moved: Sequence[int], conditioner: nn.Module, univariate: Univariate
    ) -> None:
        super().__init__()
        order = torch.tensor([*kept, *moved], dtype=torch.long)
        if sorted(order.tolist()) != list(range(len(order))) or not moved:
            raise ValueError(f"kept {list(kept)} and moved {list(moved)} are no partition of 0 .. n-1 that moves any")
        self.order: Tensor
        self.back: Tensor
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        self.sizes = [len(kept), len(moved)]
        self.conditioner = conditioner
        self.univariate = univariate
        self.inverse_kind = univariate.inverse_kind

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        kept, moved = x.index_select(1, self.order).split(self.sizes, 1)
        moved, log_derivative = self.univariate.forward(moved, self._parameters_for(kept, context))
        z = torch.cat([kept, moved], 1).index_select(1, self.back)
        return z, log_derivative.flatten(1).sum(1)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = z.index_select(1, self.order).split(self.sizes, 1)
        moved, log_derivative = self.univariate.inverse(moved, self._parameters_for(kept, context))
        x = torch.cat([kept, moved], 1).index_select(1, self.back)
        return x, log_derivative.flatten(1).sum(1)

    def _parameters_for(self, kept: Tensor, context: Tensor | None) -> Tensor:
        output = self.conditioner(kept, context).to(kept.dtype)  # autocast may have made it bfloat16
        return output.unflatten(1, (self.univariate.n_parameters, self.sizes[1]))


class MaskedCoupling(Transform):
    """Keeps and moves entries by a mask of any pattern. The conditioner sees zeros where entries are moved.

    Arguments:
        mask: Ones where x is kept and zeros where it is moved; broadcasts to one example. Not stored in checkpoints.
        conditioner: Network ``(B, C, ...)`` and context to ``(B, P C, ...)``, along dimension 1 as in ``Coupling``;
            what it gives for kept entries is not used.
        univariate: What moves an entry, with P parameters.
    """

    def __init__(self, mask: Tensor, conditioner: nn.Module, univariate: Univariate) -> None:
        super().__init__()
        self.keep: Tensor
        self.register_buffer("keep", mask.bool(), persistent=False)
        self.conditioner = conditioner
        self.univariate = univariate
        self.inverse_kind = univariate.inverse_kind

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._join(x, *self.univariate.forward(x, self._parameters_for(x, context)))

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._join(z, *self.univariate.inverse(z, self._parameters_for(z, context)))

    def _parameters_for(self, x: Tensor, context: Tensor | None) -> Tensor:
        output = self.conditioner(x * self.keep, context).to(x.dtype)  # autocast may have made it bfloat16
        return output.unflatten(1, (self.univariate.n_parameters, x.shape[1]))

    def _join(self, x: Tensor, moved: Tensor, log_derivative: Tensor) -> tuple[Tensor, Tensor]:
        """Kept entries pass unchanged to the last bit."""
        z = torch.where(self.keep, x, moved)
        return z, log_derivative.masked_fill(self.keep, 0.0).flatten(1).sum(1)


def vector_coupling(
    kept: Sequence[int], moved: Sequence[int], univariate: Univariate, *, hidden: int, depth: int, n_context: int,
    zero_last: bool = True,
) -> Coupling:  # fmt: skip
    """A coupling of vectors whose conditioner is a fully connected network.

    Arguments:
        kept, moved: Indices that together are 0 .. D-1, each once.
        univariate: What moves a variable.
        hidden, depth: Units and hidden layers of the network.
        n_context: Numbers of the context; 0: none is read.
        zero_last: Whether the network's last layer starts at zero.
    """
    n_out = univariate.n_parameters * len(moved)
    network = MLP(len(kept), n_out, hidden=hidden, depth=depth, n_context=n_context, zero_last=zero_last)
    return Coupling(kept, moved, network, univariate)


def alternating(n: int, parity: int) -> tuple[list[int], list[int]]:
    """Of 0 .. n-1: those of the given parity (0 or 1), kept, and the others, moved. A single variable is moved."""
    if n == 1:
        return [], [0]
    return list(range(parity, n, 2)), list(range(1 - parity, n, 2))


def halves(n: int, parity: int) -> tuple[list[int], list[int]]:
    """The first half of 0 .. n-1 (rounded down) is kept and the rest moved; with parity 1 the other way round.

    A single channel is moved.
    """
    first, rest = list(range(n // 2)), list(range(n // 2, n))
    if n == 1:
        return [], [0]
    return (first, rest) if parity == 0 else (rest, first)


def checkerboard_mask(height: int, width: int, parity: int) -> Tensor:
    """``(1, H, W)`` ones where row + column has the given parity (0 or 1). A single position is always moved."""
    if height * width == 1:
        return torch.zeros(1, 1, 1)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return ((rows + columns) % 2 == parity).float()[None]
