"""The kernel layer of Gaussianization flows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .mixture_cdf import Mixture, Normal
from .univariate import Univariate

__all__ = ["NormalMixtureCDF"]


@dataclass(frozen=True)
class NormalMixtureCDF(Univariate):
    r"""The CDF of a mixture of K normals, then the quantile function of N(0, 1). P = 3K.

    .. math:: z = \Phi^{-1}\Big(\sum_k \pi_k\, \Phi\big((x - m_k) e^{-r_k}\big)\Big)

    It makes a variable that has the mixture's distribution standard normal (Meng, Song, Song, Ermon 2020,
    Gaussianization flows, arXiv:2003.01941, section 4.1). The raw parameters are, in this order, K logits of the
    weights, K means and K log-scales r, which a soft clamp :math:`c \tanh(r / c)` holds within :math:`\pm c`.

    Differs from the paper: its kernels are logistic and of equal weights. Normal ones contain the identity, and far out
    z grows like x; with logistic ones it grows like the square root of x, and through L layers like
    :math:`x^{2^{-L}}`, so that a few of the samples lie beyond all bounds.

    ``inverse`` is found by bisection and Newton's method to the last bits of x, see
    :class:`~models.transforms.logistic_mixture.LogisticMixtureCDF`.

    Components with equal parameters have equal gradients and stay equal: start them apart, as ``spread`` does.

    Attributes:
        components: K.
        bound: c above, in nats.

    Raises:
        ValueError: There is no component.
    """

    components: int
    bound: float = 4.0
    inverse_kind = "iterative"

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"a mixture needs at least one component, not {self.components}")

    @property
    def n_parameters(self) -> int:
        return 3 * self.components

    def spread(self) -> Tensor:
        """Parameters ``(P,)`` of a mixture with mean 0 and variance 1: nearly the identity, no two components alike.

        Means are half the quantiles of N(0, 1). At the quantiles themselves components would be so narrow that each
        layer takes outliers farther out.
        """
        k = self.components
        means = 0.5 * torch.special.ndtri((torch.arange(k) + 0.5) / k)
        log_scale = 0.5 * (1 - means.var(correction=0)).log()
        raw = self.bound * (log_scale / self.bound).atanh()
        return torch.cat([torch.zeros(k), means, raw.expand(k)])

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return Mixture.from_raw(parameters, Normal(), self.bound).to_kernel(x)

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return Mixture.from_raw(parameters, Normal(), self.bound).from_kernel(z)
