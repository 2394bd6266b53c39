"""RealNVP: affine couplings; on images with checkerboard and channel masks at several scales."""

from collections.abc import Iterable, Sequence

from models.flows.base import Flow, OptimizerFactory
from models.nn.mlp import MLP
from models.nn.resnet import ResNet
from models.transforms.base import Chain, Transform
from models.transforms.coupling import AffineCoupling, alternating_mask, channel_mask, checkerboard_mask
from models.transforms.dequantize import UniformDequantization
from models.transforms.logit import Logit
from models.transforms.multiscale import MultiScale
from models.transforms.squeeze import Squeeze

__all__ = ["RealNVP"]


class RealNVP(Flow):
    """Real-valued non-volume-preserving flow.

    Dinh, Sohl-Dickstein, Bengio 2017, Density estimation using Real NVP.

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

    Raises:
        ValueError: The shape is neither a vector's nor an image's, or a number is out of range.
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
    ) -> None:
        shape = tuple(shape)
        if len(shape) == 1:
            body = _vector_transform(shape[0], couplings, hidden, depth)
        elif len(shape) == 3:
            body = _image_transform(shape, channels, blocks)
        else:
            raise ValueError(f"RealNVP takes vectors (D,) and images (C, H, W), not examples of shape {shape}")
        to_reals = [] if levels is None else [UniformDequantization(levels), Logit(alpha)]
        super().__init__(shape, levels, Chain(*to_reals, body), optimizer)


def _vector_transform(dim: int, couplings: int, hidden: int, depth: int) -> Transform:
    return Chain(
        *[
            AffineCoupling(
                alternating_mask(dim, parity=i % 2), MLP(dim, 2 * dim, hidden=hidden, depth=depth, zero_last=True)
            )
            for i in range(couplings)
        ]
    )


def _image_transform(shape: Sequence[int], channels: int, blocks: int) -> Transform:
    c, h, w = shape
    scales: list[Transform] = []
    while h % 2 == 0 and w % 2 == 0 and min(h, w) > 4:
        fine = _checkerboard_couplings(3, (c, h, w), channels, blocks)
        coarse = [
            AffineCoupling(channel_mask(4 * c, parity=i % 2), _conditioner(4 * c, channels, blocks)) for i in range(3)
        ]
        scales.append(Chain(*fine, Squeeze(), *coarse))
        c, h, w = 2 * c, h // 2, w // 2
    scales.append(Chain(*_checkerboard_couplings(4, (c, h, w), channels, blocks)))
    return MultiScale(shape, scales)


def _checkerboard_couplings(n: int, shape: tuple[int, int, int], channels: int, blocks: int) -> list[Transform]:
    c, h, w = shape
    return [AffineCoupling(checkerboard_mask(h, w, parity=i % 2), _conditioner(c, channels, blocks)) for i in range(n)]


def _conditioner(c: int, channels: int, blocks: int) -> ResNet:
    return ResNet(c, 2 * c, channels=channels, blocks=blocks, zero_last=True)
