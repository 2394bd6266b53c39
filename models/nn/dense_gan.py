"""Fully connected generators and discriminators, for examples of any shape."""

import math
from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["Maxout", "dense_discriminator", "dense_generator"]


class Maxout(nn.Module):
    r"""The largest of k linear maps, ``(B, n_in)`` to ``(B, n_out)``: :math:`y_j = \max_{i \le k} (W_i x + b_i)_j`.

    Goodfellow, Warde-Farley, Mirza, Courville, Bengio 2013, Maxout networks, arXiv:1302.4389.
    """

    def __init__(self, n_in: int, n_out: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(n_in, n_out * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


def dense_generator(
    shape: Iterable[int], latent_dim: int, *, hidden: int, depth: int, batch_norm: bool, bounded: bool
) -> nn.Sequential:
    """Noise ``(B, Z)`` to examples ``(B, *shape)`` through ``depth`` hidden layers of ReLU units.

    Arguments:
        shape: Of one example.
        latent_dim: Z.
        hidden: Units of each hidden layer.
        depth: Number of hidden layers.
        batch_norm: Normalize the units over the batch, before the ReLU.
        bounded: Whether outputs end in tanh and lie in [-1, 1], or are linear.
    """
    shape = tuple(shape)
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise([latent_dim, *[hidden] * depth]):
        linear = nn.Linear(n_in, n_out, bias=not batch_norm)
        _initialize(linear)
        layers += [linear, *([nn.BatchNorm1d(n_out)] if batch_norm else []), nn.ReLU()]
    last = nn.Linear(hidden if depth else latent_dim, math.prod(shape))
    return nn.Sequential(*layers, last, *([nn.Tanh()] if bounded else []), nn.Unflatten(1, shape))


def dense_discriminator(shape: Iterable[int], *, hidden: int, depth: int, pieces: int) -> nn.Sequential:
    """Examples ``(B, *shape)`` to one unbounded number each, ``(B,)``.

    Arguments:
        shape: Of one example.
        hidden: Units of each hidden layer.
        depth: Number of hidden layers.
        pieces: Linear maps of each maxout unit, whose weights start at N(0, 0.02); 1: leaky ReLU units instead.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in pairwise([math.prod(shape), *[hidden] * depth]):
        if pieces > 1:
            maxout = Maxout(n_in, n_out, pieces)
            nn.init.normal_(maxout.linear.weight, 0, 0.02)
            nn.init.zeros_(maxout.linear.bias)
            layers.append(maxout)
        else:
            linear = nn.Linear(n_in, n_out)
            _initialize(linear)
            layers += [linear, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(hidden if depth else math.prod(shape), 1), nn.Flatten(0))


def _initialize(linear: nn.Linear) -> None:
    """Weights as in He, Zhang, Ren, Sun 2015, Delving deep into rectifiers, arXiv:1502.01852, and biases of zero."""
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
