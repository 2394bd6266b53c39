"""A flow with independent entries: each has a density of its own, and no dependence is modelled."""

import math
from collections.abc import Iterable

from ..transforms.actnorm import ActNorm
from ..transforms.base import Chain
from ..transforms.elementwise import Elementwise
from ..transforms.flatten import Flatten
from ..transforms.spline import RationalQuadraticSpline
from .base import Flow, OptimizerFactory, to_reals

__all__ = ["ElementwiseFlow"]


class ElementwiseFlow(Flow):
    r"""Each entry is normalized, then moved by a monotone spline of its own.

    .. math:: p(x) = \prod_i N(g_i(x_i); 0, 1)\, g_i'(x_i)

    The best mean log-likelihood of a product of marginals is minus the sum of the entries' entropies. The nats by which
    another flow exceeds it are what that flow gains by modelling dependence: the total correlation, if the flow is
    perfect. Splines: Durkan, Bekasov, Murray, Papamakarios 2019, Neural spline flows, arXiv:1906.04032.

    The first training batch normalizes the data to mean 0 and standard deviation 1, so ``bound`` counts standard
    deviations. Beyond it the density falls like that of a normal.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        bins, bound: Bins of each spline and half the side of its box.
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
        bins: int = 16,
        bound: float = 5.0,
        alpha: float = 1e-6,
    ) -> None:
        shape = tuple(shape)
        dim = math.prod(shape)
        spline = Elementwise(RationalQuadraticSpline(bins, bound), (dim,))
        transform = Chain(*to_reals(levels, alpha), Flatten(shape), ActNorm(dim), spline)
        super().__init__(shape, levels, transform, optimizer)
