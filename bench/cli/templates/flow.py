r"""A normalizing flow: affine couplings between normalizations.

.. math:: \log p(x) = \log N(f(x); 0, I) + \log|\det \partial f / \partial x|

References:
    Dinh, Sohl-Dickstein, Bengio (2017): Density estimation using Real NVP. arXiv:1605.08803.
    Kingma, Dhariwal (2018): Glow: Generative flow with invertible 1x1 convolutions (the normalization).
    arXiv:1807.03039.

To make it yours, change ``Layer``: any bijection with its inverse and log-determinant. The likelihood, codes, samples
and the training step are those of ``Flow``. ``models/transforms`` has layers, ``models/nn`` has networks to build with.
"""

import math
from collections.abc import Iterable

import torch
from torch import Generator, Tensor

from models.flows.base import Flow, OptimizerFactory, at_least, to_reals
from models.nn.mlp import MLP
from models.transforms.actnorm import ActNorm
from models.transforms.base import Chain, Transform
from models.transforms.flatten import Flatten

__all__ = ["Mine"]


class Mine(Flow):
    """A flow of vectors; images are flattened. Integers are dequantized and mapped to the reals by a logit first.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        layers: Number of couplings.
        hidden, depth: Units and hidden layers of the network in each.
        alpha: For integer data: the logit's margin.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        layers: int = 8,
        hidden: int = 128,
        depth: int = 2,
        alpha: float = 1e-6,
    ) -> None:
        at_least(1, layers=layers, hidden=hidden)
        at_least(0, depth=depth)
        shape = tuple(shape)
        dim = math.prod(shape)
        parts: list[Transform] = [*to_reals(levels, alpha), Flatten(shape)]
        for i in range(layers):
            parts += [ActNorm(dim), Layer(dim, parity=i % 2, hidden=hidden, depth=depth)]
        super().__init__(shape, levels, Chain(*parts), optimizer)


class Layer(Transform):
    r"""Every other variable is scaled and shifted, by amounts that a network computes from those between.

    .. math:: z_b = x_b\,e^{s(x_a)} + t(x_a), \quad z_a = x_a, \quad \log|\det| = \sum s(x_a)

    The log-scales s lie between -2 and 2.

    Arguments:
        dim: Number of variables. A single one is moved by constants.
        parity: 0 moves the variables 0, 2, ..; 1 the others.
        hidden, depth: Of the network, which starts at zero, so that the layer starts as the identity.
    """

    inverse_kind = "closed form"

    def __init__(self, dim: int, *, parity: int, hidden: int, depth: int) -> None:
        super().__init__()
        moved = (torch.arange(dim) % 2 == parity) | torch.tensor(dim == 1)
        self.moved: Tensor
        self.register_buffer("moved", moved, persistent=False)  # (D,)
        self.network = MLP(dim, 2 * dim, hidden=hidden, depth=depth, zero_last=True)

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._amounts(x)
        return x * log_scale.exp() + shift, log_scale.sum(1)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale, shift = self._amounts(z)
        return (z - shift) * (-log_scale).exp(), -log_scale.sum(1)

    def _amounts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-scales and shifts ``(B, D)``, 0 where x is kept; they depend on what is kept alone."""
        output = self.network(x.masked_fill(self.moved, 0)).to(x.dtype)  # autocast may have made it bfloat16
        raw, shift = output.masked_fill(~self.moved.repeat(2), 0).chunk(2, 1)
        return 2 * (raw / 2).tanh(), shift
