"""Transforms of sequences of tokens: pictures and vectors as sequences, and an autoregressive transform of them."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ..nn.causal_transformer import CausalTransformer
from .base import Transform, only_shape
from .univariate import Univariate

__all__ = ["Patches", "TokenAutoregressive"]


class Patches(Transform):
    """Images as sequences of patches, row after row: ``(C, H, W) -> (T, C h w)`` with T = HW / (hw). Log-det 0.

    Vectors are cut into groups, ``(D,) -> (D / w, w)``.

    Arguments:
        shape: Of one example, ``(C, H, W)`` or ``(D,)``.
        patch: h and w; for vectors h is 1.

    Raises:
        ValueError: Patches do not tile the example.
    """

    inverse_kind = "closed form"

    def __init__(self, shape: Sequence[int], patch: tuple[int, int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.picture = (1, 1, *shape) if len(shape) == 1 else tuple(shape)
        self.patch = patch
        _, height, width = self.picture
        if height % patch[0] or width % patch[1]:
            raise ValueError(f"patches of {patch[0]} x {patch[1]} do not tile examples of shape {self.shape}")
        self.grid = (height // patch[0], width // patch[1])

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        (rows, columns), (h, w) = self.grid, self.patch
        blocks = x.reshape(len(x), self.picture[0], rows, h, columns, w).permute(0, 2, 4, 1, 3, 5)
        return blocks.flatten(3).flatten(1, 2), x.new_zeros(len(x))

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        (rows, columns), (h, w) = self.grid, self.patch
        blocks = z.reshape(len(z), rows, columns, self.picture[0], h, w).permute(0, 3, 1, 4, 2, 5)
        return blocks.reshape(len(z), *self.shape), z.new_zeros(len(z))

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        only_shape(self.shape, shape)
        tokens = math.prod(self.grid)
        return (tokens, math.prod(self.shape) // tokens)


class TokenAutoregressive(Transform):
    r"""Moves the entries of every token of a sequence ``(T, G)`` by amounts that depend on the tokens before it.

    .. math:: z_i = g(x_i;\, \theta_i), \quad \theta_i = \mathrm{NN}_i(x_0, \dots, x_{i-1}, c), \qquad
        \log|\det| = \sum_i \sum_g \log g'

    ``forward`` is one pass through the network, parallel in the tokens. ``inverse`` finds one token after another; it
    costs the arithmetic of one pass too, in T small steps, and is as exact as the univariate map's inverse is.

    Arguments:
        network: With G inputs and P G outputs for each token: along them the first parameter of every entry, then the
            second, and so on.
        univariate: What moves an entry, with P parameters.

    Raises:
        ValueError: They differ in P.
    """

    inverse_kind = "iterative"

    def __init__(self, network: CausalTransformer, univariate: Univariate) -> None:
        super().__init__()
        if network.n_out != univariate.n_parameters * network.n_in:
            raise ValueError(
                f"{univariate} takes {univariate.n_parameters} parameters for each of {network.n_in} entries"
            )
        self.network = network
        self.univariate = univariate

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        output = self.network(x, context).to(x.dtype)  # autocast may have made it bfloat16
        parameters = output.unflatten(2, (self.univariate.n_parameters, -1)).transpose(1, 2)  # (B, P, T, G)
        z, log_derivative = self.univariate.forward(x, parameters)
        return z, log_derivative.flatten(1).sum(1)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_derivatives: list[Tensor] = []

        def emit(i: int, output: Tensor) -> Tensor:
            parameters = output.unflatten(1, (self.univariate.n_parameters, -1))  # (B, P, G)
            x, log_derivative = self.univariate.inverse(z[:, i], parameters)
            log_derivatives.append(log_derivative.sum(1))
            return x

        x = self.network.generate(emit, len(z), context)
        return x, torch.stack(log_derivatives, 1).sum(1)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        if tuple(shape) != (self.network.length, self.network.n_in):
            raise ValueError(
                f"made for sequences of {self.network.length} x {self.network.n_in}, not examples of {tuple(shape)}"
            )
        return tuple(shape)
