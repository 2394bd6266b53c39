"""Neural autoregressive flow."""

import math
from collections.abc import Iterable

from ..transforms.autoregressive import autoregressive_layers
from ..transforms.base import Chain
from ..transforms.deep_sigmoid import DeepSigmoid
from ..transforms.flatten import Flatten
from ..transforms.permute import with_reversals
from .base import Flow, OptimizerFactory, at_least, class_context, to_reals

__all__ = ["NAF"]


class NAF(Flow):
    r"""Neural autoregressive flow: autoregressive layers that move each variable by a monotone network, with the order
    of the variables reversed between them.

    .. math:: z_i = \operatorname{logit}\Big(\sum_k w_{ik}\, \sigma(a_{ik} x_i + b_{ik})\Big), \quad
        (a_i, b_i, w_i) = \mathrm{MADE}_i(x_1, \dots, x_{i-1})

    Huang, Krueger, Lacoste, Courville 2018, Neural autoregressive flows, arXiv:1804.00779. Each layer is a bijection of
    the whole space (see :class:`DeepSigmoid`). Likelihoods take one pass; samples take D small steps in each layer,
    with a root to find in each step. Integer data are dequantized and mapped to the reals by a logit first; images are
    flattened.

    Differs from the paper: this is its deep sigmoidal flow, DSF; its dense variant, DDSF, has matrices between several
    layers of sigmoids, whose entries are mostly weights that depend on no input. Slopes are bounded.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        layers: Number of autoregressive layers.
        units: Sigmoid units of each monotone network.
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
        units: int = 16,
        hidden: int = 128,
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
            dim, DeepSigmoid(units), layers=layers, hidden=hidden, depth=depth, n_context=n_context,
            activation=activation, zero_last=False,
        )  # fmt: skip
        parts = [*to_reals(levels, alpha), Flatten(shape), *with_reversals(stack, dim)]
        super().__init__(shape, levels, Chain(*parts), optimizer, classes=n_context)
