"""TarFlow: a stack of causal transformers over the patches of an image, in alternating directions."""

from collections.abc import Iterable

from ..nn.causal_transformer import CausalTransformer
from ..transforms.base import Chain, Transform
from ..transforms.dequantize import UniformDequantization
from ..transforms.flatten import Flatten
from ..transforms.permute import with_reversals
from ..transforms.scale import Scale
from ..transforms.sequence import Patches, TokenAutoregressive
from ..transforms.univariate import Affine
from .base import Flow, OptimizerFactory, at_least, class_context, is_image

__all__ = ["TarFlow"]


class TarFlow(Flow):
    r"""Transformer autoregressive flow.

    .. math:: z_i = x_i \odot e^{s_i} + t_i, \quad (s_i, t_i) = \mathrm{Transformer}_i(x_0, \dots, x_{i-1})

    Zhai, Zhang, Nakkiran, Berthelot, Gu, Zheng, Chen, Bautista, Jaitly, Susskind 2024, Normalizing flows are capable
    generative models, arXiv:2412.06329; their mean and log-scale of :math:`x_i` are :math:`\mu_i = -t_i e^{-s_i}` and
    :math:`\alpha_i = -s_i`.

    An image is a sequence of patches, read row after row by the first block, backwards by the second, and so on; the
    entries of a patch are moved all at once. Vectors are sequences of groups of entries. Integer data are dequantized
    by uniform noise, as the paper does for likelihoods, and scaled to [-1, 1]; what the flow puts outside of that is
    lost, so likelihoods are too low rather than too high (see :class:`Scale`). Likelihoods take one pass. Samples take
    one step for each patch and block; keys and values are kept, so that all steps together have the arithmetic of one
    pass.

    Differs from the paper: the first patch of each block is scaled and shifted too, by learned constants (or by the
    class), so that a single token is moved as well; log-scales are bounded, and the transformer's output is normalized;
    no Gaussian noise is added in training (it makes samples look better and the likelihood of the data worse), so that
    nothing is denoised; there is no guidance.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        patch: Height and width of the patches of images; where it does not divide the image's, the greatest smaller
            divisor takes its place.
        group: Entries in each token of vectors; or the greatest divisor below.
        blocks: Autoregressive transforms.
        layers, channels, heads: Of the transformer in each block.
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
        patch: int = 4,
        group: int = 1,
        blocks: int = 4,
        layers: int = 2,
        channels: int = 64,
        heads: int = 4,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        shape = tuple(shape)
        n_context = class_context(classes, conditional)
        at_least(1, patch=patch, group=group, blocks=blocks, layers=layers)
        if is_image(shape, "TarFlow"):
            patches = Patches(shape, (_divisor(shape[1], patch), _divisor(shape[2], patch)))
        else:
            patches = Patches(shape, (1, _divisor(shape[0], group)))
        tokens, size = patches.output_shape(shape)
        law = Affine()
        parts: list[Transform] = [] if levels is None else [UniformDequantization(levels), Scale(2.0, -1.0)]

        def block() -> Transform:
            network = CausalTransformer(
                size, law.n_parameters * size, tokens,
                channels=channels, layers=layers, heads=heads, n_context=n_context,
            )  # fmt: skip
            return TokenAutoregressive(network, law)

        parts += [patches, *with_reversals([block() for _ in range(blocks)], tokens), Flatten((tokens, size))]
        super().__init__(shape, levels, Chain(*parts), optimizer, classes=n_context)


def _divisor(n: int, most: int) -> int:
    """The greatest divisor of n up to ``most``."""
    return max(d for d in range(1, min(n, most) + 1) if n % d == 0)
