"""Affine coupling layers and the masks they use."""

import torch
from torch import Generator, Tensor, nn

from models.transforms.base import Transform

__all__ = ["AffineCoupling", "alternating_mask", "channel_mask", "checkerboard_mask"]


class AffineCoupling(Transform):
    r"""Scales and shifts one part of an example by amounts computed from the other part.

    With a mask b of ones (kept) and zeros (moved):

    .. math:: z = b x + (1 - b)\,(x\,e^{s} + t), \quad (t, r) = \mathrm{NN}(b x), \quad s = c \tanh(r / c), \quad
        \log|\det| = \sum (1 - b)\, s

    (Dinh, Sohl-Dickstein, Bengio 2017, Density estimation using Real NVP.) The soft clamp holds the log-scale s within
    :math:`\pm c` with slope 1 at 0, so that no parameters overflow the exponential; the paper learns c, here it is
    fixed. A conditioner whose last layer starts at zero makes the coupling start as the identity. A mask without ones
    is allowed: every entry is moved, by amounts that depend on nothing.

    Arguments:
        mask: Ones where x is kept and zeros where it is moved; broadcasts to one example. Not stored in checkpoints.
        conditioner: Network ``(B, C, ...) -> (B, 2 C, ...)``: shifts t, then raw log-scales r, along dimension 1.
        bound: c above, in nats for each entry.
    """

    inverse_kind = "closed form"

    def __init__(self, mask: Tensor, conditioner: nn.Module, bound: float = 2.0) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask.to(torch.get_default_dtype()), persistent=False)
        self.conditioner = conditioner
        self.bound = bound

    def forward(self, x: Tensor, *, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(x)
        return x * log_scale.exp() + shift, log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(z)
        return (z - shift) * (-log_scale).exp(), -log_scale.flatten(1).sum(1)

    def _shift_and_log_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of the shape of x, both zero where the mask is one, so that kept entries pass unchanged to the last bit."""
        moved = 1 - self.mask
        output = self.conditioner(x * self.mask).to(x.dtype)  # autocast may have made it bfloat16
        shift, raw = output.chunk(2, dim=1)
        return shift * moved, self.bound * (raw / self.bound).tanh() * moved


def alternating_mask(dim: int, parity: int) -> Tensor:
    """``(D,)`` ones at indices of the given parity (0 or 1), zeros elsewhere. A single variable is always moved."""
    if dim == 1:
        return torch.zeros(1)
    return (torch.arange(dim) % 2 == parity).float()


def checkerboard_mask(height: int, width: int, parity: int) -> Tensor:
    """``(1, H, W)`` ones where row + column has the given parity (0 or 1). A single position is always moved."""
    if height * width == 1:
        return torch.zeros(1, 1, 1)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return ((rows + columns) % 2 == parity).float()[None]


def channel_mask(channels: int, parity: int) -> Tensor:
    """``(C, 1, 1)`` ones in the first half of the channels (parity 0) or in the rest (1). A single one always moves."""
    if channels == 1:
        return torch.zeros(1, 1, 1)
    first = torch.arange(channels) < channels // 2
    return (first if parity == 0 else ~first).float()[:, None, None]
