"""NICE: additive couplings, and one learned scale for each latent variable."""

import math
from collections.abc import Iterable

from ..transforms.base import Chain, Transform
from ..transforms.coupling import alternating, vector_coupling
from ..transforms.elementwise import Elementwise
from ..transforms.flatten import Flatten
from ..transforms.univariate import Scaling, Shift
from .base import Flow, OptimizerFactory, at_least, class_context, to_reals

__all__ = ["NICE"]


class NICE(Flow):
    r"""Non-linear independent components estimation: volume-preserving couplings, then a diagonal scaling.

    .. math:: h_{moved} \leftarrow h_{moved} + m(h_{kept}), \qquad z_i = h_i\,e^{s_i}, \qquad
        \log|\det| = \sum_i s_i

    Dinh, Krueger, Bengio 2015, NICE: Non-linear independent components estimation, arXiv:1410.8516. Couplings keep the
    even variables and the odd ones in turn; images are flattened.

    Differs from the paper: integer data are mapped to the reals by a logit, so that all mass is on the levels; the
    latents are normal, as the paper has them for one of its data sets, and logistic for the others; networks are smooth
    (SiLU); no whitening of colour images.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        couplings: Number of couplings; the paper has 4, and needs 3 for every variable to depend on every other.
        hidden, depth: Units and hidden layers of the network m of each coupling.
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
        couplings: int = 4,
        hidden: int = 1000,
        depth: int = 5,
        alpha: float = 1e-6,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        shape = tuple(shape)
        dim = math.prod(shape)
        n_context = class_context(classes, conditional)
        at_least(1, couplings=couplings, hidden=hidden)
        at_least(0, depth=depth)
        parts: list[Transform] = [*to_reals(levels, alpha), Flatten(shape)]
        for i in range(couplings):
            split = alternating(dim, parity=i % 2)
            parts.append(vector_coupling(*split, Shift(), hidden=hidden, depth=depth, n_context=n_context))
        parts.append(Elementwise(Scaling(), (dim,)))
        super().__init__(shape, levels, Chain(*parts), optimizer, classes=n_context)
