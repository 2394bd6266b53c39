"""Block neural autoregressive flow."""

import math
from collections.abc import Iterable

from ..transforms.base import Chain
from ..transforms.block_autoregressive import BlockAutoregressive
from ..transforms.flatten import Flatten
from ..transforms.permute import with_reversals
from .base import Flow, OptimizerFactory, at_least, class_context, to_reals

__all__ = ["BNAF"]


class BNAF(Flow):
    """Block neural autoregressive flow: networks with block-triangular weights that are themselves the transforms, with
    the order of the variables reversed between them.

    De Cao, Titov, Aziz 2019, Block neural autoregressive flow, arXiv:1904.04676. Likelihoods take one pass; samples
    take D small steps in each layer, with a root to find in each step. Integer data are dequantized and mapped to the
    reals by a logit first; images are flattened. A hidden layer has ``units`` units for each variable and weights
    between all of them, so that the model suits tables and small images only.

    Differs from the paper: every layer, the last included, mixes its input into its output, which makes it a bijection
    of the whole space (see :class:`BlockAutoregressive`); the scales of weights are bounded.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        layers: Number of block networks.
        units, depth: Units for each variable and hidden layers of each network.
        alpha: For integer data: the logit's margin.
        classes, conditional: With ``conditional`` the flow is one of p(x|y), mixed over the data's ``classes``.

    Raises:
        ValueError: A number is out of range, or the data have no classes to condition on.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        layers: int = 5,
        units: int = 20,
        depth: int = 2,
        alpha: float = 1e-6,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        shape = tuple(shape)
        dim = math.prod(shape)
        n_context = class_context(classes, conditional)
        at_least(1, layers=layers)
        blocks = [BlockAutoregressive(dim, units=units, depth=depth, n_context=n_context) for _ in range(layers)]
        parts = [*to_reals(levels, alpha), Flatten(shape), *with_reversals(blocks, dim)]
        super().__init__(shape, levels, Chain(*parts), optimizer, classes=n_context)
