"""Neural spline flow with couplings: what is moved goes through a rational-quadratic spline."""

from collections.abc import Iterable, Sequence

from ..nn.resnet import ResNet
from ..transforms.actnorm import ActNorm
from ..transforms.base import Chain, Transform
from ..transforms.coupling import Coupling, MaskedCoupling, alternating, checkerboard_mask, halves, vector_coupling
from ..transforms.linear import Conv1x1, LULinear
from ..transforms.multiscale import pyramid
from ..transforms.spline import RationalQuadraticSpline
from ..transforms.squeeze import Squeeze, halvings
from .base import Flow, OptimizerFactory, at_least, class_context, is_image, to_reals

__all__ = ["NSF"]


class NSF(Flow):
    """Neural spline flow, RQ-NSF (C).

    Durkan, Bekasov, Murray, Papamakarios 2019, Neural spline flows, arXiv:1906.04032.

    Integer data are dequantized and mapped to the reals by a logit first. Vectors are normalized (activation
    normalization), then go through ``couplings`` steps of a linear map in LU form and a coupling with an alternating
    mask, and a last linear map. Images go through scales of a squeeze, ``steps`` steps and a last 1x1 convolution; a
    step is activation normalization, a 1x1 convolution, and a coupling that moves the second half of the channels;
    half of the channels leaves after each scale but the last.

    There are ``scales`` scales, or as many as height and width can be halved. Images of odd height or width have one
    scale without a squeeze. If they also have a single channel, which cannot be mixed or split, a step is normalization
    and a coupling with a checkerboard mask of alternating parity.

    A spline is the identity outside its box. The default half side of 3 is the paper's; the box then holds 99.7 % of a
    standard normal variable. Normalization brings the data, logits included, to that scale, and training the latents.

    Differs from the paper: normalization of vectors is learned, not done beforehand; images get a logit, so that all
    mass is on the levels (the paper's code has x / L - 1/2, which leaks); conditioners have no dropout and no batch
    normalization, for vectors no skip connections. In its code a coupling of vectors also moves the half that is kept,
    by splines independent of anything. Its code has no half leave early on CIFAR-10, on ImageNet it has.

    Arguments:
        shape: Of one example, ``(D,)`` or ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        bins, bound: Bins of each spline and half the side of its box.
        couplings, hidden, depth: For vectors: number of couplings; units and hidden layers of each conditioner.
        steps, scales: For images: steps in each scale; scales.
        channels, blocks: For images: channels and residual blocks of each conditioner.
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
        bins: int = 8,
        bound: float = 3.0,
        couplings: int = 10,
        hidden: int = 256,
        depth: int = 2,
        steps: int = 7,
        scales: int = 3,
        channels: int = 96,
        blocks: int = 3,
        alpha: float = 1e-6,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        shape = tuple(shape)
        n_context = class_context(classes, conditional)
        at_least(1, couplings=couplings, hidden=hidden, steps=steps, scales=scales, channels=channels)
        at_least(0, depth=depth, blocks=blocks)
        spline = RationalQuadraticSpline(bins, bound)
        if is_image(shape, "NSF"):
            body = _image_transform(shape, spline, steps, scales, channels, blocks, n_context)
        else:
            body = _vector_transform(shape[0], spline, couplings, hidden, depth, n_context)
        super().__init__(shape, levels, Chain(*to_reals(levels, alpha), body), optimizer, classes=n_context)


def _vector_transform(
    dim: int, spline: RationalQuadraticSpline, couplings: int, hidden: int, depth: int, n_context: int
) -> Transform:
    parts: list[Transform] = [ActNorm(dim)]
    for i in range(couplings):
        split = alternating(dim, parity=i % 2)
        coupling = vector_coupling(*split, spline, hidden=hidden, depth=depth, n_context=n_context)
        parts += [LULinear(dim), coupling]
    return Chain(*parts, LULinear(dim))


def _image_transform(
    shape: Sequence[int], spline: RationalQuadraticSpline, steps: int, scales: int, channels: int, blocks: int,
    n_context: int,
) -> Transform:  # fmt: skip
    def conditioner(n_in: int, n_moved: int) -> ResNet:
        n_out = spline.n_parameters * n_moved
        return ResNet(n_in, n_out, channels=channels, blocks=blocks, n_context=n_context, zero_last=True)

    def step(c: int) -> list[Transform]:
        kept, moved = halves(c, parity=0)
        return [ActNorm(c), Conv1x1(c), Coupling(kept, moved, conditioner(len(kept), len(moved)), spline)]

    def checkerboard_step(h: int, w: int, parity: int) -> list[Transform]:
        return [ActNorm(1), MaskedCoupling(checkerboard_mask(h, w, parity), conditioner(1, 1), spline)]

    def squeezed(of: Sequence[int]) -> Transform:
        c, _, _ = Squeeze().output_shape(of)
        return Chain(Squeeze(), *[part for _ in range(steps) for part in step(c)], Conv1x1(c))

    def unsqueezed(of: Sequence[int]) -> Transform:
        c, h, w = of
        return Chain(*[part for i in range(steps) for part in (checkerboard_step(h, w, i % 2) if c == 1 else step(c))])

    levels = [squeezed] * min(scales, halvings(shape))
    return pyramid(shape, levels or [unsqueezed])
