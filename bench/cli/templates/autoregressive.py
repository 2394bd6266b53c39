r"""An autoregressive model: each entry given those before it, by one masked network.

.. math:: \log p(x) = \sum_i \log p(x_i \mid x_1, .., x_{i-1})

References:
    Germain, Gregor, Murray, Larochelle (2015): MADE: Masked autoencoder for distribution estimation. arXiv:1502.03509.
    Salimans, Karpathy, Chen, Kingma (2017): PixelCNN++ (the discretized logistic). arXiv:1701.05517.

To make it yours, change the network, whose outputs i may depend on the inputs before i alone, or the distribution of
an entry in ``_conditionals``.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from models.base import Batch, GenerativeModel, HasLikelihood, Relation
from models.distributions import Distribution, output_distribution, parameters_per_entry, to_symmetric
from models.nn.made import MADE

__all__ = ["Mine"]


class Mine(GenerativeModel, HasLikelihood):
    """A masked network over the entries in their order, row after row for images.

    An entry's distribution follows from ``levels``: Bernoulli for 2, a discretized logistic for more, a normal for
    reals. The network sees integers on [-1, 1]. Sampling takes one small step for each entry.

    Arguments:
        shape: Of one example.
        levels: Number of integer levels, or None for real-valued data.
        optimizer: Makes the optimizer from the parameters.
        hidden, depth: Units and hidden layers of the network. With fewer units than entries it misses dependences.

    Raises:
        ValueError: A number is out of range.
    """

    family = "autoregressive"

    def __init__(
        self,
        shape: Iterable[int],
        levels: int | None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        hidden: int = 1024,
        depth: int = 1,
    ) -> None:
        super().__init__(shape, levels)
        self.make_optimizer = optimizer
        self.network = MADE(self.dim, parameters_per_entry(levels), hidden=hidden, depth=depth)

    @property
    def relation(self) -> Relation:
        return "exact"

    def log_weight(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """log p(x), ``(B, *shape) -> (B,)`` nats."""
        seen = to_symmetric(x, self.levels, next(self.parameters()).dtype).flatten(1)
        return self._conditionals(self.network(seen)).log_prob(x.flatten(1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """-log p(x): bits/dim for integer data, nats an example for reals."""
        loss = -self.log_weight(batch[0]).mean()
        return loss if self.levels is None else loss / (self.dim * math.log(2))

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    @torch.no_grad()
    def sample(self, n: int, *, temperature: float = 1.0, generator: Generator | None = None) -> Tensor:
        """Entry after entry. Temperature changes nothing: what is drawn is the entries themselves, not latent noise."""
        drawn: list[Tensor] = []

        def emit(i: int, outputs: Tensor) -> Tensor:  # (n, P) to what the network sees of entry i, (n,)
            drawn.append(self._conditionals(outputs[:, :, None]).sample(generator)[:, 0])
            return to_symmetric(drawn[-1], self.levels, outputs.dtype)

        self.network.generate(emit, n)
        return torch.stack(drawn, 1).to(self.data_dtype).unflatten(1, self.shape)

    def _conditionals(self, outputs: Tensor) -> Distribution:
        """``(B, P, k)`` outputs of the network to the distributions of those k entries, ``(B, k)``."""
        return output_distribution(outputs, self.levels)
