"""Block neural autoregressive transform: one network that is monotone in each variable given those before it."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import linear

from ..nn.masked import Masked
from ..nn.substitution import forward_substitution
from .base import Transform, vectors_of
from .roots import implicit_root, increasing_root

__all__ = ["BlockAutoregressive", "BlockLinear"]

BOUND = 3.0  # of log-scales and of the gate's log-odds, in nats


class BlockLinear(nn.Module, Masked):
    r"""A linear layer between D groups of units, ``(B, D n_in)`` to ``(B, D n_out)``.

    .. math:: W_r = e^{s_r}\, \hat W_r / \|\hat W_r\|, \quad
        \hat W = \exp(V) \text{ in blocks on the diagonal}, \; V \text{ below}, \; 0 \text{ above}

    for each row r (De Cao, Titov, Aziz 2019, Block neural autoregressive flow, arXiv:1904.04676, section 3.2, with its
    initialization). Here :math:`s = c \tanh(r / c)`, c = 3.

    Arguments:
        groups: D.
        n_in, n_out: Units of each group.
    """

    def __init__(self, groups: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.groups, self.n_in, self.n_out = groups, n_in, n_out
        row = torch.arange(groups * n_out)[:, None] // n_out
        column = torch.arange(groups * n_in) // n_in
        self.diagonal: Tensor
        self.lower: Tensor
        self.register_buffer("diagonal", row == column, persistent=False)
        self.register_buffer("lower", row > column, persistent=False)
        reach = (6 / (n_out + (row + 1) * n_in)).sqrt()  # Glorot's, with the columns that a row of blocks has
        self.raw = nn.Parameter(reach * (2 * torch.rand(groups * n_out, groups * n_in) - 1))
        self.log_scale = nn.Parameter(torch.rand(groups * n_out).clamp(min=1e-3).log())
        self.bias = nn.Parameter((2 * torch.rand(groups * n_out) - 1) / (groups * n_out) ** 0.5)

    @property
    def n_masked(self) -> int:
        """Numbers in V that no weight is made of."""
        return self.groups * (self.groups - 1) // 2 * self.n_in * self.n_out

    def weight(self) -> Tensor:
        """W, ``(D n_out, D n_in)``."""
        with torch.no_grad():
            # Whatever scale a row has before it is normalized, its greatest entry can be 1: no square overflows.
            log_size = torch.where(self.lower, self.raw.abs().log(), -torch.inf)
            log_size = torch.where(self.diagonal, self.raw, log_size).amax(1, keepdim=True).clamp(min=-80.0)
        # Masked before exp() too: where() would turn an infinite gradient of a branch not taken into NaN.
        positive = (self.raw * self.diagonal - log_size).clamp(max=0.0).exp() * self.diagonal
        row = positive + self.raw * self.lower * (-log_size).exp()
        scale = (BOUND * (self.log_scale / BOUND).tanh()).exp()
        return scale[:, None] * row / row.norm(dim=1, keepdim=True)

    def blocks(self, weight: Tensor) -> Tensor:
        """The blocks of W on its diagonal, ``(D, n_out, n_in)``."""
        by_group = weight.view(self.groups, self.n_out, self.groups, self.n_in)
        return by_group.diagonal(dim1=0, dim2=2).permute(2, 0, 1)


class BlockAutoregressive(Transform):
    r"""Moves every variable by a network that is increasing in it, given the variables before it.

    .. math:: z = \alpha f(x) + (1 - \alpha)\, x, \qquad
        f(x) = W_L \tanh(W_{L-1} \cdots \tanh(W_1 x + W_c c + b_1) \cdots) + b_L

    (De Cao, Titov, Aziz 2019, Block neural autoregressive flow, arXiv:1904.04676.) The weights are block lower
    triangular with positive blocks on the diagonal (:class:`BlockLinear`), so the Jacobian is lower triangular with the
    positive diagonal

    .. math:: \frac{\partial z_i}{\partial x_i} = \alpha\, W_L^{ii}\, D_{L-1}^i W_{L-1}^{ii} \cdots D_1^i W_1^{ii}
        + 1 - \alpha, \quad D = \operatorname{diag}(1 - \tanh^2)

    f alone is bounded in each variable: its image is a box, and the mass that the base has outside is lost. The paper
    mixes x in, by a learned gate, between flows but not after the last; here it is mixed into each, which makes it a
    bijection of the whole space. The gate's log-odds are softly clamped to :math:`\pm 3`, so that the slope is at least
    0.047. Plain products of blocks therefore do not underflow; the paper multiplies them in log space.

    ``inverse`` finds one variable after another, evaluating each unit of the others once, by Newton's method in a
    bracket until z_i is met to :math:`4 \epsilon \max(1, |z_i|)`, given those before it, or x_i is known to its last
    bits; epsilon is the dtype's rounding unit, 4 epsilon 5e-7 in float32. Seen through ``forward`` the rounding of x
    comes on top, times the slope. It is differentiable.

    Arguments:
        dim: D.
        units: Hidden units for each variable in each layer.
        depth: Number of hidden layers, L - 1.
        n_context: Numbers of the context c; 0: none is read.

    Raises:
        ValueError: There are no units or layers.
    """

    inverse_kind = "iterative"

    def __init__(self, dim: int, *, units: int, depth: int, n_context: int = 0) -> None:
        super().__init__()
        if min(units, depth) < 1:
            raise ValueError(f"a block network needs units and a hidden layer, not {units} and {depth}")
        self.dim = dim
        self.n_context = n_context
        self.layers = nn.ModuleList(BlockLinear(dim, *sizes) for sizes in pairwise([1, *[units] * depth, 1]))
        if n_context > 0:
            self.project = nn.Linear(n_context, dim * units, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))  # log-odds of alpha

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):  # the network is the transform
            first, *rest = self._layers
            weight = first.weight()
            h = linear(x, weight, first.bias)
            if self.n_context > 0:
                h = h + self._projected(context)
            slope = first.blocks(weight).transpose(1, 2).expand(-1, len(x), -1)  # (D, B, units)
            for layer in rest:
                h, weight = h.tanh(), layer.weight()
                bend = (1 - h.square()).unflatten(1, (self.dim, -1)).transpose(0, 1)
                slope = (bend * slope) @ layer.blocks(weight).transpose(1, 2)
                h = linear(h, weight, layer.bias)
            alpha, rest_of_one = self._gate()
            slope = alpha * slope[:, :, 0].T + rest_of_one
            return alpha * h + rest_of_one * x, slope.log().sum(1)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        layers = self._layers
        tolerance = 4 * torch.finfo(z.dtype).eps
        with torch.autocast(z.device.type, enabled=False):
            alpha, rest_of_one = self._gate()
            start = [layer.bias[:, None].expand(-1, len(z)) for layer in layers]
            if self.n_context > 0:
                start[0] = start[0] + self._projected(context).T
            given, slopes = z.split(1, 1), []

            def leaf(group: int, blocks: list[Tensor], pending: list[Tensor]) -> list[Tensor]:
                target = given[group].T  # (1, B)

                def curve(x: Tensor) -> tuple[Tensor, Tensor]:
                    value, slope, _ = _evaluated(x, blocks, pending)
                    return alpha * value + rest_of_one * x, alpha * slope + rest_of_one

                with torch.no_grad():
                    middle, reach = target - alpha * pending[-1], alpha * blocks[-1].sum()
                    low, high = (middle - reach) / rest_of_one, (middle + reach) / rest_of_one
                    x = increasing_root(curve, target, low, high, tolerance)
                if torch.is_grad_enabled():
                    value, slope = curve(x)
                    x = implicit_root(x, (target - value) / slope.detach())
                _, slope, hidden = _evaluated(x, blocks, pending)
                slopes.append(alpha * slope + rest_of_one)
                return [x, *hidden]

            rows = [[layer.n_out * i for i in range(self.dim + 1)] for layer in layers]
            columns = [[layer.n_in * i for i in range(self.dim + 1)] for layer in layers]
            [x, *_] = forward_substitution(leaf, [layer.weight() for layer in layers], rows, columns, start)
            return x.T, -torch.cat(slopes).log().sum(0)

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return vectors_of(self.dim, shape)

    @property
    def _layers(self) -> list[BlockLinear]:
        return list(self.layers)  # type: ignore[arg-type]  # a ModuleList forgets the type of its modules

    def _gate(self) -> tuple[Tensor, Tensor]:
        """alpha and 1 - alpha."""
        log_odds = BOUND * (self.gate / BOUND).tanh()
        return log_odds.sigmoid(), (-log_odds).sigmoid()

    def _projected(self, context: Tensor | None) -> Tensor:
        if context is None:
            raise ValueError(f"this network reads a context of {self.n_context} numbers; none was given")
        projected: Tensor = self.project(context.to(self.project.weight.dtype))
        return projected


def _evaluated(x: Tensor, blocks: list[Tensor], pending: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The network of one variable, its derivative, and its hidden units; x ``(1, B)``, blocks ``(n_out, n_in)``."""
    hidden: list[Tensor] = []
    value, slope = torch.addmm(pending[0], blocks[0], x), blocks[0]
    for block, p in zip(blocks[1:], pending[1:], strict=True):
        hidden.append(value.tanh())
        slope = block @ ((1 - hidden[-1].square()) * slope)
        value = torch.addmm(p, block, hidden[-1])
    return value, slope, hidden
