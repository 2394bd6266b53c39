"""Networks for the dynamics of continuous flows: velocities that depend on time, smooth in everything."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ConvDynamics", "MLPDynamics"]


class MLPDynamics(nn.Module):
    r"""Velocity of vectors: t and ``(B, D)`` to ``(B, D)``, through concatsquash layers

    .. math:: y = (W x + b)\,\sigma(\gamma t + \delta) + \epsilon t

    with tanh in between (Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019, FFJORD, arXiv:1810.01367, appendix
    B.1).

    Arguments:
        dim: D.
        hidden: Units of each hidden layer.
        depth: Number of hidden layers.
    """

    def __init__(self, dim: int, *, hidden: int, depth: int) -> None:
        super().__init__()
        widths = [dim, *[hidden] * depth, dim]
        self.linears = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.gates = nn.ModuleList(nn.Linear(1, n_out) for n_out in widths[1:])
        self.shifts = nn.ModuleList(nn.Linear(1, n_out, bias=False) for n_out in widths[1:])

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        time = t.to(x.dtype).reshape(1, 1)
        for i, (linear, gate, shift) in enumerate(zip(self.linears, self.gates, self.shifts, strict=True)):
            x = torch.addcmul(shift(time), linear(x.tanh() if i > 0 else x), gate(time).sigmoid())
        return x


class ConvDynamics(nn.Module):
    """Velocity of images: t and ``(B, C, H, W)`` to the same, by 3x3 convolutions that see t as one more channel.

    Softplus stands in between. (Grathwohl et al. 2019, FFJORD, arXiv:1810.01367, appendix B.1.)

    Arguments:
        n: Number of channels C.
        channels: Channels of each hidden layer.
        depth: Number of hidden layers.
    """

    def __init__(self, n: int, *, channels: int, depth: int) -> None:
        super().__init__()
        widths = [n, *[channels] * depth, n]
        self.layers = nn.ModuleList(nn.Conv2d(n_in + 1, n_out, 3, padding=1) for n_in, n_out in pairwise(widths))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        time = t.to(x.dtype).expand(len(x), 1, *x.shape[2:])
        for i, layer in enumerate(self.layers):
            x = layer(torch.cat([functional.softplus(x) if i > 0 else x, time], 1))
        return x
