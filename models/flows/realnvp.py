"""RealNVP: affine couplings; on images with checkerboard and channel masks at several scales."""

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import nn

from ..nn.mlp import MLP
from ..nn.resnet import ResNet
from ..transforms.base import Chain, Transform
from ..transforms.coupling import Coupling, MaskedCoupling, alternating, checkerboard_mask, halves, vector_coupling
from ..transforms.dequantize import VariationalDequantization
from ..transforms.logit import Logit
from ..transforms.multiscale import pyramid
from ..transforms.squeeze import Squeeze, halvings
from ..transforms.univariate import Affine
from .base import Flow, OptimizerFactory, at_least, class_context, is_image, to_reals

__all__ = ["RealNVP"]

# Of variational dequantization, the sizes of Flow++: couplings, residual blocks in each, features of x.
DEQUANTIZING_COUPLINGS, DEQUANTIZING_BLOCKS, DEQUANTIZING_FEATURES = 4, 2, 32


class RealNVP(Flow):
    """Real-valued non-volume-preserving flow.

    Dinh, Sohl-Dickstein, Bengio 2017, Density estimation using Real NVP, arXiv:1605.08803.

    Integer data are dequantized and mapped to the reals by a logit first. Vectors then go through couplings with
    alternating masks. Images go through scales, while height and width are even and above 4: three checkerboard
    couplings, a squeeze, three channel couplings, half of the channels factored out. The last scale is four
    checkerboard couplings.

    Differs from the paper: conditioners are normalized within each example, without batch and weight normalization;
    no batch normalization between couplings; the bound on log-scales is fixed; all scales have the same width.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        couplings, hidden, depth: For vectors: number of couplings; units and hidden layers of each conditioner.
        channels, blocks: For images: channels and residual blocks of each conditioner.
        alpha: For integer data: the logit's margin. 1e-6 suits MNIST; the paper has 0.05 for colour images.
        dequantization: For integer data: "uniform" noise as in the paper, or "variational": noise from four couplings
            that see features of x (Ho, Chen, Srinivas, Duan, Abbeel 2019, Flow++, arXiv:1902.00275).
        classes, conditional: With ``conditional`` the flow is one of p(x|y), mixed over the data's ``classes``.

    Raises:
        ValueError: The shape is neither a vector's nor an image's, a number is out of range, or the data have no
            classes to condition on.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        couplings: int = 8,
        hidden: int = 128,
        depth: int = 2,
        channels: int = 64,
        blocks: int = 8,
        alpha: float = 1e-6,
        dequantization: Literal["uniform", "variational"] = "uniform",
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        shape = tuple(shape)
        n_context = class_context(classes, conditional)
        at_least(1, couplings=couplings, hidden=hidden, channels=channels)
        at_least(0, depth=depth, blocks=blocks)
        if is_image(shape, "RealNVP"):
            body = _image_transform(shape, channels, blocks, n_context)
        else:
            body = _vector_transform(shape[0], couplings, hidden, depth, n_context)
        if dequantization not in ("uniform", "variational"):
            raise ValueError(f"dequantization is uniform or variational, not {dequantization}")
        first = to_reals(levels, alpha)
        if levels is not None and dequantization == "variational":
            width = hidden if len(shape) == 1 else channels
            first = [_variational_dequantization(shape, levels, width, n_context), Logit(alpha)]
        super().__init__(shape, levels, Chain(*first, body), optimizer, classes=n_context)


def _variational_dequantization(
    shape: Sequence[int], levels: int, width: int, n_context: int
) -> VariationalDequantization:
    flow: Transform
    n_features = DEQUANTIZING_FEATURES
    if len(shape) == 1:
        features: nn.Module = MLP(shape[0], n_features, hidden=width, depth=2, n_context=n_context)
        flow = _vector_transform(shape[0], DEQUANTIZING_COUPLINGS, width, 2, n_features)
    else:
        features = ResNet(shape[0], n_features, channels=width, blocks=DEQUANTIZING_BLOCKS, n_context=n_context)
        c, h, w = shape
        flow = Chain(*_checkerboard(DEQUANTIZING_COUPLINGS, c, h, w, width, DEQUANTIZING_BLOCKS, n_features))
    return VariationalDequantization(levels, flow, features)


def _vector_transform(dim: int, couplings: int, hidden: int, depth: int, n_context: int) -> Transform:
    splits = [alternating(dim, parity=i % 2) for i in range(couplings)]
    return Chain(
        *[vector_coupling(*split, Affine(), hidden=hidden, depth=depth, n_context=n_context) for split in splits]
    )


def _image_transform(shape: Sequence[int], channels: int, blocks: int, n_context: int) -> Transform:
    network = (channels, blocks, n_context)

    def scale(of: Sequence[int]) -> Transform:
        c, h, w = of
        return Chain(*_checkerboard(3, c, h, w, *network), Squeeze(), *_channelwise(3, 4 * c, *network))

    def last(of: Sequence[int]) -> Transform:
        c, h, w = of
        return Chain(*_checkerboard(4, c, h, w, *network))

    return pyramid(shape, [*[scale] * halvings(shape, above=4), last])


def _checkerboard(n: int, c: int, h: int, w: int, channels: int, blocks: int, n_context: int) -> list[Transform]:
    masks = [checkerboard_mask(h, w, parity=i % 2) for i in range(n)]
    return [MaskedCoupling(mask, _conditioner(c, c, channels, blocks, n_context), Affine()) for mask in masks]


def _channelwise(n: int, c: int, channels: int, blocks: int, n_context: int) -> list[Transform]:
    splits = [halves(c, parity=i % 2) for i in range(n)]
    return [
        Coupling(kept, moved, _conditioner(len(kept), len(moved), channels, blocks, n_context), Affine())
        for kept, moved in splits
    ]


def _conditioner(n_in: int, n_out: int, channels: int, blocks: int, n_context: int) -> ResNet:
    return ResNet(n_in, 2 * n_out, channels=channels, blocks=blocks, n_context=n_context, zero_last=True)
