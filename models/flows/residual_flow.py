"""Residual Flow: contractive residual blocks, trained on an unbiased estimate of the likelihood."""

from collections.abc import Iterable, Sequence
from functools import partial

from torch import nn

from ..nn.lipschitz import LipSwish, lipschitz_convnet, lipschitz_mlp
from ..transforms.jacobian import EXACT_DIM
from ..transforms.residual import Residual, Roulette
from .base import OptimizerFactory, at_least
from .contractive import ContractiveFlow

__all__ = ["ResidualFlow"]


class ResidualFlow(ContractiveFlow):
    """Residual flow.

    Chen, Behrmann, Duvenaud, Jacobsen 2019, Residual flows for invertible generative modeling, arXiv:1906.02735.

    Integer data are dequantized and mapped to the reals by a logit first. Vectors then go through residual blocks of
    fully connected layers; images through stacks of convolutional blocks (3x3, 1x1, 3x3) with a squeeze in between,
    while height and width are even, and then, flattened, through fully connected blocks. Nothing is factored out. All
    activations are LipSwish, and activation normalization stands before every block.

    The log-determinant's power series ends by Russian roulette, in training after its second term, in evaluation after
    the twentieth; its gradient in training is a Neumann series. For few variables evaluation is exact
    (:class:`models.transforms.residual.Residual`).

    Differs from the paper: gradients are not taken during the forward pass; norms are Euclidean everywhere.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        blocks, scale_blocks: Residual blocks for vectors; for images, in each stack.
        hidden, depth: Units and hidden layers of each fully connected block.
        channels, scales: For images: channels inside a block; number of stacks at most.
        flat_blocks: For images: fully connected blocks at the end.
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
        hidden: int = 128,
        depth: int = 3,
        channels: int = 32,
        scales: int = 3,
        flat_blocks: int = 4,
        coefficient: float = 0.98,
        exact_terms: int = 2,
        eval_terms: int = 20,
        exact_dim: int = EXACT_DIM,
        alpha: float = 1e-6,
    ) -> None:
        at_least(1, hidden=hidden, channels=channels, exact_terms=exact_terms, eval_terms=eval_terms)
        at_least(0, depth=depth)

        def branch(of: Sequence[int], first: bool) -> nn.Module:
            if len(of) == 1:
                return lipschitz_mlp(of[0], hidden=hidden, depth=depth, activation=LipSwish, coefficient=coefficient)
            return lipschitz_convnet(
                of, channels=channels, activation=LipSwish, coefficient=coefficient, activation_first=not first
            )

        block = partial(
            Residual, train_series=Roulette(exact_terms), eval_series=Roulette(eval_terms), exact_dim=exact_dim
        )
        super().__init__(
            shape, levels, optimizer, branch=branch, block=block, blocks=blocks, scale_blocks=scale_blocks,
            flat_blocks=flat_blocks, scales=scales, factor_out=False, alpha=alpha,
        )  # fmt: skip
