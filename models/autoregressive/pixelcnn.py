"""PixelCNN: an autoregressive model of images by masked convolutions."""

from collections.abc import Iterable

from torch import Tensor

from ..base import OptimizerFactory
from ..entries import entries
from ..nn.pixelcnn import PixelCNNNetwork
from ..options import at_least
from .base import Autoregressive, Emit, image_shape

__all__ = ["PixelCNN"]


class PixelCNN(Autoregressive):
    """PixelCNN with residual blocks: pixels row after row, the channels of a pixel one after another.

    Van den Oord, Kalchbrenner, Kavukcuoglu 2016, Pixel recurrent neural networks, arXiv:1601.06759; the network is
    :class:`~models.nn.pixelcnn.PixelCNNNetwork`. The likelihood is exact. Sampling computes every pixel of every layer
    once.

    Arguments:
        shape: Of one example, ``(C, H, W)``.
        levels: Number of integer levels, or None for real-valued data, whose conditionals are normal.
        optimizer: Makes the optimizer from the parameters.
        channels: Features inside a residual block; between blocks there are twice as many.
        blocks: Number of residual blocks.
        head: Features of the head.
        first_kernel, kernel: Sizes of the kernels, odd.
        output: For more than two levels, a name of ``models.entries``. Two levels are Bernoulli.
        components: Of the output ``mixture``.

    Raises:
        ValueError: The examples are not images, a number is out of range, or there is no output of this name.
    """

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: OptimizerFactory,
        *,
        channels: int = 16,
        blocks: int = 15,
        head: int = 32,
        first_kernel: int = 7,
        kernel: int = 3,
        output: str = "categorical",
        components: int = 5,
    ) -> None:
        shape = image_shape(shape, "PixelCNN")
        at_least(1, channels=channels, head=head)
        at_least(0, blocks=blocks)
        read = entries(output, levels, components)
        super().__init__(shape, levels, optimizer, read)
        self.network = PixelCNNNetwork(
            shape[0],
            read.n_parameters,
            channels=channels,
            blocks=blocks,
            head=head,
            first_kernel=first_kernel,
            kernel=kernel,
        )

    def outputs(self, seen: Tensor, context: Tensor | None) -> Tensor:
        made: Tensor = self.network(seen)
        return made

    def generate(self, emit: Emit, batch: int, context: Tensor | None) -> None:
        self.network.generate(emit, batch, *self.shape[1:])
