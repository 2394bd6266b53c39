"""The multi-scale architecture: half of the channels leaves after each level."""

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest

import torch
from torch import Generator, Tensor, nn

from ..base import Relation
from ..nn.context import as_pictures
from .base import Chain, Transform, only_shape, weakest_inverse, weakest_relation

__all__ = ["Level", "MultiScale", "Prior", "pyramid"]

Level = Callable[[Sequence[int]], Transform]
"""Makes a level for images of a shape ``(C, H, W)``."""
Prior = Callable[[int, int], Transform]
"""Makes the transform of what is factored out, from the numbers of channels that are kept and that leave."""


class MultiScale(Transform):
    r"""Transforms of images in levels, to one flat vector: ``(C, H, W) -> (D,)``.

    After each level but the last, the second half of the channels is factored out as latent and the first half (rounded
    down) goes on to the next level. The last level's output is latent altogether. The parts, flattened, stand one after
    another in the latent vector, the finest first: nothing is lost, and the log-det is the sum over levels.
    (Dinh, Sohl-Dickstein, Bengio 2017, Density estimation using Real NVP, arXiv:1605.08803, section 3.6.)

    With ``priors``, what is factored out goes through one more transform, whose context is what is kept:

    .. math:: z_{out} = g(x_{out};\, x_{kept}, c)

    If that is affine and z standard normal, x_out given x_kept is normal with a mean and a scale that depend on x_kept
    (the learned prior in the code of Kingma, Dhariwal 2018, Glow: Generative flow with invertible 1x1 convolutions,
    arXiv:1807.03039).

    Arguments:
        shape: Of one example, ``(C, H, W)``.
        levels: At least one transform; all but the last leave at least two channels.
        priors: None, or for each level but the last a transform that keeps the shape of its second half. Its context
            has the channels of the first half, then those of the context of all, as pictures.

    Raises:
        ValueError: There is no level, a level leaves a single channel, or the number of priors is wrong.
    """

    def __init__(self, shape: Sequence[int], levels: Sequence[Transform], priors: Sequence[Transform] = ()) -> None:
        super().__init__()
        if not levels:
            raise ValueError("MultiScale needs at least one level")
        if priors and len(priors) != len(levels) - 1:
            raise ValueError(f"{len(levels)} levels have {len(levels) - 1} priors, not {len(priors)}")
        self.shape = tuple(shape)
        self.levels = nn.ModuleList(levels)
        self.priors = nn.ModuleList(priors)
        self.inverse_kind = weakest_inverse([*levels, *priors])
        self._relation = weakest_relation([*levels, *priors])
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
        for level, kept, prior in zip_longest(finer, self.kept_shapes, self.priors):
            z, log_term = level(x, context=context, generator=generator)
            log_terms.append(log_term)
            x, latent = z[:, : kept[0]], z[:, kept[0] :]
            if prior is not None:
                latent, log_term = prior(latent, context=_joined(x, context), generator=generator)
                log_terms.append(log_term)
            latents.append(latent.flatten(1))
        z, log_term = last(x, context=context, generator=generator)
        return torch.cat([*latents, z.flatten(1)], 1), sum(log_terms, start=log_term)

    def inverse(self, z: Tensor, *, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        (last, latent, _), *finer = self._coarsest_first(z)
        x, log_det = last.inverse(latent, context=context)
        for level, latent, prior in finer:
            if prior is not None:
                latent, term = prior.inverse(latent, context=_joined(x, context))
                log_det = log_det + term
            x, term = level.inverse(torch.cat([x, latent], 1), context=context)
            log_det = log_det + term
        return x, log_det

    def decode(self, z: Tensor, *, context: Tensor | None = None) -> Tensor:
        (last, latent, _), *finer = self._coarsest_first(z)
        x = last.decode(latent, context=context)
        for level, latent, prior in finer:
            if prior is not None:
                latent = prior.decode(latent, context=_joined(x, context))
            x = level.decode(torch.cat([x, latent], 1), context=context)
        return x

    def _coarsest_first(self, z: Tensor) -> list[tuple[Transform, Tensor, Transform | None]]:
        """Each level with the latents that left after it and its prior, the last level first."""
        sizes = [math.prod(shape) for shape in self.latent_shapes]
        parts = zip(z.split(sizes, dim=1), self.latent_shapes, strict=True)
        latents = [part.unflatten(1, shape) for part, shape in parts]
        levels: list[Transform] = list(self.levels)  # type: ignore[arg-type]  # a ModuleList forgets the type
        priors: list[Transform] = list(self.priors)  # type: ignore[arg-type]
        return list(zip_longest(levels, latents, priors))[::-1]

    @property
    def relation(self) -> Relation:
        return self._relation

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        only_shape(self.shape, shape)
        return (math.prod(self.shape),)


def pyramid(
    shape: Sequence[int], levels: Sequence[Level], prior: Prior | None = None, *, factor_out: bool = True
) -> MultiScale:
    """The multi-scale architecture with each level made for the images that the level before leaves.

    Arguments:
        shape: Of one example, ``(C, H, W)``.
        levels: At least one; all but the last usually squeeze.
        prior: Makes the priors of :class:`MultiScale`; None: there are none.
        factor_out: Whether half of the channels leaves after each level but the last; if not, the levels follow one
            another as a single level.

    Raises:
        ValueError: There is no level, or no half of a single channel can be factored out.
    """
    current = tuple(shape)
    made: list[Transform] = []
    priors: list[Transform] = []
    for number, level in enumerate(levels):
        if number > 0:
            channels, *size = made[-1].output_shape(current)
            kept = channels // 2 if factor_out else channels
            if kept == 0:
                raise ValueError("no half of 1 channel can be factored out")
            if prior is not None:
                priors.append(prior(kept, channels - kept))
            current = (kept, *size)
        made.append(level(current))
    return MultiScale(shape, made if factor_out else [Chain(*made)], priors)


def _joined(kept: Tensor, context: Tensor | None) -> Tensor:
    """The context of a prior, ``(B, C + K, H, W)``."""
    if context is None:
        return kept
    return torch.cat([kept, as_pictures(context, kept).expand(-1, -1, *kept.shape[2:])], 1)
