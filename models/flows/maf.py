"""Masked autoregressive flow."""

import math
from collections.abc import Iterable

from ..transforms.autoregressive import autoregressive_layers
from ..transforms.base import Chain
from ..transforms.flatten import Flatten
from ..transforms.permute import with_reversals
from ..transforms.univariate import Affine
from .base import Flow, OptimizerFactory, at_least, class_context, to_reals

__all__ = ["MAF"]


class MAF(Flow):
    r"""Masked autoregressive flow: affine autoregressive layers, each reading the variables in the reverse order of the
    one before.

    .. math:: z_i = x_i\, e^{s_i} + t_i, \quad (s_i, t_i) = \mathrm{MADE}_i(x_1, \dots, x_{i-1})

    Papamakarios, Pavlakou, Murray 2017, Masked autoregressive flow for density estimation, arXiv:1705.07057; their mean
    and log standard deviation of x_i are :math:`\mu_i = -t_i e^{-s_i}` and :math:`\alpha_i = -s_i`. Likelihoods take
    one pass; samples take D small steps in each layer. Integer data are dequantized and mapped to the reals by a logit
    first; images are flattened.

    Differs from the paper: no batch normalization between layers; log-scales are bounded.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        layers: Number of autoregressive layers.
        hidden, depth: Units and hidden layers of each MADE.
        activation: Of its hidden units, a name of ``models.nn.activation``. The default is that of checkpoints made
            before it could be chosen; conf/model has the recommended one.
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
        layers: int = 5,
        hidden: int = 256,
        depth: int = 2,
        activation: str = "silu",
        alpha: float = 1e-6,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        shape = tuple(shape)
        dim = math.prod(shape)
        n_context = class_context(classes, conditional)
        at_least(1, layers=layers)
        stack = autoregressive_layers(
            dim, Affine(), layers=layers, hidden=hidden, depth=depth, n_context=n_context, activation=activation
        )
        parts = [*to_reals(levels, alpha), Flatten(shape), *with_reversals(stack, dim)]
        super().__init__(shape, levels, Chain(*parts), optimizer, classes=n_context)
