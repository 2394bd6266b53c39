"""Radial flow, as a density of data."""

from collections.abc import Iterable

from ..transforms.base import Chain
from ..transforms.flatten import Flatten
from ..transforms.radial import radial_layers
from .base import Flow, OptimizerFactory, at_least, to_reals

__all__ = ["RadialFlow"]


class RadialFlow(Flow):
    """A chain of radial transforms from data to latents, the direction in which they are in closed form.

    Rezende, Mohamed 2015, Variational inference with normalizing flows, arXiv:1505.05770.
    In the paper they are a VAE's posterior (``model=vae_radial``); here they are the model itself. Integer data are
    dequantized and mapped to the reals by a logit first; images are flattened.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        layers: Number of transforms.
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
        layers: int = 16,
        alpha: float = 1e-6,
    ) -> None:
        shape = tuple(shape)
        at_least(1, layers=layers)
        flat = Flatten(shape)
        (dim,) = flat.output_shape(shape)
        body = radial_layers(dim, layers=layers)
        super().__init__(shape, levels, Chain(*to_reals(levels, alpha), flat, body), optimizer)
