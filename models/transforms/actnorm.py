"""Activation normalization: a learned scale and shift for each channel, set once from the first batch."""

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .base import Transform

__all__ = ["ActNorm"]

# Below this share of its mean (or of 1, where the mean is smaller) a channel's spread is rounding.
CONSTANT = 1e-6


class ActNorm(Transform):
    r"""A scale and a shift for each variable of vectors, or each channel of images.

    .. math:: z = x\,e^{s} + b, \quad \log|\det| = HW \sum_c s_c

    (Kingma, Dhariwal 2018, Glow: Generative flow with invertible 1x1 convolutions, arXiv:1807.03039.) The first
    training batch sets s and b so that its outputs have mean 0 and variance 1 in each channel; from then on both are
    ordinary parameters. That happens once, in the first forward pass in training mode with gradients, never in
    evaluation; that it has happened is part of the state, so that reloaded weights are left alone. Under distributed
    training the moments are those of all processes' examples together. A channel that is constant on that batch is only
    shifted.

    Glow's code multiplies s by 3 to speed its learning up; here it is as written.

    Arguments:
        n: Number of variables or channels, the size of dimension 1.
    """

    inverse_kind = "closed form"

    def __init__(self, n: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(n))
        self.bias = nn.Parameter(torch.zeros(n))
        self.initialized: Tensor
        self.register_buffer("initialized", torch.tensor(False))
        # The buffer decides. Reading it at every step would make a GPU wait, and break a compiled graph.
        self._known_initialized = False
        self.register_load_state_dict_post_hook(_forget)

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.waits_for_data:
            self.initialize(x)
        shape = (-1, *[1] * (x.dim() - 2))
        return x * self.log_scale.exp().view(shape) + self.bias.view(shape), self._log_det(x)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (z.dim() - 2))
        x = (z - self.bias.view(shape)) * (-self.log_scale).exp().view(shape)
        return x, -self._log_det(z)

    @property
    def waits_for_data(self) -> bool:
        """Whether this is training, and maybe its first batch."""
        return self.training and torch.is_grad_enabled() and not self._known_initialized

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set s and b from a batch of what is to be normalized, unless they are set already."""
        x = x.detach().to(self.bias.dtype)
        mean = _mean_over_processes(x)
        centred = x - mean.view(-1, *[1] * (x.dim() - 2))
        std = _mean_over_processes(centred.square()).sqrt()
        constant = std <= CONSTANT * mean.abs().clamp(min=1)
        scale = torch.where(constant, 1.0, 1 / std)
        self.log_scale.copy_(torch.where(self.initialized, self.log_scale, scale.log()))
        self.bias.copy_(torch.where(self.initialized, self.bias, -mean * scale))
        self.initialized.fill_(True)
        self._known_initialized = True

    def _log_det(self, x: Tensor) -> Tensor:
        return (math.prod(x.shape[2:]) * self.log_scale.sum()).expand(len(x))


def _forget(module: nn.Module, _: Any) -> None:
    """After loading the buffer has to be asked again."""
    assert isinstance(module, ActNorm)
    module._known_initialized = False


def _mean_over_processes(x: Tensor) -> Tensor:
    """``(B, C, ...)`` to the mean of each channel, ``(C,)``, over the examples of all processes."""
    total = x.transpose(0, 1).flatten(1).sum(1)
    count = total.new_tensor([x.numel() / x.shape[1]])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        together = torch.cat([total, count])
        torch.distributed.all_reduce(together)
        total, count = together.split([len(total), 1])
    return total / count
