"""Gaussianization flow: kernel layers that make every variable normal by itself, with learned rotations in between."""

import math
from collections.abc import Iterable

import torch

from ..transforms.actnorm import ActNorm
from ..transforms.base import Chain, Transform
from ..transforms.elementwise import Elementwise
from ..transforms.flatten import Flatten
from ..transforms.normal_mixture import NormalMixtureCDF
from ..transforms.rotation import Rotation
from .base import Flow, OptimizerFactory, at_least, to_reals

__all__ = ["Gaussianization"]


class Gaussianization(Flow):
    r"""Gaussianization flow.

    .. math:: f = \Psi_L \circ Q_{L-1} \circ \Psi_{L-1} \circ \cdots \circ Q_1 \circ \Psi_1

    Meng, Song, Song, Ermon 2020, Gaussianization flows, arXiv:2003.01941. A kernel layer :math:`\Psi` takes every
    variable through the CDF of a mixture of its own and the quantile function of N(0, 1) (:class:`NormalMixtureCDF`); a
    rotation Q shows the next layer other directions. Every layer is a bijection of the whole space, far in the tails
    too. Images are flattened; integer data are dequantized and mapped to the reals by a logit first.

    Differs from the paper: kernels are normal and have learned weights; they start near the identity, on data
    standardized by activation normalization, not at examples; images have no rotations of a special kind; no rotation
    follows the last kernel layer, where it would change nothing.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        layers: L.
        components: Kernels of each variable in each layer.
        reflections: Householder reflections of each rotation, D at most.
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
        layers: int = 5,
        components: int = 16,
        reflections: int = 64,
        alpha: float = 1e-6,
    ) -> None:
        shape = tuple(shape)
        dim = math.prod(shape)
        at_least(1, layers=layers)
        parts: list[Transform] = [*to_reals(levels, alpha), Flatten(shape), ActNorm(dim)]
        for i in range(layers):
            parts += [Rotation(dim, min(reflections, dim))] * (i > 0) + [_kernel_layer(dim, components)]
        super().__init__(shape, levels, Chain(*parts), optimizer)


def _kernel_layer(dim: int, components: int) -> Elementwise:
    law = NormalMixtureCDF(components)
    layer = Elementwise(law, (dim,))
    with torch.no_grad():
        layer.raw.copy_(law.spread()[:, None])
    return layer
