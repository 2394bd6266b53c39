"""The linear flow: a normal with any mean and covariance, by gradient descent."""

import math
from collections.abc import Iterable

from ..transforms.actnorm import ActNorm
from ..transforms.base import Chain, Transform
from ..transforms.flatten import Flatten
from ..transforms.linear import FullLinear, LULinear
from .base import Flow, OptimizerFactory, to_reals

__all__ = ["LinearFlow"]


class LinearFlow(Flow):
    r"""One linear map: :math:`z = A x + b`, hence :math:`x \sim N(-A^{-1} b,\, (A^\top A)^{-1})`.

    A baseline for deeper flows. Its best likelihood is known, that of the sample's mean and covariance, so that it
    tests an optimizer as well. A is the product of a matrix W and a diagonal matrix that the first batch sets, so that
    W starts from variables of mean 0 and variance 1. W is full or in LU form (Kingma, Dhariwal 2018, Glow: Generative
    flow with invertible 1x1 convolutions, arXiv:1807.03039, for both). Integer data are dequantized and mapped to the
    reals by a logit first; images are flattened.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        lu: Whether W is learned in the form of its LU decomposition, whose log-det costs O(D), or entry by entry, with
            a factorization of :math:`O(D^3)` at every step.
        alpha: For integer data: the logit's margin.

    Raises:
        ValueError: ``alpha`` is out of range.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        lu: bool = False,
        alpha: float = 1e-6,
    ) -> None:
        shape = tuple(shape)
        dim = math.prod(shape)
        linear: Transform = LULinear(dim) if lu else FullLinear(dim)
        transform = Chain(*to_reals(levels, alpha), Flatten(shape), ActNorm(dim), linear)
        super().__init__(shape, levels, transform, optimizer)
