"""The gated PixelCNN: two stacks without a blind spot."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from ..base import OptimizerFactory
from ..entries import entries
from ..nn.gated_pixelcnn import GatedPixelCNNNetwork
from ..options import at_least, class_context
from .base import Autoregressive, Emit, image_shape

__all__ = ["GatedPixelCNN"]


class GatedPixelCNN(Autoregressive):
    """Gated PixelCNN: pixels row after row, the channels of a pixel one after another.

    Van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu 2016, Conditional image generation with PixelCNN
    decoders, arXiv:1606.05328; the network is :class:`~models.nn.gated_pixelcnn.GatedPixelCNNNetwork`. The likelihood
    is exact. Sampling computes every pixel of every layer once.

    Differs from the paper: an ELU and one 1x1 convolution make the outputs; kernels may be dilated.

    Arguments:
        shape: Of one example, ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data, whose conditionals are normal.
        optimizer: Makes the optimizer from the parameters.
        channels: Features of each stack.
        dilations: Of each layer after the first.
        first_kernel, kernel: Sizes of the kernels, odd.
        output: For more than two levels, a name of ``models.entries``. Two levels are Bernoulli.
        components: Of the output ``mixture``.
        classes, conditional: With ``conditional`` the model is one of p(x|y), mixed over the data's ``classes``.

    Raises:
        ValueError: The examples are not images, a number is out of range, there is no output of this name, or the data
            have no classes to condition on.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        channels: int = 64,
        dilations: Sequence[int] = (1, 2, 1, 4, 1, 2, 1),
        first_kernel: int = 3,
        kernel: int = 3,
        output: str = "categorical",
        components: int = 5,
        classes: int | None = None,
        conditional: bool = False,
    ) -> None:
        shape = image_shape(shape, "GatedPixelCNN")
        n_context = class_context(classes, conditional)
        at_least(1, channels=channels, **{f"dilations[{i}]": dilation for i, dilation in enumerate(dilations)})
        read = entries(output, levels, components)
        super().__init__(shape, levels, optimizer, read, classes=n_context)
        self.network = GatedPixelCNNNetwork(
            shape[0],
            read.n_parameters,
            channels=channels,
            dilations=dilations,
            first_kernel=first_kernel,
            kernel=kernel,
            n_context=n_context,
        )

    def outputs(self, seen: Tensor, context: Tensor | None) -> Tensor:
        made: Tensor = self.network(seen, context)
        return made

    def generate(self, emit: Emit, batch: int, context: Tensor | None) -> None:
        _, height, width = self.shape
        self.network.generate(emit, batch, height, width, context)
