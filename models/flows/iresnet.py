"""i-ResNet: contractive residual blocks, trained on a truncated power series."""

from collections.abc import Iterable, Sequence
from functools import partial

from torch import nn

from ..nn.lipschitz import lipschitz_convnet, lipschitz_mlp
from ..transforms.jacobian import EXACT_DIM
from ..transforms.residual import Residual, Roulette, Truncated
from .base import OptimizerFactory, at_least
from .contractive import ContractiveFlow

__all__ = ["IResNet"]


class IResNet(ContractiveFlow):
    """Invertible residual network.

    Behrmann, Grathwohl, Chen, Duvenaud, Jacobsen 2019, Invertible residual networks, arXiv:1811.00995.

    Integer data are dequantized and mapped to the reals by a logit first. Vectors then go through residual blocks of
    fully connected layers; images through stacks of convolutional blocks (3x3, 1x1, 3x3) with a squeeze and half of the
    channels factored out in between, while height and width are even. All activations are ELU, and activation
    normalization stands before every block.

    Training truncates the power series of the log-determinant. Evaluation has no bias, and is exact for few variables
    (:class:`models.transforms.residual.Residual`).

    Differs from the paper: the paper truncates the series in evaluation too; the gradient is that of the Neumann
    series; spectral norms are those of the convolutions themselves; no channels are added by zero padding.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        blocks, scale_blocks: Residual blocks for vectors; for images, in each stack.
        hidden, depth: For vectors: units and hidden layers of each block.
        channels, scales: For images: channels inside a block; number of stacks at most.
        coefficient: Bound c on the norm of every layer, below 1.
        series_terms: Terms of the power series in training.
        eval_terms: Terms in evaluation before the roulette begins.
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
        coefficient: float = 0.9,
        series_terms: int = 5,
        eval_terms: int = 20,
        exact_dim: int = EXACT_DIM,
        alpha: float = 1e-6,
    ) -> None:
        at_least(1, hidden=hidden, channels=channels, series_terms=series_terms, eval_terms=eval_terms)
        at_least(0, depth=depth)

        def branch(of: Sequence[int], first: bool) -> nn.Module:
            if len(of) == 1:
                return lipschitz_mlp(of[0], hidden=hidden, depth=depth, activation=nn.ELU, coefficient=coefficient)
            return lipschitz_convnet(
                of, channels=channels, activation=nn.ELU, coefficient=coefficient, activation_first=not first
            )

        block = partial(
            Residual,
            train_series=Truncated(series_terms),
            eval_series=Roulette(eval_terms),
            exact_dim=exact_dim,
        )
        super().__init__(
            shape, levels, optimizer, branch=branch, block=block, blocks=blocks, scale_blocks=scale_blocks,
            flat_blocks=0, scales=scales, factor_out=True, alpha=alpha,
        )  # fmt: skip
