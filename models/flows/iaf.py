"""Inverse autoregressive flow, as a density of data."""

import math
from collections.abc import Iterable

from ..transforms.autoregressive import autoregressive_layers
from ..transforms.base import Chain
from ..transforms.flatten import Flatten
from ..transforms.inverse import Inverse
from ..transforms.permute import with_reversals
from ..transforms.univariate import Affine
from .base import Flow, OptimizerFactory, at_least, class_context, to_reals

__all__ = ["IAF"]


class IAF(Flow):
    r"""Inverse autoregressive flow: affine layers that are autoregressive in the latents, with the order of the
    variables reversed between them.

    .. math:: x_i = z_i\, e^{s_i} + t_i, \quad (s_i, t_i) = \mathrm{MADE}_i(z_1, \dots, z_{i-1})

    Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling 2016, Improving variational inference with inverse
    autoregressive flow, arXiv:1606.04934. Samples take one pass. Likelihoods, and therefore training, take D small
    steps in each layer, with gradients through them: the reverse of MAF. In the paper it is a VAE's posterior, which
    never asks for the likelihood of a given point (``models.transforms.gate``); here it is the model itself, trained by
    maximum likelihood.

    Integer data are dequantized and mapped to the reals by a logit first; images are flattened. Differs from the paper:
    log-scales are bounded, in place of its gate.

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
        stack = [Inverse(layer) for layer in stack]
        parts = [*to_reals(levels, alpha), Flatten(shape), *with_reversals(stack, dim)]
        super().__init__(shape, levels, Chain(*parts), optimizer, classes=n_context)
