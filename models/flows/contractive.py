"""The base class of flows made of contractive residual blocks."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from torch import Generator, Tensor, nn

from ..base import ReportsCost
from ..transforms.actnorm import ActNorm
from ..transforms.base import Chain, Transform
from ..transforms.multiscale import pyramid
from ..transforms.residual import Residual
from ..transforms.squeeze import Squeeze, halvings
from .base import Flow, OptimizerFactory, at_least, is_image, to_reals

__all__ = ["Block", "Branch", "ContractiveFlow"]

Branch = Callable[[Sequence[int], bool], nn.Module]
"""Makes g for examples of a shape, told whether it is the first of the flow."""
Block = Callable[[nn.Module, int], Residual]
"""Makes x + g(x) of g and the number of entries of an example."""


class ContractiveFlow(Flow, ReportsCost):
    """A flow of blocks x + g(x), g a contraction, with an activation normalization before each and after the last.

    Integer data are dequantized and mapped to the reals by a logit first. Vectors then go through one stack of blocks.
    Images go through stacks with a squeeze in between, while height and width are even, and then, flattened, through
    one more.

    A base class: a residual flow is a subclass whose constructor says what g is and how its series is summed.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        branch, block: Make g, and of it the transform x + g(x) with its log-determinant.
        blocks, scale_blocks, flat_blocks: For vectors; for images, in each stack; and on the flattened image.
        scales: For images: number of stacks at most.
        factor_out: For images: whether half of the channels leaves after each squeeze (:class:`MultiScale`).
        alpha: For integer data: the logit's margin.

    Raises:
        ValueError: The shape is neither a vector's nor an image's.
    """

    cost_names: ClassVar[tuple[str, ...]] = ("series_terms", "nfe_sample")

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        branch: Branch,
        block: Block,
        blocks: int,
        scale_blocks: int,
        flat_blocks: int,
        scales: int,
        factor_out: bool,
        alpha: float,
    ) -> None:
        shape = tuple(shape)
        at_least(1, blocks=blocks, scale_blocks=scale_blocks, scales=scales)
        at_least(0, flat_blocks=flat_blocks)
        if is_image(shape, type(self).__name__):
            body = _scales(shape, scales, scale_blocks, branch, block, factor_out)
            if flat_blocks > 0:
                body = Chain(body, _stack(body.output_shape(shape), flat_blocks, branch, block))
        else:
            body = _stack(shape, blocks, branch, block)
        super().__init__(shape, levels, Chain(*to_reals(levels, alpha), body), optimizer)

    def cost_report(self, x: Tensor, *, generator: Generator | None = None) -> dict[str, float]:
        """Terms of the power series, the mean over the blocks; evaluations of g in sampling, their sum."""
        blocks = [part for part in self.transform.modules() if isinstance(part, Residual)]
        self.log_weight(x, generator=generator)
        terms = sum(block.terms for block in blocks) / len(blocks)
        self.sample(len(x), generator=generator)
        return {"series_terms": terms, "nfe_sample": float(sum(block.iterations for block in blocks))}


def _stack(shape: Sequence[int], blocks: int, branch: Branch, block: Block, *, first: bool = True) -> Transform:
    layers: list[Transform] = []
    for i in range(blocks):
        layers += [ActNorm(shape[0]), block(branch(shape, first and i == 0), math.prod(shape))]
    return Chain(*layers, ActNorm(shape[0]))


def _scales(
    shape: Sequence[int], scales: int, blocks: int, branch: Branch, block: Block, factor_out: bool
) -> Transform:
    """Images ``(C, H, W)`` to flat latents, through stacks with a squeeze between."""

    def stack(of: Sequence[int]) -> Transform:
        return _stack(of, blocks, branch, block, first=tuple(of) == tuple(shape))

    def squeezed(of: Sequence[int]) -> Transform:
        return Chain(stack(of), Squeeze())

    return pyramid(shape, [*[squeezed] * min(scales - 1, halvings(shape)), stack], factor_out=factor_out)
