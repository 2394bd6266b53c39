"""The multi-scale architecture: half of the channels leaves after each level."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from models.base import Relation
from models.transforms.base import Transform, weakest_inverse, weakest_relation

__all__ = ["MultiScale"]


class MultiScale(Transform):
    r"""Transforms of images in levels, to one flat vector: ``(C, H, W) -> (D,)``.

    After each level but the last, the second half of the channels is factored out as latent and the first half (rounded
    down) goes on to the next level. The last level's output is latent altogether. The parts, flattened, stand one after
    another in the latent vector, the finest first: nothing is lost, and the log-det is the sum over levels.
    (Dinh, Sohl-Dickstein, Bengio 2017, Density estimation using Real NVP, section 3.6.)

    Arguments:
        shape: Of one example, ``(C, H, W)``.
        levels: At least one transform; all but the last leave at least two channels.
    """

    def __init__(self, shape: Sequence[int], levels: Sequence[Transform]) -> None:
        super().__init__()
        if not levels:
            raise ValueError("MultiScale needs at least one level")
        self.shape = tuple(shape)
        self.levels = nn.ModuleList(levels)
        self.inverse_kind = weakest_inverse(levels)
        self._relation = weakest_relation(levels)
        self.kept_shapes: list[tuple[int, ...]] = []  # what goes on after each level but the last
        self.latent_shapes: list[tuple[int, ...]] = []  # what leaves after each level
        for level in levels[:-1]:
            channels, *rest = level.output_shape(shape)
            if channels < 2:
                raise ValueError(f"no half of {channels} channel can be factored out")
            shape = (channels // 2, *rest)
            self.kept_shapes.append(shape)
            self.latent_shapes.append((channels - channels // 2, *rest))
        self.latent_shapes.append(levels[-1].output_shape(shape))

    def forward(
        self, x: Tensor, *, context: Tensor | None = None, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        *finer, last = self.levels
        latents: list[Tensor] = []
        log_terms: list[Tensor] = []
        for level, kept in zip(finer, self.kept_shapes, strict=True):
            z, log_term = level(x, context=context, generator=generator)
            x = z[:, : kept[0]]
            latents.append(z[:, kept[0] :].flatten(1))
            log_terms.append(log_term)
        z, log_term = last(x, context=context, generator=generator)
        return torch.cat([*latents, z.flatten(1)], 1), sum(log_terms, start=log_term)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        levels: list[Transform] = list(self.levels)  # type: ignore[arg-type]  # a ModuleList forgets the type
        sizes = [math.prod(shape) for shape in self.latent_shapes]
        latents = [
            part.unflatten(1, shape) for part, shape in zip(z.split(sizes, dim=1), self.latent_shapes, strict=True)
        ]
        x, log_det = levels[-1].inverse(latents[-1], context=context)
        for level, latent in zip(reversed(levels[:-1]), reversed(latents[:-1]), strict=True):
            x, term = level.inverse(torch.cat([x, latent], 1), context=context)
            log_det = log_det + term
        return x, log_det

    @property
    def relation(self) -> Relation:
        return self._relation

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        if tuple(shape) != self.shape:
            raise ValueError(f"made for examples of shape {self.shape}, not {tuple(shape)}")
        return (math.prod(self.shape),)
