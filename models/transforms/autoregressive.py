"""Autoregressive transforms: each variable is moved by amounts computed from those before it."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ..nn.made import MADE
from .base import Transform, vectors_of
from .univariate import Univariate

__all__ = ["Autoregressive", "autoregressive_layers"]


class Autoregressive(Transform):
    r"""Moves every variable of a vector by a monotone map whose parameters depend on the variables before it.

    .. math:: z_i = g(x_i;\, \theta_i), \quad \theta_i = \mathrm{MADE}_i(x_1, \dots, x_{i-1}, c), \qquad
        \log|\det| = \sum_i \log g'

    (Papamakarios, Pavlakou, Murray 2017, Masked autoregressive flow for density estimation, arXiv:1705.07057.) The
    Jacobian is lower triangular. ``forward`` is one pass through the network, parallel in the variables. ``inverse``
    finds one variable after another, in D small steps that together cost about as much arithmetic as one pass; it is as
    exact as the univariate map's inverse is, and differentiable.

    As a VAE's posterior (Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling 2016, Improving variational inference
    with inverse autoregressive flow, arXiv:1606.04934) it is ``Autoregressive(MADE(..., n_context=K), SigmoidGate())``:
    ``forward(z0, context=h)`` with the encoder's h, ``(B, K)``, gives the next z and its log-det in one pass, and
    :math:`\log q(z_T|x) = \log q(z_0|x) - \sum_t \log|\det|_t`. ``models.transforms.gate.iaf_layers`` makes a chain.

    Arguments:
        network: With P outputs for each of the D inputs.
        univariate: What moves a variable, with P parameters.

    Raises:
        ValueError: They differ in P.
    """

    inverse_kind = "iterative"

    def __init__(self, network: MADE, univariate: Univariate) -> None:
        super().__init__()
        if network.n_out != univariate.n_parameters:
            raise ValueError(f"{univariate} takes {univariate.n_parameters} parameters, not {network.n_out}")
        self.network = network
        self.univariate = univariate

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        parameters = self.network(x, context).to(x.dtype)  # autocast may have made it bfloat16
        z, log_derivative = self.univariate.forward(x, parameters)
        return z, log_derivative.sum(1)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        given = z.split(1, 1)
        log_derivatives: list[Tensor] = []

        def emit(i: int, parameters: Tensor) -> Tensor:
            x, log_derivative = self.univariate.inverse(given[i], parameters[:, :, None])
            log_derivatives.append(log_derivative)
            return x[:, 0]

        x = self.network.generate(emit, len(z), context)
        return x, torch.cat(log_derivatives, 1).sum(1)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return vectors_of(self.network.n_in, shape)


def autoregressive_layers(
    dim: int,
    univariate: Univariate,
    *,
    layers: int,
    hidden: int,
    depth: int,
    n_context: int,
    activation: str = "silu",
    zero_last: bool = True,
) -> list[Transform]:
    """``layers`` autoregressive transforms of vectors ``(dim,)``, each with a MADE of its own.

    They all read the variables in the same order; put reversals between them with
    :func:`~models.transforms.permute.with_reversals`.

    Arguments:
        univariate: What moves a variable, in all layers.
        hidden, depth: Units and hidden layers of each MADE.
        n_context: Numbers of the context; 0: none is read.
        activation: Of each MADE's hidden units.
        zero_last: Whether the last layer of each MADE starts at zero.
    """
    networks = [
        MADE(
            dim, univariate.n_parameters, hidden=hidden, depth=depth, n_context=n_context, zero_last=zero_last,
            activation=activation,
        )
        for _ in range(layers)
    ]  # fmt: skip
    return [Autoregressive(network, univariate) for network in networks]
