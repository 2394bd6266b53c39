"""From the unit interval to the real line."""

import math

from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from .base import Transform

__all__ = ["Logit"]


class Logit(Transform):
    r"""Elementwise, from [0, 1] to the reals.

    .. math:: z = \operatorname{logit}(p), \quad p = \alpha + (1 - 2\alpha) y

    (Dinh, Sohl-Dickstein, Bengio 2017, Density estimation using Real NVP, arXiv:1605.08803, section 4.1: alpha = 0.05
    for colour images; Papamakarios, Pavlakou, Murray 2017, Masked autoregressive flow for density estimation,
    arXiv:1705.07057: 1e-6 for MNIST.)

    The image of [0, 1] is the interval :math:`\pm\operatorname{logit}(\alpha)`, not the whole line. ``inverse`` takes
    any real and can return y as far as :math:`\alpha / (1 - 2\alpha)` outside [0, 1]. What mass a density on z has out
    there is missing from its integral over [0, 1]; a likelihood computed through this transform is then too low,
    never too high.

    Arguments:
        alpha: Margin kept from 0 and 1, in (0, 1/2).

    Raises:
        ValueError: ``alpha`` is out of range.
    """

    inverse_kind = "closed form"

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"logit needs alpha between 0 and 1/2, not {alpha}")
        self.alpha = alpha

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        scale = 1 - 2 * self.alpha
        # log(1 - p) from 1 - x, which is exact near 1: from a rounded p it would lose half its digits there.
        log_p = (self.alpha + scale * x).log()
        log_1_p = (self.alpha + scale * (1 - x)).log()
        log_det = (math.log(scale) - log_p - log_1_p).flatten(1).sum(1)
        return log_p - log_1_p, log_det

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale = 1 - 2 * self.alpha
        log_det = (logsigmoid(z) + logsigmoid(-z) - math.log(scale)).flatten(1).sum(1)
        return (z.sigmoid() - self.alpha) / scale, log_det
