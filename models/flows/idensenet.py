"""i-DenseNet: a residual flow whose blocks are densely connected."""

from collections.abc import Iterable, Sequence
from functools import partial

from torch import nn

from ..nn.lipschitz import LipschitzDenseNet
from ..transforms.jacobian import EXACT_DIM
from ..transforms.residual import Residual, Roulette
from .base import OptimizerFactory, at_least
from .contractive import ContractiveFlow

__all__ = ["IDenseNet"]


class IDenseNet(ContractiveFlow):
    """Invertible dense network.

    Perugachi-Diaz, Tomczak, Bhulai 2021, Invertible DenseNets with concatenated LipSwish, arXiv:2102.02694.

    Integer data are dequantized and mapped to the reals by a logit first. Vectors then go through residual blocks of
    densely connected layers; images through stacks of such blocks with a squeeze in between, while height and width are
    even, and then, flattened, through more of them. Nothing is factored out. Activations are concatenated LipSwish,
    concatenations have learned weights, and activation normalization stands before every block.

    The log-determinant is estimated as in residual flows, by Russian roulette; for few variables evaluation is exact
    (:class:`models.transforms.residual.Residual`).

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        blocks, scale_blocks: Residual blocks for vectors; for images, in each stack.
        growth, depth: Channels (or units) that each dense layer adds, an even number; dense layers of each block.
        scales: For images: number of stacks at most.
        flat_blocks: For images: blocks on the flattened image at the end.
        coefficient: Bound c on the norm of every layer, below 1.
        exact_terms, eval_terms: Terms of the power series before the roulette begins, in training and in evaluation.
        exact_dim: Largest number of variables for which evaluation is exact.
        alpha: For integer data: the logit's margin.

    Raises:
        ValueError: The shape is neither a vector's nor an image's, or a number is out of range.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        blocks: int = 8,
        scale_blocks: int = 4,
        growth: int = 32,
        depth: int = 3,
        scales: int = 3,
        flat_blocks: int = 4,
        coefficient: float = 0.98,
        exact_terms: int = 2,
        eval_terms: int = 20,
        exact_dim: int = EXACT_DIM,
        alpha: float = 1e-6,
    ) -> None:
        at_least(1, depth=depth, exact_terms=exact_terms, eval_terms=eval_terms)

        def branch(of: Sequence[int], first: bool) -> nn.Module:
            return LipschitzDenseNet(of, growth=growth, depth=depth, coefficient=coefficient)

        block = partial(
            Residual, train_series=Roulette(exact_terms), eval_series=Roulette(eval_terms), exact_dim=exact_dim
        )
        super().__init__(
            shape, levels, optimizer, branch=branch, block=block, blocks=blocks, scale_blocks=scale_blocks,
            flat_blocks=flat_blocks, scales=scales, factor_out=False, alpha=alpha,
        )  # fmt: skip
