"""Flow++: variational dequantization, couplings by the CDF of a logistic mixture, and attention in their networks."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..nn.gated import GatedConvNet
from ..nn.mlp import MLP
from ..transforms.actnorm import ActNorm
from ..transforms.base import Chain, Transform
from ..transforms.checkerboard import CheckerboardCoupling
from ..transforms.coupling import Coupling, MaskedCoupling, alternating, checkerboard_mask, halves, vector_coupling
from ..transforms.dequantize import VariationalDequantization
from ..transforms.flatten import Flatten
from ..transforms.linear import Conv1x1
from ..transforms.logistic_mixture import LogisticMixtureCDF
from ..transforms.logit import Logit
from ..transforms.squeeze import Squeeze
from .base import Flow, OptimizerFactory, at_least, class_context, is_image

__all__ = ["FlowPP"]

# Sizes of the dequantization: couplings; blocks of each coupling's network, and of the network for the features of x.
DEQUANTIZING_COUPLINGS, DEQUANTIZING_BLOCKS, FEATURE_BLOCKS = 4, 2, 3


class FlowPP(Flow):
    """Flow++.

    Ho, Chen, Srinivas, Duan, Abbeel 2019, Flow++: Improving flow-based generative models with variational
    dequantization and architecture design, arXiv:1902.00275.

    Integer data are dequantized by noise from a flow conditioned on them, four couplings, and mapped to the reals by a
    logit. Images then go through four checkerboard couplings, a squeeze, two channel couplings and three checkerboard
    couplings, with nothing factored out; each coupling follows activation normalization and a 1x1 convolution. Images
    of odd height or width go through the seven checkerboard couplings. Vectors, which the paper does not have, go
    through couplings with alternating masks and fully connected networks.

    Differs from the paper's code: normalization has a scale and a shift for each channel, not for each entry, and with
    the 1x1 convolution is of all positions, or all channels, not of the two halves apart; colours of the checkerboard
    alternate in rows too; no dropout and no data-dependent initialization of networks. (The paper has dropout of 0.2
    and, evaluating likelihoods, 4096 draws.)

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        components: Logistics in each mixture.
        couplings, hidden, depth: For vectors: number of couplings; units and hidden layers of each network.
        channels, blocks, heads: For images: channels, blocks and attention heads (0: none) of each network.
        alpha: For integer data: the logit's margin.
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
        components: int = 32,
        couplings: int = 8,
        hidden: int = 128,
        depth: int = 2,
        channels: int = 96,
        blocks: int = 10,
        heads: int = 4,
        alpha: float = 0.05,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        shape = tuple(shape)
        n_context = class_context(classes, conditional)
        at_least(1, components=components, couplings=couplings, hidden=hidden, channels=channels, heads=heads)
        at_least(0, depth=depth, blocks=blocks)
        law = LogisticMixtureCDF(components)
        first: list[Transform] = []
        if not is_image(shape, "Flow++"):
            dim = shape[0]
            body = _vector_couplings(couplings, dim, law, hidden, depth, n_context)
            if levels is not None:
                n_features = max(1, hidden // 4)
                features: nn.Module = MLP(dim, n_features, hidden=hidden, depth=depth, n_context=n_context)
                noise = _vector_couplings(DEQUANTIZING_COUPLINGS, dim, law, hidden, depth, n_features)
                first = [VariationalDequantization(levels, Chain(*noise), features), Logit(alpha)]
        else:
            c, h, w = shape
            images = _ImageCouplings(law, channels, heads)
            body = [*images.in_order(c, h, w, blocks, n_context), Flatten(images.final_shape(c, h, w))]
            if levels is not None:
                # 96 channels make 16 features a pixel: the paper's 32 for each position of half a picture, which is
                # two pixels.
                n_features = max(1, channels // 6)
                features = GatedConvNet(
                    c, n_features, (h, w), channels=2 * n_features, blocks=FEATURE_BLOCKS, heads=0, n_context=n_context
                )
                noise = images.checkerboard(DEQUANTIZING_COUPLINGS, c, h, w, DEQUANTIZING_BLOCKS, pictures=n_features)
                first = [VariationalDequantization(levels, Chain(*noise), features), Logit(alpha)]
        super().__init__(shape, levels, Chain(*first, *body), optimizer, classes=n_context)


def _vector_couplings(
    n: int, dim: int, law: LogisticMixtureCDF, hidden: int, depth: int, n_context: int
) -> list[Transform]:
    parts: list[Transform] = []
    for i in range(n):
        split = alternating(dim, parity=i % 2)
        coupling = vector_coupling(*split, law, hidden=hidden, depth=depth, n_context=n_context, zero_last=False)
        parts += [ActNorm(dim), coupling]
    return parts


@dataclass(frozen=True)
class _ImageCouplings:
    """Couplings of images, each after normalization and a 1x1 convolution."""

    law: LogisticMixtureCDF
    channels: int
    heads: int

    def in_order(self, c: int, h: int, w: int, blocks: int, n_context: int) -> list[Transform]:
        """The couplings of the paper: ``(C, H, W)`` to ``final_shape``."""
        if h % 2 or w % 2:
            return self.checkerboard(7, c, h, w, blocks, n_context)
        return [
            *self.checkerboard(4, c, h, w, blocks, n_context),
            Squeeze(),
            *self.channelwise(2, 4 * c, h // 2, w // 2, blocks, n_context),
            *self.checkerboard(3, 4 * c, h // 2, w // 2, blocks, n_context),
        ]

    def final_shape(self, c: int, h: int, w: int) -> tuple[int, int, int]:
        return (c, h, w) if h % 2 or w % 2 else (4 * c, h // 2, w // 2)

    def checkerboard(
        self, n: int, c: int, h: int, w: int, blocks: int, n_context: int = 0, pictures: int = 0
    ) -> list[Transform]:
        """``n`` couplings with a context of vectors or of ``pictures``; where W is odd they mask whole pictures."""
        parts: list[Transform] = []
        for i in range(n):
            parts += [ActNorm(c), Conv1x1(c)]
            if w % 2 == 0:
                network = self._network(c, c, h, w // 2, blocks, n_context + 2 * pictures)
                parts.append(CheckerboardCoupling(i % 2, network, self.law))
            else:
                network = self._network(c, c, h, w, blocks, n_context + pictures)
                parts.append(MaskedCoupling(checkerboard_mask(h, w, i % 2), network, self.law))
        return parts

    def channelwise(self, n: int, c: int, h: int, w: int, blocks: int, n_context: int) -> list[Transform]:
        parts: list[Transform] = []
        for i in range(n):
            kept, moved = halves(c, i % 2)
            network = self._network(len(kept), len(moved), h, w, blocks, n_context)
            parts += [ActNorm(c), Conv1x1(c), Coupling(kept, moved, network, self.law)]
        return parts

    def _network(self, n_in: int, n_moved: int, h: int, w: int, blocks: int, n_context: int) -> GatedConvNet:
        return GatedConvNet(
            n_in, self.law.n_parameters * n_moved, (h, w),
            channels=self.channels, blocks=blocks, heads=self.heads, n_context=n_context,
        )  # fmt: skip
