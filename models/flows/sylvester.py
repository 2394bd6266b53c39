"""Sylvester flow, as a density of data."""

from collections.abc import Iterable

from ..transforms.base import Chain
from ..transforms.flatten import Flatten
from ..transforms.sylvester import sylvester_layers
from .base import Flow, OptimizerFactory, at_least, to_reals

__all__ = ["SylvesterFlow"]


class SylvesterFlow(Flow):
    """A chain of sylvester transforms from data to latents, the direction in which they are in closed form.

    van den Berg, Hasenclever, Tomczak, Welling 2018, Sylvester normalizing flows for variational inference,
    arXiv:1803.05649. In the paper they are a VAE's posterior (``model=vae_sylvester``); here they are the model itself.
    Integer data are dequantized and mapped to the reals by a logit first; images are flattened.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        layers: Number of transforms.
        width, reflections: Directions M of each layer, and Householder reflections that make them.
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
        layers: int = 8,
        width: int = 16,
        reflections: int = 8,
        alpha: float = 1e-6,
    ) -> None:
        shape = tuple(shape)
        at_least(1, layers=layers)
        flat = Flatten(shape)
        (dim,) = flat.output_shape(shape)
        body = sylvester_layers(dim, layers=layers, width=width, reflections=reflections)
        super().__init__(shape, levels, Chain(*to_reals(levels, alpha), flat, body), optimizer)
