"""Inverses that leave float32: which layer they leave it at, how far they go, and the same again in float64."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from .base import Chain, Transform
from .multiscale import MultiScale

__all__ = ["Extent", "decode_in_float64", "layers_of"]

LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Extent:
    """The largest entries of an inverse, computed in float64.

    Attributes:
        layers: Class of each layer, from the data to the latents.
        sizes: Largest absolute entry that each layer's inverse returned, in the same order; NaN counts as infinite.
    """

    layers: tuple[str, ...]
    sizes: tuple[float, ...]

    def __str__(self) -> str:
        n = len(self.layers)
        beyond = [place for place in range(n) if self.sizes[place] > LARGEST]
        place = max(beyond, default=max(range(n), key=self.sizes.__getitem__))  # the inverse begins at the latents
        what = f"layer {place + 1} of {n} from the data, {self.layers[place]}, where entries reach "
        size = self.sizes[place]
        return what + (f"{size:.2g}" if size <= torch.finfo(torch.float64).max else "more than float64 holds")


def layers_of(transform: Transform) -> Iterator[Transform]:
    """The transforms that a flow is composed of, from the data to the latents: those of chains and of levels, too."""
    if isinstance(transform, Chain):
        for part in transform.transforms:
            yield from layers_of(part)
    elif isinstance(transform, MultiScale):
        levels: list[Transform] = list(transform.levels)  # type: ignore[arg-type]  # a ModuleList forgets the type
        priors: list[Transform] = list(transform.priors)  # type: ignore[arg-type]
        for level, prior in zip_longest(levels, priors):
            yield from layers_of(level)
            if prior is not None:
                yield from layers_of(prior)
    else:
        yield transform


@torch.no_grad()
def decode_in_float64(transform: Transform, z: Tensor, context: Tensor | None) -> tuple[Tensor, Extent]:
    """``transform.decode`` of a copy in float64, and how large entries become on the way. The transform stays as it is.

    Arguments:
        z: Latents ``(B, D)``, B >= 1.
        context: As for ``decode``.
    """
    exact = copy.deepcopy(transform).double()
    layers = list(layers_of(exact))
    sizes = [0.0] * len(layers)

    def recorded(place: int, decode: Any, *given: Any, **named: Any) -> Tensor:
        x: Tensor = decode(*given, **named)
        sizes[place] = max(sizes[place], float(x.abs().nan_to_num(torch.inf, torch.inf).max()))
        return x

    for place, layer in enumerate(layers):  # of the copy, which nobody else has
        object.__setattr__(layer, "decode", partial(recorded, place, layer.decode))
    x = exact.decode(z.double(), context=None if context is None else context.double())
    return x, Extent(tuple(type(layer).__name__ for layer in layers), tuple(sizes))
