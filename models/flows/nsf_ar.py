"""Neural spline flow with autoregressive layers."""

import math
from collections.abc import Iterable

from ..transforms.actnorm import ActNorm
from ..transforms.autoregressive import autoregressive_layers
from ..transforms.base import Chain
from ..transforms.flatten import Flatten
from ..transforms.permute import with_reversals
from ..transforms.spline import RationalQuadraticSpline
from .base import Flow, OptimizerFactory, at_least, class_context, to_reals

__all__ = ["AutoregressiveNSF"]


class AutoregressiveNSF(Flow):
    r"""Neural spline flow, RQ-NSF (AR): autoregressive layers that move each variable by a rational-quadratic spline.

    .. math:: z_i = \mathrm{RQS}(x_i;\, \theta_i), \quad \theta_i = \mathrm{MADE}_i(x_1, \dots, x_{i-1})

    Durkan, Bekasov, Murray, Papamakarios 2019, Neural spline flows, arXiv:1906.04032. Likelihoods take one pass;
    samples take D small steps in each layer. Integer data are dequantized and mapped to the reals by a logit first;
    images are flattened. Activation normalization comes first, because a spline is the identity outside its box; the
    default half side of 3 is the paper's, and the box then holds 99.7 % of a standard normal variable.

    Differs from the paper: the order of the variables is reversed between layers, where it has a random permutation and
    a linear map in LU form; the networks have no skip connections, and no dropout; normalization is learned, not done
    beforehand.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        layers: Number of autoregressive layers.
        hidden, depth: Units and hidden layers of each MADE.
        activation: Of its hidden units, a name of ``models.nn.activation``. The default is that of checkpoints made
            before it could be chosen; conf/model has the recommended one.
        bins, bound: Bins of each spline and half the side of its box.
        alpha: For integer data: the logit's margin.
        classes, conditional: With ``conditional`` the flow is one of p(x|y), mixed over the data's ``classes``.

    Raises:
        ValueError: A number is out of range, no activation has this name, or the data have no classes to condition on.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        layers: int = 10,
        hidden: int = 256,
        depth: int = 2,
        activation: str = "silu",
        bins: int = 8,
        bound: float = 3.0,
        alpha: float = 1e-6,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        shape = tuple(shape)
        dim = math.prod(shape)
        n_context = class_context(classes, conditional)
        at_least(1, layers=layers)
        spline = RationalQuadraticSpline(bins, bound)
        stack = autoregressive_layers(
            dim, spline, layers=layers, hidden=hidden, depth=depth, n_context=n_context, activation=activation
        )
        parts = [*to_reals(levels, alpha), Flatten(shape), ActNorm(dim), *with_reversals(stack, dim)]
        super().__init__(shape, levels, Chain(*parts), optimizer, classes=n_context)
