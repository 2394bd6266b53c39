"""Glow: normalization, an invertible 1x1 convolution and an affine coupling, step after step at several scales."""

from collections.abc import Iterable, Sequence

from ..nn.convnet import ConvNet, ZeroConv
from ..transforms.actnorm import ActNorm
from ..transforms.base import Chain, Transform
from ..transforms.coupling import Coupling, MaskedCoupling, checkerboard_mask, halves, vector_coupling
from ..transforms.dequantize import UniformDequantization
from ..transforms.linear import Conv1x1, LULinear
from ..transforms.multiscale import pyramid
from ..transforms.scale import Scale
from ..transforms.squeeze import Squeeze, halvings
from ..transforms.univariate import Affine, SigmoidAffine
from .base import Flow, OptimizerFactory, at_least, class_context, is_image, to_reals

__all__ = ["Glow"]


class Glow(Flow):
    """Generative flow with invertible 1x1 convolutions.

    Kingma, Dhariwal 2018, Glow: Generative flow with invertible 1x1 convolutions, arXiv:1807.03039.

    Integer data are dequantized and shifted, x / L - 1/2; what the flow puts outside of that interval is lost, so
    likelihoods are too low rather than too high (see :class:`Scale`). With ``alpha`` they go through a logit instead,
    with which a short training comes further on images with many black pixels. A step is activation normalization, a
    linear map in LU form, and a coupling that moves the second half by a shift and a scale sigmoid(r + 2). Images go
    through scales of a squeeze and ``steps`` steps; after each but the last, half of the channels is factored out, its
    mean and scale a 3x3 convolution of the half that is kept. Vectors go through ``steps`` steps.

    There are ``scales`` scales, or as many as height and width can be halved. Images of odd height or width have one
    scale without a squeeze. If they also have a single channel, which cannot be mixed or split, a step is normalization
    and a coupling with a checkerboard mask of alternating parity.

    Differs from the released code: the last latent has no learned mean and scale, because the last step has them
    already; the log-scales of normalization are learned without a factor, those of the conditional priors are bounded
    by 5; no channel marks the borders; scales keep above 0.001; the class reaches every coupling and every prior.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        steps: Steps in each scale, the paper's K; for vectors in all.
        scales: For images: the paper's L.
        channels: For images: channels of each conditioner.
        hidden, depth: For vectors: units and hidden layers of each conditioner.
        alpha: For integer data: None, or the margin of the logit.
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
        steps: int = 32,
        scales: int = 3,
        channels: int = 512,
        hidden: int = 128,
        depth: int = 2,
        alpha: float | None = None,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        shape = tuple(shape)
        n_context = class_context(classes, conditional)
        at_least(1, steps=steps, scales=scales, channels=channels, hidden=hidden)
        at_least(0, depth=depth)
        if is_image(shape, "Glow"):
            body = _image_transform(shape, steps, scales, channels, n_context)
        else:
            body = _vector_transform(shape[0], steps, hidden, depth, n_context)
        super().__init__(shape, levels, Chain(*_to_reals(levels, alpha), body), optimizer, classes=n_context)


def _to_reals(levels: int | None, alpha: float | None) -> list[Transform]:
    if alpha is not None:
        return to_reals(levels, alpha)
    return [] if levels is None else [UniformDequantization(levels), Scale(1.0, -0.5)]


def _vector_transform(dim: int, steps: int, hidden: int, depth: int, n_context: int) -> Transform:
    kept, moved = halves(dim, parity=0)

    def step() -> list[Transform]:
        coupling = vector_coupling(kept, moved, SigmoidAffine(), hidden=hidden, depth=depth, n_context=n_context)
        return [ActNorm(dim), LULinear(dim), coupling]

    return Chain(*[part for _ in range(steps) for part in step()])


def _image_transform(shape: Sequence[int], steps: int, scales: int, channels: int, n_context: int) -> Transform:
    def step(c: int) -> list[Transform]:
        kept, moved = halves(c, parity=0)
        conditioner = ConvNet(len(kept), 2 * len(moved), channels=channels, n_context=n_context)
        return [ActNorm(c), Conv1x1(c), Coupling(kept, moved, conditioner, SigmoidAffine())]

    def checkerboard_step(h: int, w: int, parity: int) -> list[Transform]:
        conditioner = ConvNet(1, 2, channels=channels, n_context=n_context)
        return [ActNorm(1), MaskedCoupling(checkerboard_mask(h, w, parity), conditioner, SigmoidAffine())]

    def prior(n_kept: int, n_out: int) -> Transform:
        network = ZeroConv(0, 2 * n_out, n_context=n_kept + n_context)
        return Coupling([], range(n_out), network, Affine(bound=5.0))

    def squeezed(of: Sequence[int]) -> Transform:
        c, _, _ = Squeeze().output_shape(of)
        return Chain(Squeeze(), *[part for _ in range(steps) for part in step(c)])

    def unsqueezed(of: Sequence[int]) -> Transform:
        c, h, w = of
        return Chain(*[part for i in range(steps) for part in (checkerboard_step(h, w, i % 2) if c == 1 else step(c))])

    levels = [squeezed] * min(scales, halvings(shape))
    return pyramid(shape, levels or [unsqueezed], prior)
