"""The decoder of denoising diffusion for integers."""

import torch
from torch import Generator, Tensor
from torch.special import log_ndtr

from ..distributions import Distribution, from_symmetric, standard_normal, to_symmetric

__all__ = ["DiscretizedGaussian"]


class DiscretizedGaussian(Distribution):
    r"""Normal variables on [-1, 1] rounded to the nearest of the integers 0 .. L-1; the edges take the tails.

    .. math:: P(k) = \Phi\Big(\frac{y_k + h - \mu}{\sigma}\Big) - \Phi\Big(\frac{y_k - h - \mu}{\sigma}\Big), \qquad
        y_k = \frac{2k}{L-1} - 1, \quad h = \frac1{L-1}

    with the first term 1 at k = L-1 and the second 0 at k = 0, so that the masses of an entry sum to 1. (Ho, Jain,
    Abbeel 2020, Denoising diffusion probabilistic models, arXiv:2006.11239, eq. 13.)

    Arguments:
        mean: mu, ``(B, *shape)``, on [-1, 1].
        std: sigma; only ``sample`` takes 0.
        levels: L.
    """

    def __init__(self, mean: Tensor, std: float, levels: int) -> None:
        self.centre, self.std, self.levels = mean, std, levels

    def log_prob(self, x: Tensor) -> Tensor:
        """``x``: integers 0 .. L-1, of any dtype."""
        gap = to_symmetric(x, self.levels, self.centre.dtype) - self.centre
        half = 1 / (self.levels - 1)
        above, below = (gap + half) / self.std, (gap - half) / self.std
        # Phi is accurate in its lower tail, so the interval is taken to the side where it is.
        mirrored = below + above > 0
        low, high = torch.where(mirrored, -above, below), torch.where(mirrored, -below, above)
        log_low, log_high = log_ndtr(low), log_ndtr(high)
        between = log_high + torch.log(-torch.expm1((log_low - log_high).clamp(max=-torch.finfo(low.dtype).eps)))
        log_mass = torch.where(x <= 0, log_ndtr(above), torch.where(x >= self.levels - 1, log_ndtr(-below), between))
        return log_mass.flatten(1).sum(1)

    def sample(self, generator: Generator | None = None) -> Tensor:
        return from_symmetric(
            self.centre + self.std * standard_normal(self.centre.shape, self.centre, generator), self.levels
        )

    @property
    def mean(self) -> Tensor:
        return (self.centre + 1) / 2 * (self.levels - 1)

    @property
    def median(self) -> Tensor:
        return from_symmetric(self.centre, self.levels)
