r"""Networks whose Lipschitz constant is bounded by construction, in the 2-norm.

Linear maps are divided by their spectral norm where that exceeds a coefficient c, activations have slopes of at most 1,
and the constant of a composition is at most the product of its parts' (Behrmann, Grathwohl, Chen, Duvenaud, Jacobsen
2019, Invertible residual networks, arXiv:1811.00995; Gouk, Frank, Pfahringer, Cree 2021, Regularisation of neural
networks by enforcing Lipschitz continuity, arXiv:1804.04368).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "CLipSwish",
    "LipSwish",
    "LipschitzConv2d",
    "LipschitzDenseNet",
    "LipschitzLayer",
    "LipschitzLinear",
    "WeightedConcat",
    "lipschitz_convnet",
    "lipschitz_mlp",
    "tighten",
]

TRAIN_TOLERANCE, EVAL_TOLERANCE = 1e-3, 1e-5
MAX_ITERATIONS = 1000
VECTORS = 8


class LipschitzLayer(nn.Module, ABC):
    r"""A linear map W and a bias, with the norm of the map held to a coefficient c.

    .. math:: y = \frac{W x}{\max(1, \sigma / c)} + b, \qquad
        \sigma = u^\top W v \to \max_{\|v\| = 1} \|W v\|

    with u and v from power iterations, v to W^T u and u to W v, normalized, until sigma changes by less than a relative
    1e-3 (as Chen, Behrmann, Duvenaud, Jacobsen 2019, Residual flows for invertible generative modeling,
    arXiv:1906.02735). They are part of the state, and every round starts from where the last one ended. Sigma
    approaches the norm from below, and iterations stop early when another direction has just become the longest: in
    training the norm of the map is at times a few percent above c. Evaluation needs a tighter bound. When the layer
    leaves training, and so for averaged weights too, eight vectors are iterated together, the old v and seven that are
    always the same, until the largest Ritz value of their span changes by less than 1e-5 (Rutishauser 1969,
    Computational aspects of F. L. Bauer's simultaneous iteration method). Training then goes on with the vectors it
    had.

    Subclasses are final: linear and convolution.

    Arguments:
        weight, bias: Initial values.
        shape: Of one example that the map takes.
        coefficient: c, between 0 and 1.

    Raises:
        ValueError: ``coefficient`` is out of range.
    """

    def __init__(self, weight: Tensor, bias: Tensor, shape: Sequence[int], coefficient: float) -> None:
        super().__init__()
        if not 0 < coefficient < 1:
            raise ValueError(f"a Lipschitz coefficient must lie between 0 and 1, not {coefficient}")
        self.coefficient = coefficient
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.u: Tensor
        self.v: Tensor
        v = _unit(torch.randn(1, *shape), torch.zeros(1, *shape))
        self.register_buffer("v", v)
        self.register_buffer("u", torch.zeros_like(self._map(weight, v)))
        self._of_training: tuple[Tensor, Tensor] | None = None
        self.register_load_state_dict_post_hook(_settle)
        self.tighten(TRAIN_TOLERANCE)

    @abstractmethod
    def _map(self, weight: Tensor, x: Tensor) -> Tensor:
        """W x, ``(B, *shape)`` to ``(B, *output)``."""

    @abstractmethod
    def _adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        """W^T y, ``(B, *output)`` to ``(B, *shape)``."""

    def forward(self, x: Tensor) -> Tensor:
        y = self._map(self.normalized_weight(), x)
        return y + self.bias.view(-1, *[1] * (y.dim() - 2))

    def normalized_weight(self) -> Tensor:
        """The weight of the map that is applied. Its gradient knows that sigma depends on the weight."""
        with torch.autocast(self.weight.device.type, enabled=False):
            sigma = (self.u * self._map(self.weight, self.v)).sum()
            return self.weight / (sigma / self.coefficient).clamp(min=1)

    @torch.no_grad()
    def tighten(self, tolerance: float) -> None:
        """Power iterations until sigma changes by less than ``tolerance``, relatively."""
        with torch.autocast(self.weight.device.type, enabled=False):
            u, v, before = self.u, self.v, -1.0
            for _ in range(MAX_ITERATIONS):
                u = _unit(self._map(self.weight, v), u)
                v = _unit(self._adjoint(self.weight, u), v)
                sigma = (u * self._map(self.weight, v)).sum().item()
                if abs(sigma - before) <= tolerance * sigma:
                    break
                before = sigma
        # New tensors: a graph that is still waiting for its backward pass holds the old ones.
        self.u, self.v = u, v

    @torch.no_grad()
    def settle(self) -> None:
        """Simultaneous iterations for evaluation: sigma is then within less than 1e-3 of the norm."""
        with torch.autocast(self.weight.device.type, enabled=False):
            fixed = torch.randn(VECTORS - 1, *self.v.shape[1:], generator=torch.Generator().manual_seed(0))
            block, before = torch.cat([self.v, fixed.to(self.v)]), -1.0
            for _ in range(MAX_ITERATIONS):
                basis = torch.linalg.qr(block.flatten(1).t()).Q.t().reshape(-1, *self.v.shape[1:])  # at most D rows
                images = self._map(self.weight, basis)
                turn, ritz, _ = torch.linalg.svd(images.flatten(1), full_matrices=False)
                if abs(ritz[0].item() - before) <= EVAL_TOLERANCE * ritz[0].item():
                    break
                before = ritz[0].item()
                block = self._adjoint(self.weight, images)
            self.v = torch.tensordot(turn[:, :1].t(), basis, 1)
            self.u = _unit(self._map(self.weight, self.v), self.u)

    def train(self, mode: bool = True) -> Self:
        if self.training and not mode:
            self._of_training = (self.u, self.v)
            self.settle()
        elif mode and self._of_training is not None:
            # Training goes on as if it had not been interrupted: how often is validated changes nothing.
            self.u, self.v = (vector.to(self.weight) for vector in self._of_training)
            self._of_training = None
        return super().train(mode)


class LipschitzLinear(LipschitzLayer):
    """``(B, n_in)`` to ``(B, n_out)`` with spectral norm at most about ``coefficient``."""

    def __init__(self, n_in: int, n_out: int, *, coefficient: float) -> None:
        plain = nn.Linear(n_in, n_out)
        super().__init__(plain.weight.data, plain.bias.data, (n_in,), coefficient)

    def _map(self, weight: Tensor, x: Tensor) -> Tensor:
        return x @ weight.t()

    def _adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        return y @ weight


class LipschitzConv2d(LipschitzLayer):
    """``(B, n_in, H, W)`` to ``(B, n_out, H, W)``, zero-padded, with operator norm at most about ``coefficient``.

    The norm is that of the whole map from one picture of this size to another. That of the kernel reshaped to a matrix
    is another number, as much as k times smaller for a k x k kernel (Sedghi, Gupta, Long 2019, The singular values of
    convolutional layers, arXiv:1805.10408).

    Arguments:
        shape: Of one example, ``(n_in, H, W)``.
        n_out: Number of output channels.
        kernel: Height and width k of the kernel, odd.
        coefficient: c.

    Raises:
        ValueError: ``kernel`` is even, or ``coefficient`` is out of range.
    """

    def __init__(self, shape: Sequence[int], n_out: int, *, kernel: int, coefficient: float) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"a convolution that keeps the size needs an odd kernel, not {kernel}")
        n_in, height, width = shape
        plain = nn.Conv2d(n_in, n_out, kernel)
        assert plain.bias is not None
        size = (1, 1) if kernel == 1 else (height, width)  # of a 1x1 kernel every picture's norm is one pixel's
        super().__init__(plain.weight.data, plain.bias.data, (n_in, *size), coefficient)

    def _map(self, weight: Tensor, x: Tensor) -> Tensor:
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def _adjoint(self, weight: Tensor, y: Tensor) -> Tensor:
        return functional.conv_transpose2d(y, weight, padding=weight.shape[-1] // 2)


def tighten(module: nn.Module) -> None:
    """A round of power iterations in each layer of a module, as training wants it after every step."""
    for layer in module.modules():
        if isinstance(layer, LipschitzLayer):
            layer.tighten(TRAIN_TOLERANCE)


class LipSwish(nn.Module):
    r""":math:`x\,\sigma(\beta x) / 1.1` with a learned beta > 0; its slope is at most 0.9999 in size, for every beta.

    (Chen, Behrmann, Duvenaud, Jacobsen 2019, Residual flows for invertible generative modeling, arXiv:1906.02735.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.raw_beta = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * (functional.softplus(self.raw_beta) * x).sigmoid() / 1.1


class CLipSwish(nn.Module):
    r""":math:`[s(x), s(-x)] / 1.004` with s = LipSwish, along dimension 1, which doubles.

    The norm of its derivative, :math:`\sqrt{s'(x)^2 + s'(-x)^2} / 1.004`, is at most 0.99993. (Perugachi-Diaz, Tomczak,
    Bhulai 2021, Invertible DenseNets with concatenated LipSwish, arXiv:2102.02694.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.swish = LipSwish()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.swish(x), self.swish(-x)], 1) / 1.004


class WeightedConcat(nn.Module):
    r""":math:`[\eta_1 a, \eta_2 b]` along dimension 1, with learned weights and :math:`\eta_1^2 + \eta_2^2 = 1`.

    .. math:: \mathrm{Lip} \le \sqrt{\eta_1^2 \mathrm{Lip}(a)^2 + \eta_2^2 \mathrm{Lip}(b)^2}
        \le \max(\mathrm{Lip}(a), \mathrm{Lip}(b))

    (Perugachi-Diaz, Tomczak, Bhulai 2021, section 3.3: learnable weighted concatenation.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(2))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first, second = functional.normalize(functional.softplus(self.raw), dim=0)
        return torch.cat([first * a, second * b], 1)


class LipschitzDenseNet(nn.Module):
    r"""Densely connected layers with a Lipschitz constant of at most c.

    .. math:: h_0 = x, \quad h_{l+1} = [\eta_1 h_l,\; \eta_2 \phi(W_l h_l)], \quad g(x) = W_n h_n

    with CLipSwish as :math:`\phi`, each W held to c, and weighted concatenations, so that
    :math:`\mathrm{Lip}(h_l) \le 1` for all l. (Perugachi-Diaz, Tomczak, Bhulai 2021, Invertible DenseNets with
    concatenated LipSwish, arXiv:2102.02694.)

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``; that of the output as well.
        growth: Channels that each dense layer adds, an even number: CLipSwish doubles those of the map before it.
        depth: Number n of dense layers.
        coefficient: c of every map. On images the dense layers are 3x3 and the last map is 1x1.

    Raises:
        ValueError: ``growth`` is odd or below 2, or ``coefficient`` is out of range.
    """

    def __init__(self, shape: Sequence[int], *, growth: int, depth: int, coefficient: float) -> None:
        super().__init__()
        if growth < 2 or growth % 2:
            raise ValueError(f"the growth of dense layers must be even and at least 2, not {growth}")
        n, *size = shape
        widths = [n + growth * layer for layer in range(depth + 1)]

        def layer(n_in: int, n_out: int, kernel: int) -> LipschitzLayer:
            if not size:
                return LipschitzLinear(n_in, n_out, coefficient=coefficient)
            return LipschitzConv2d((n_in, *size), n_out, kernel=kernel, coefficient=coefficient)

        self.layers = nn.ModuleList(nn.Sequential(layer(width, growth // 2, 3), CLipSwish()) for width in widths[:-1])
        self.concats = nn.ModuleList(WeightedConcat() for _ in range(depth))
        self.last = layer(widths[-1], n, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer, concat in zip(self.layers, self.concats, strict=True):
            x = concat(x, layer(x))
        return self.last(x)


def lipschitz_mlp(
    dim: int, *, hidden: int, depth: int, activation: Callable[[], nn.Module], coefficient: float
) -> nn.Sequential:
    """``(B, dim)`` to ``(B, dim)`` through ``depth`` hidden layers; its constant is at most c^(depth + 1).

    Arguments:
        activation: Makes an activation with slopes of at most 1 in size.
    """
    widths = [dim, *[hidden] * depth, dim]
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [activation(), LipschitzLinear(n_in, n_out, coefficient=coefficient)]
    return nn.Sequential(*layers[1:])


def lipschitz_convnet(
    shape: Sequence[int],
    *,
    channels: int,
    activation: Callable[[], nn.Module],
    coefficient: float,
    activation_first: bool,
) -> nn.Sequential:
    """A 3x3, a 1x1 and a 3x3 convolution, ``(B, C, H, W)`` to ``(B, C, H, W)``; its constant is at most c^3.

    Arguments:
        activation: Makes an activation with slopes of at most 1 in size.
        activation_first: Whether one stands before the first convolution too.
    """
    n, height, width = shape
    widths = [n, channels, channels, n]
    layers: list[nn.Module] = []
    for (n_in, n_out), kernel in zip(pairwise(widths), (3, 1, 3), strict=True):
        layers.append(activation())
        layers.append(LipschitzConv2d((n_in, height, width), n_out, kernel=kernel, coefficient=coefficient))
    return nn.Sequential(*layers[0 if activation_first else 1 :])


def _settle(layer: nn.Module, _: object) -> None:
    """Settle a layer in evaluation after its state was loaded: the saved vectors are those of training."""
    assert isinstance(layer, LipschitzLayer)
    if not layer.training:
        layer.settle()


def _unit(x: Tensor, otherwise: Tensor) -> Tensor:
    """x of length 1. A vector of zeros (a weight of zeros) has no direction: the one before it is kept."""
    length = x.norm()
    return torch.where(length > 0, x / length.clamp(min=torch.finfo(x.dtype).tiny), otherwise)
